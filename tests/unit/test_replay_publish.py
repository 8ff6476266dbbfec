"""Old calls in the order and at the places in which they are shown, orders to that, and what a subscriber is told."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from schemas.errors import CalltideError
from schemas.events import CallEvent, encode
from schemas.replayed import BEFORE, REPLAY, ReplayPosition
from streams.cli import app
from streams.replay.control import command
from streams.replay.publish import IDLE_MS, Event, Line, length_s
from streams.replayed import SILENT_S, Replayed, Replays
from streams.subscriptions import Record, Subscription
from tests.scripted import EPOCH, call, ended, score, started

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def event(name: str, at_ms: int) -> Event:
    return Event(1_700_000_000_000 + at_ms, name.encode(), [], b"%d" % at_ms)


def test_a_place_is_the_time_since_the_first_event_without_what_lies_between_calls() -> None:
    hour = 3_600_000
    line = Line([event("a", 0), event("b", 5_000), event("a", 60_000), event("b", 61_000), event("c", hour)])
    assert line.places == [0, 5_000, 60_000, 61_000, 61_000 + IDLE_MS]
    assert line.length_ms == 61_000 + IDLE_MS
    assert Line([event("a", 0), event("b", 500)]).places == [0, 500], "a short silence stays as it was"


def test_the_calls_that_run_at_a_place_are_known_from_their_beginnings() -> None:
    events = [event("a", 0), event("b", 1_000), event("a", 2_000), event("b", 3_000), event("b", 4_000)]
    line = Line(events)
    assert line.so_far(line.at(0)) == []
    assert line.so_far(line.at(1_500)) == events[:2]
    assert line.so_far(line.at(3_500)) == [events[1], events[3]], "call a is over"
    assert line.at(3_000) == 3, "what is at the place is still to come"
    assert line.until(3_000) == 4


def test_about_how_long_calls_are_shown() -> None:
    class Of:
        def __init__(self, start_s: float, duration_s: float) -> None:
            self.started_at = EPOCH + timedelta(seconds=start_s)
            self.duration_ms = round(duration_s * 1_000)

    assert length_s([Of(10, 60), Of(0, 20), Of(3_600, 30)]) == 70 + 2 + 30  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("typed", "verb", "value"),
    [
        (("pause", None), "pause", 0.0),
        (("seek", "90s"), "seek", 90_000.0),
        (("seek", "1.5m"), "seek", 90_000.0),
        (("seek", "45"), "seek", 45_000.0),
        (("seek", "+30s"), "skip", 30_000.0),
        (("seek", "-30s"), "skip", -30_000.0),
        (("speed", "2"), "speed", 2.0),
    ],
)
def test_orders_as_they_are_typed(typed: tuple[str, str | None], verb: str, value: float) -> None:
    order = command(*typed)
    assert (order.verb, order.value) == (verb, value)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("rewind", None), "no order 'rewind'; there are pause, resume, seek, speed, stop, status"),
        (("seek", None), "seek to where"),
        (("seek", "half"), "seek to where"),
        (("speed", None), "speed: give times real time from 0.01 to 1000"),
        (("speed", "max"), "speed max: give times real time"),
        (("speed", "nan"), "speed nan: give times real time"),
        (("pause", "5s"), "pause takes nothing more"),
    ],
)
def test_orders_that_are_none_are_said(typed: tuple[str, str | None], words: str) -> None:
    with pytest.raises(CalltideError, match=words):
        command(*typed)


def position(place_ms: int, *, reset: bool = False, state: str = "playing", name: str = "demo") -> ReplayPosition:
    fields = {"replay": name, "begun_at": NOW, "state": state, "position_ms": place_ms, "of_ms": 60_000}
    return ReplayPosition.model_validate(fields | {"speed": 1.0, "reset": reset})


def sent(what: CallEvent | ReplayPosition, at: float = NOW.timestamp(), name: str = "demo") -> Replayed:
    if isinstance(what, CallEvent):
        return Replayed.of({REPLAY: name.encode()}, at, Record(0, 0, what, encode(what)[1].decode()))
    return Replayed.of({REPLAY: name.encode()}, at, what)


def wanted(**fields: str) -> Subscription:
    return Subscription.parse({name: [value] for name, value in fields.items()}, "scores", 3)


def kinds(texts: list[str]) -> list[str]:
    return [json.loads(text)["type"] for text in texts]


def test_who_comes_later_sees_the_running_calls_since_the_last_jump() -> None:
    one, other = call("one"), call("other")
    replays = Replays()
    for what in (position(0, reset=True), started(one), score(one), position(5_000)):
        replays.add(sent(what))
    replays.add(sent(position(0, reset=True, name="second"), name="second"))
    texts = replays.so_far(wanted(replay="demo"), NOW)
    assert kinds(texts) == ["replay_position", "call_started", "score"]
    told = json.loads(texts[0])
    assert (told["position_ms"], told["reset"], told["replay"]) == (5_000, True, "demo")
    assert all(json.loads(text)["history"] for text in texts[1:])
    assert len(replays.so_far(wanted(replay="*"), NOW)) == 4
    assert kinds(replays.so_far(wanted(replay="*", call="other"), NOW)) == ["replay_position"] * 2
    for what in (position(1_000, reset=True), started(other)):
        replays.add(sent(what))
    assert "other" in replays.so_far(wanted(replay="demo"), NOW)[1]
    assert len(replays.so_far(wanted(replay="demo"), NOW)) == 2, "what a jump leaves behind is forgotten"
    replays.add(sent(ended(other)))
    replays.add(sent(position(60_000, state="ended")))
    assert replays.so_far(wanted(replay="demo"), NOW) == []


def test_a_replay_that_was_killed_is_not_told_of() -> None:
    replays = Replays()
    replays.add(sent(position(0, reset=True), NOW.timestamp() - SILENT_S - 1))
    assert replays.so_far(wanted(replay="demo"), NOW) == []


def test_an_event_of_a_replay_has_its_name_and_no_cursor() -> None:
    said = score(call("one"))
    told = json.loads(sent(said).text(NOW))
    assert list(told) == ["type", "replay", "pushed_at", "event"]
    assert (told["replay"], told["event"]) == ("demo", json.loads(encode(said)[1]))
    record = Record(0, 0, said, encode(said)[1].decode())
    assert json.loads(Replayed.of({REPLAY: b'a"b', BEFORE: b"1"}, 0.0, record).text(NOW))["replay"] == 'a"b'
    assert json.loads(Replayed.of({REPLAY: b"a", BEFORE: b"1"}, 0.0, record).text(NOW))["history"] is True


def test_replays_are_for_who_asks() -> None:
    said = sent(score(call("one")))
    assert said.wanted(wanted(replay="demo"))
    assert said.wanted(wanted(replay="*"))
    assert not said.wanted(wanted())
    assert not said.wanted(wanted(replay="other"))
    assert not said.wanted(wanted(replay="demo", call="two"))
    assert sent(position(0)).wanted(wanted(replay="demo", call="two"))
    assert wanted(replay="demo").describe()["replay"] == ["demo"]


def test_who_sees_one_tenant_is_told_only_of_replays_with_calls_of_it() -> None:
    replays = Replays()
    bound = wanted(replay="*", tenant="acme")

    def tells(what: CallEvent | ReplayPosition) -> bool:
        one = sent(what)
        return one.wanted(bound, replays.add(one))

    assert not tells(position(0, reset=True))
    assert not tells(started(call("theirs", tenant="beta")))
    assert not tells(position(1_000))
    assert replays.so_far(bound, NOW) == []
    assert tells(started(call("own", tenant="acme")))
    assert tells(position(2_000))
    assert tells(position(0, reset=True)), "after a jump, too"
    assert kinds(replays.so_far(bound, NOW)) == ["replay_position"]
    assert tells(position(60_000, state="ended"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"replay": ""}, "replay names one"),
        ({"replay": "demo", "from": "scores~0:1,1:1,2:1"}, "a replay has no cursors; send history=live"),
    ],
)
def test_subscriptions_to_replays_that_cannot_be_are_said(fields: dict[str, str], words: str) -> None:
    with pytest.raises(CalltideError, match=words):
        wanted(**fields)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--publish", "--speed", "max"), "--publish shows calls at a pace: give --speed 1"),
        (("--publish", "--from-stage", "asr"), "--from-stage hears the calls anew: give --version NAME, too"),
        (("--publish", "--set", "asr.beam_size=1"), "--set hears the calls anew"),
        (("--publish", "--version", "x", "--to-stage", "asr"), "--publish shows scores, which come out of sentiment"),
    ],
)
def test_what_does_not_go_with_publish_is_said(arguments: tuple[str, ...], expected: str) -> None:
    with pytest.raises(CalltideError, match=expected):
        app(["replay", "--all", *arguments], standalone_mode=False)
