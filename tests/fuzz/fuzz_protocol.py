"""Five minutes of coverage-guided fuzzing of one decoder, run by hand: `python tests/fuzz/fuzz_protocol.py twilio`.

Needs atheris (pip install atheris). An input is cut into messages, the recorded ones among them, so that the fuzzer
need not invent a whole call; a decoder that raises anything but Fault stops the run.

Options after the name are libFuzzer's, such as -max_total_time=60; the last line tells how many inputs there were.
"""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["streams.protocols", "json"]):
    from streams.protocols.audiohook import AudioHookDecoder
    from streams.protocols.base import Audio, Began, Decoder, Ended, Fault
    from streams.protocols.twilio import TwilioDecoder

DATA = Path(__file__).parents[1] / "data"
DECODERS: dict[str, tuple[Callable[[], Decoder], str]] = {
    "twilio": (TwilioDecoder, "twilio-two-tracks.jsonl"),
    "audiohook": (AudioHookDecoder, "audiohook-session.jsonl"),
}


def recorded(name: str) -> list[bytes | str]:
    """The messages of a recorded connection."""
    lines = (DATA / name).read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    return [
        base64.b64decode(one["binary"]) if "binary" in one else line for one, line in zip(parsed, lines, strict=True)
    ]


def changed(message: bytes | str, source: atheris.FuzzedDataProvider) -> bytes | str:
    """A message with some of its characters replaced."""
    at = source.ConsumeIntInRange(0, len(message))
    width = source.ConsumeIntInRange(0, 40)
    if isinstance(message, bytes):
        return message[:at] + source.ConsumeBytes(20) + message[at + width :]
    return message[:at] + source.ConsumeUnicode(20) + message[at + width :]


def with_another_field(message: bytes | str, source: atheris.FuzzedDataProvider) -> bytes | str:
    """A JSON message in which one value, at any depth, is another one or gone."""
    if isinstance(message, bytes):
        return message
    data = place = json.loads(message)
    while True:
        key = source.PickValueInList(sorted(place) if isinstance(place, dict) else list(range(len(place))))
        if isinstance(place[key], dict | list) and place[key] and source.ConsumeBool():
            place = place[key]
            continue
        values = [None, True, source.ConsumeInt(8), source.ConsumeFloat(), source.ConsumeUnicode(20), [], {}, [key]]
        choice = source.ConsumeIntInRange(0, len(values))
        if choice < len(values):
            place[key] = values[choice]
        else:
            del place[key]
        return json.dumps(data)


def main() -> None:
    make, name = DECODERS[sys.argv.pop(1)]
    messages = recorded(name)

    def one_input(data: bytes) -> None:
        source = atheris.FuzzedDataProvider(data)
        decoder = make()
        seen: list[object] = []
        at = 0
        over = False
        while source.remaining_bytes() > 0 and len(seen) < 1_000:
            choice = source.ConsumeIntInRange(0, 9)
            if choice <= 3:
                message, at = messages[at % len(messages)], at + 1
            elif choice == 4:
                message = source.PickValueInList(messages)
            elif choice == 5:
                message, at = changed(messages[at % len(messages)], source), at + 1
            elif choice <= 7:
                message, at = with_another_field(messages[at % len(messages)], source), at + 1
            elif choice == 8:
                message = source.ConsumeUnicode(source.ConsumeIntInRange(0, 400))
            else:
                message = source.ConsumeBytes(source.ConsumeIntInRange(0, 400))
            try:
                events = list(decoder.receive(message))
                assert not (over and events)
            except Fault as fault:
                assert not over
                over = True
                events = list(fault.before)
            seen += events
            decoder.outbox.clear()
        kinds = [type(event) for event in seen]
        assert kinds.count(Began) == (kinds[:1] == [Began])
        assert kinds.count(Ended) == (kinds[-1:] == [Ended])
        assert all(event.samples and event.at_ms is not None for event in seen if isinstance(event, Audio))

    options = [sys.argv[0], *(sys.argv[1:] or ["-max_total_time=300"]), "-max_len=4096", "-print_final_stats=1"]
    atheris.Setup(options, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
