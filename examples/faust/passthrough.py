"""The job that compare.py measures, as a Faust application: every record of one topic is written to another."""

import os

import faust

app = faust.App(
    os.environ["APP"],
    broker="kafka://" + os.environ["BOOTSTRAP"],
    processing_guarantee=os.environ["GUARANTEE"],
    web_enabled=False,
)
source = app.topic(os.environ["SOURCE"], key_type=bytes, value_type=bytes, value_serializer="raw")
target = app.topic(os.environ["TARGET"], key_type=bytes, value_type=bytes, value_serializer="raw")


@app.agent(source)
async def pass_through(records: faust.Stream) -> None:
    """Write what is read."""
    async for record in records.events():
        await target.send(key=record.key, value=record.value, headers=record.headers)


if __name__ == "__main__":
    app.main()
