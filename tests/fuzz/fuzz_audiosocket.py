"""Five minutes of coverage-guided fuzzing of AudioSocket's decoder: `python tests/fuzz/fuzz_audiosocket.py`.

Needs atheris (pip install atheris). An input is a stream of bytes and how it is cut; what raises anything but Fault, or
means something else when it is cut otherwise, stops the run. Options are libFuzzer's, such as -max_total_time=60.
"""

import sys
from collections.abc import Sequence

import atheris

with atheris.instrument_imports(include=["streams.protocols"]):
    from streams.protocols.audiosocket import AudioSocket
    from streams.protocols.base import Began, Ended, Event, Fault

FIRST = b"\x01\x00\x10" + bytes(range(16))


def heard(pieces: Sequence[bytes]) -> tuple[list[Event], str]:
    """The events of a whole connection, and the word of the fault that ended it."""
    decoder = AudioSocket()
    events: list[Event] = []
    try:
        for piece in pieces:
            events += decoder.receive(piece)
        events += decoder.lost()
    except Fault as fault:
        return events + list(fault.before), fault.counted_as
    finally:
        assert decoder.finished
    return events, ""


def one_input(data: bytes) -> None:
    """One stream, whole and cut."""
    source = atheris.FuzzedDataProvider(data)
    named = source.ConsumeBool()
    widths = [source.ConsumeIntInRange(1, 50) for _ in range(8)]
    stream = (FIRST if named else b"") + source.ConsumeBytes(source.remaining_bytes())
    pieces: list[bytes] = []
    at = 0
    while at < len(stream):
        width = widths[len(pieces) % len(widths)]
        pieces.append(stream[at : at + width])
        at += width
    whole = heard([stream])
    assert heard(pieces) == whole
    kinds = [type(event) for event in whole[0]]
    assert kinds.count(Began) == (kinds[:1] == [Began])
    assert kinds.count(Ended) == (kinds[-1:] == [Ended])


if __name__ == "__main__":
    options = [sys.argv[0], *(sys.argv[1:] or ["-max_total_time=300"]), "-max_len=4096", "-print_final_stats=1"]
    atheris.Setup(options, one_input)
    atheris.Fuzz()
