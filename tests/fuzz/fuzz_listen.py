"""Coverage-guided fuzzing of `/v1/listen` and the microphone, run by hand: `python tests/fuzz/fuzz_listen.py listen`.

Needs atheris (pip install atheris). An input is a query and then messages; anything raised but Fault stops the run.
Options after the name are libFuzzer's, such as -max_total_time=60; the last lines tell how many inputs there were.
"""

import sys
from datetime import UTC, datetime

import atheris

with atheris.instrument_imports(include=["streams.protocols", "json", "urllib.parse"]):
    from streams.protocols import listen, microphone
    from streams.protocols.base import Audio, Began, Ended, Fault

NAMES = {
    "listen": (
        *("encoding", "sample_rate", "channels", "multichannel", "language", "punctuate", "diarize", "vad_events"),
        *("utterance_end_ms", "extra", "tag", "call", "queue", "roles", "scores", "interim_results", "callback"),
    ),
    "microphone": ("rate", "roles", "call", "queue", "agent", "save"),
}
VALUES = ("linear16", "mulaw", "alaw", "8000", "16000", "44100", "1", "2", "true", "false", "a:b", "agent,customer")
TEXTS = (
    *('{"type":"KeepAlive"}', '{"type":"Finalize"}', '{"type":"Finalize","channel":1}', '{"type":"Configure"}'),
    *('{"type":"CloseStream"}', '{"type":"stop"}'),
)


def main() -> None:
    protocol = sys.argv.pop(1)

    def decoder(query: str) -> listen.Listen | microphone.Microphone:
        if protocol == "listen":
            return listen.Listen(listen.options(query), "00000000-0000-0000-0000-000000000000", datetime.now(UTC))
        return microphone.Microphone(microphone.options(query), "call-1")

    def one_input(data: bytes) -> None:
        source = atheris.FuzzedDataProvider(data)
        query = "encoding=linear16&sample_rate=8000" if protocol == "listen" and source.ConsumeBool() else ""
        for _ in range(source.ConsumeIntInRange(0, 6)):
            name = source.PickValueInList(list(NAMES[protocol])) if source.ConsumeBool() else source.ConsumeUnicode(8)
            value = source.PickValueInList(list(VALUES)) if source.ConsumeBool() else source.ConsumeUnicode(12)
            query += f"&{name}={value}"
        try:
            connection = decoder(query)
        except Fault as fault:
            listen.refusal(400, str(fault), "")[0]["dg-error"].encode("ascii")
            return
        seen: list[object] = []
        while source.remaining_bytes() > 0 and len(seen) < 1_000:
            choice = source.ConsumeIntInRange(0, 9)
            message: bytes | str
            if choice <= 4:
                message = source.ConsumeBytes(source.ConsumeIntInRange(0, 40))
            elif choice <= 7:
                message = source.PickValueInList(list(TEXTS))
                at = source.ConsumeIntInRange(0, len(message))
                if source.ConsumeBool():
                    message = message[:at] + source.ConsumeUnicode(4) + message[at + source.ConsumeIntInRange(0, 9) :]
            else:
                message = source.ConsumeUnicode(source.ConsumeIntInRange(0, 200))
            try:
                seen += connection.receive(message)
            except Fault as fault:
                assert connection.finished
                seen += fault.before
                break
            connection.outbox.clear()
        seen += connection.lost()
        kinds = [type(event) for event in seen]
        assert kinds.count(Began) == (kinds[:1] == [Began])
        assert kinds.count(Ended) == (kinds[-1:] == [Ended])
        assert all(event.samples for event in seen if isinstance(event, Audio))

    atheris.Setup(
        [sys.argv[0], *(sys.argv[1:] or ["-max_total_time=300"]), "-max_len=2048", "-print_final_stats=1"], one_input
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
