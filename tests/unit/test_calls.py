"""Calls of a process: what is known of them outlives it, in a journal that does not grow for ever."""

from pathlib import Path
from typing import Any

import pytest

from streams.ingestion import calls as module
from streams.ingestion.calls import Calls
from streams.ingestion.line import Leg
from streams.ingestion.routes import ROUTES
from streams.protocols.base import Audio, Began, Ended
from streams.settings import Serve

NOW = 1_700_000_000_000
TWILIO = ROUTES["/twilio"]


class Nowhere:
    """Takes records and keeps none."""

    def to(self, _ring: object) -> Any:
        return lambda _record: None


def of(journal: Path, now_ms: int = NOW) -> Calls:
    return Calls(Serve(), 100, Nowhere(), journal, now_ms)  # type: ignore[arg-type]


def began(name: str) -> Began:
    return Began(name, ("customer",), "mulaw", 8_000)


def spoken(calls: Calls, name: str, now_ms: int = NOW) -> Leg:
    """A call with a second of sound in it."""
    leg, _ = calls.join(began(name), TWILIO, "", now_ms)
    leg.take([Audio(0, b"\xff" * 8_000, 0)], now_ms)
    return leg


def test_a_journal_does_not_grow_for_ever_and_knows_the_latest_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 20)
    journal = tmp_path / "run" / "serve.calls"
    calls = of(journal)
    spoken(calls, "long")
    for number in range(1_000):
        leg, call = calls.join(began(f"call-{number}"), TWILIO, "", NOW + number)
        leg.take([Audio(0, b"\xff" * 8_000, 0), Ended()], NOW + number)
        calls.forget_ended(call)
    assert sum(len(path.read_text().splitlines()) for path in journal.parent.iterdir()) <= 2 * (2 * 20 + 1)
    # The process is killed: what is in the files is all that is known.
    for wanted in ("long", *(f"call-{number}" for number in range(980, 1_000))):
        (leg, call) = of(journal, NOW + 5_000).join(began(wanted), TWILIO, "", NOW + 5_000)
        assert call.started_ms < NOW + 5_000, wanted
    _, call = of(journal, NOW + 5_000).join(began("call-7"), TWILIO, "", NOW + 5_000)
    assert call.started_ms == NOW + 5_000, "long forgotten"


def test_a_day_later_a_name_is_another_call(tmp_path: Path) -> None:
    spoken(of(tmp_path / "serve.calls"), "a")
    later = NOW + module.REMEMBERED_MS
    _, call = of(tmp_path / "serve.calls", later).join(began("a"), TWILIO, "", later)
    assert call.started_ms == later


def test_what_a_killed_process_left_half_written_is_passed_over(tmp_path: Path) -> None:
    journal = tmp_path / "serve.calls"
    spoken(of(journal), "a")
    journal.write_text(journal.read_text() + '["twilio", "", "b", 17')
    calls = of(journal, NOW + 1_000)
    assert calls.join(began("a"), TWILIO, "", NOW + 1_000)[1].started_ms == NOW
    assert calls.join(began("b"), TWILIO, "", NOW + 1_000)[1].started_ms == NOW + 1_000
