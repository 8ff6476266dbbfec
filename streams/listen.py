"""Scores as they come from the gateway: `subscribe` for programs, `View` and `listen` for people at a terminal.

A changer must know: `subscribe` goes on after a lost connection with the cursor of the last message it yielded, so its
caller sees every event once; nothing else may decide where to resume.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.frames import CloseCode

from schemas.errors import CalltideError
from schemas.events import (
    Alert,
    CallEnded,
    CallEvent,
    CallInfo,
    CallMetrics,
    CallStarted,
    Correction,
    Score,
    decode,
)
from streams.analyze import ROLE_STYLE, clock, emotion_name, line, marks
from streams.corrections import Corrections

RETRY_SECONDS: Final = (0.1, 5.0)
"""First and longest pause before connecting again; each is twice the one before."""

KEPT_UTTERANCES: Final = 200
ENDED_SECONDS: Final = 20.0
"""How long an ended call stays in the table."""

WATCHED: Final = "score,correction,call_started,call_ended,metrics,alert"
"""Kinds of events that people at a terminal are shown."""
KEPT_ALERTS: Final = 3

SEVERITY_STYLE: Final = {"info": "cyan", "warning": "yellow", "critical": "bold red"}

REFRESH: Final = 8
"""Redraws a second at most."""


async def subscribe(url: str, key: str = "", **fields: str | Sequence[str]) -> AsyncGenerator[dict[str, Any], None]:
    """Messages of the gateway at `url` (docs/gateway.md), for ever; connects again by itself.

    `key`: an API key or a token, for a gateway that asks. `fields`: call, queue, agent, tenant, kinds, severity,
    history, from (`**{"from": cursor}`). Between two connections it yields `{"type": "disconnected", "reason": …}`
    once. Raises CalltideError when the first connection fails, or the gateway refuses the subscription.
    """
    # With a query the subscription begins at once; without one the gateway would wait for a first message.
    fields = {"kinds": "score,correction,call_started,call_ended", **fields}
    first, longest = RETRY_SECONDS
    connected, pause, refusal = False, first, ""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    proxy: Literal[True] | None = None if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1") else True
    while True:
        try:
            address = f"{url}?{urlencode(fields, doseq=True)}"
            async with connect(
                address, additional_headers=headers, max_size=None, proxy=proxy, close_timeout=1
            ) as connection:
                connected, pause = True, first
                async for text in connection:
                    message = json.loads(text)
                    if message["type"] == "error":
                        refusal = message["message"]
                        continue
                    if "cursor" in message:
                        fields = {name: value for name, value in fields.items() if name != "history"}
                        fields["from"] = message["cursor"]
                    yield message
            reason = connection.close_reason or "the gateway closed the connection"
        except ConnectionClosed as error:
            if error.rcvd and (error.rcvd.code == CloseCode.POLICY_VIOLATION or error.rcvd.code >= 4_400):
                raise CalltideError(refusal or error.rcvd.reason) from None
            reason = error.rcvd.reason if error.rcvd else "the connection broke"
        except (OSError, InvalidHandshake, InvalidURI) as error:
            if not connected:
                raise CalltideError(f"no gateway at {url} ({error}); start it with `calltide up`") from None
            reason = str(error)
        if pause == first:
            yield {"type": "disconnected", "reason": reason}
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)


def latency_s(message: dict[str, Any]) -> float | None:
    """Seconds from the capture of an utterance's last sample to the push of its score; None for other messages.

    What is pushed from history or in a replay is not counted: it was pushed late on purpose.
    """
    if message["type"] != "score" or message.get("history") or "replay" in message:
        return None
    captured = datetime.fromisoformat(message["event"]["captured_at"])
    return (datetime.fromisoformat(message["pushed_at"]) - captured).total_seconds()


def bar(score: float, cells: int = 5) -> Text:
    """A sentiment from −1 to 1 as a bar left (negative) or right (positive) of a middle line."""
    filled = round(abs(score) * cells)
    left, right = (filled, 0) if score < 0 else (0, filled)
    return Text.assemble(
        ("·" * (cells - left), "dim"), ("█" * left, "red"), "│", ("█" * right, "green"), ("·" * (cells - right), "dim")
    )


def _printable(value: Any) -> Any:
    """The same JSON without control characters: a call's name must not command the terminal."""
    if isinstance(value, str):
        return "".join(character if character.isprintable() else " " for character in value)
    if isinstance(value, list):
        return [_printable(one) for one in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(one) for name, one in value.items()}
    return value


def _row(score: Score) -> Text:
    """An utterance for columns: what was said comes last, where it may be cut off."""
    row = Text.assemble(
        (f"{clock(score.start_ms):>7} ", "dim"),
        (f"{score.speaker:<10.10} ", ROLE_STYLE[score.role]),
        style="dim" if "cross_talk" in score.flags else "",
    )
    row.append_text(bar(score.sentiment.score, 3) if score.sentiment else Text(" " * 7))
    row.append(f" {emotion_name(score.emotion) if score.emotion else '':<10} ", "yellow")
    row.append(score.text or f"({', '.join(score.flags) or 'no words'})", "" if score.text else "dim italic")
    if found := marks(score):
        row.append(f"  [{'; '.join(found)}]", "dim")
    return row


def _told(correction: Correction) -> Text:
    """A correction in words."""
    told = [f"{correction.speaker} is {correction.same_as}"] if correction.same_as else []
    if correction.role != "unknown" or not told:
        sure = f", {correction.role_confidence:.0%} sure" if correction.role_confidence is not None else ""
        known = f"the {correction.role}{sure}" if correction.role != "unknown" else "of an unknown role again"
        told.append(f"{correction.same_as or correction.speaker} is {known}")
    return Text(f"-- {'; '.join(told)}", style="bold")


def _figures(metrics: CallMetrics) -> Text:
    """A call in one line: who talked how much, interruptions, silences."""
    shares = ", ".join(f"{party.speaker} {party.talk_share:.0%}" for party in metrics.parties) or "nobody"
    counts = [("silence of 5 s and more", "silences of 5 s and more", metrics.silences)]
    if metrics.interruptions is not None:
        cuts = sum(party.interruptions or 0 for party in metrics.parties)
        counts.insert(0, ("interruption", "interruptions", cuts))
    return Text(f"talk: {shares}" + "".join(f"; {n} {one if n == 1 else many}" for one, many, n in counts))


def _alert(event: Alert) -> Text:
    return Text(f"{event.severity}: {event.message}", SEVERITY_STYLE[event.severity])


def _share(metrics: CallMetrics | None) -> str:
    """How much of the talk is the agent's, where it is known who that is."""
    agents = [party for party in metrics.parties if party.role == "agent"] if metrics else []
    return f"agent {sum(party.talk_share for party in agents):.0%}" if agents else ""


@dataclass(slots=True)
class _Call:
    call: CallInfo
    metrics: CallMetrics | None = None
    corrections: Corrections = field(default_factory=Corrections)
    last: Score | None = None
    said: dict[str, Score] = field(default_factory=dict)
    """What each speaker said last."""
    duration_ms: int = 0
    ended: float | None = None

    @property
    def customer(self) -> Score | None:
        """What was said last by one who is not the agent, as far as is known by now."""
        known = map(self.corrections.apply, self.said.values())
        return max((score for score in known if score.role != "agent"), key=lambda score: score.start_ms, default=None)


class View:
    """What is said now, for people: a live picture at a terminal, one line an event where there is none.

    Use as a context manager and `add` each message.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._calls: dict[str, _Call] = {}
        # As heard, with what becomes known of its call: that outlives the call's place in the table.
        self._scores: deque[tuple[Corrections, Score]] = deque(maxlen=KEPT_UTTERANCES)
        self._alerts: deque[Alert] = deque(maxlen=KEPT_ALERTS)
        self._raised: set[tuple[str, str, int]] = set()
        """Alerts that were shown: after a lost connection those of running calls come again."""
        self._replayed: dict[str, set[str]] = {}
        """Replay → calls of it."""
        self._replay_states: dict[str, str] = {}
        self._state = ""
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=REFRESH, screen=False)
        self._is_live = console.is_terminal

    def __enter__(self) -> "View":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def add(self, message: dict[str, Any]) -> None:
        """Take one message of `subscribe`."""
        kind = message["type"]
        if "event" in message:
            event = decode({"kind": kind.encode()}, json.dumps(_printable(message["event"])).encode())
            with self._lock:
                self._add_event(event)
                if "replay" in message:
                    self._replayed.setdefault(message["replay"], set()).add(event.call.call_id)
        elif kind == "hello":
            self._tell("" if message["kafka"] == "ok" else "Kafka does not answer; events come when it does")
        elif kind == "disconnected":
            self._tell(f"connection lost ({message['reason']}), connecting again")
        elif kind == "replay_position":
            self._move(message)
        elif kind in ("status", "gap"):
            self._tell("" if message.get("kafka") == "ok" else message["message"])
        if skipped := message.get("skipped"):
            self._tell(f"{skipped} events were skipped: this terminal was too slow")

    def _move(self, message: dict[str, Any]) -> None:
        """Where a replay is; after a jump all of it comes anew."""
        name, state = message["replay"], message["state"]
        if message["reset"]:
            with self._lock:
                gone = self._replayed.pop(name, set())
                self._calls = {call: known for call, known in self._calls.items() if call not in gone}
                kept = (pair for pair in self._scores if pair[1].call.call_id not in gone)
                self._scores = deque(kept, self._scores.maxlen)
        at, of = (clock(message[key]).rpartition(".")[0] for key in ("position_ms", "of_ms"))
        said = f"replay {_printable(name)} {state} at {at} of {of}"
        if not self._is_live and (message["reset"] or state != self._replay_states.get(name)):
            self._console.print(Text(f"-- {said}", style="yellow"), soft_wrap=True)
        self._replay_states[name] = state
        if self._is_live:
            self._state = said

    def _tell(self, state: str) -> None:
        if state and state != self._state and not self._is_live:
            self._console.print(Text(f"-- {state}", style="yellow"), soft_wrap=True)
        self._state = state

    def _add_event(self, event: CallEvent) -> None:
        state = self._calls.setdefault(event.call.call_id, _Call(event.call))
        said: Text | None = None
        if isinstance(event, Score):
            state.last = event
            state.duration_ms = max(state.duration_ms, event.end_ms)
            state.said[event.speaker] = event
            self._scores.append((state.corrections, event))
            said = line(state.corrections.apply(event))
        elif isinstance(event, Correction):
            state.corrections.add(event)
            said = _told(event)
        elif isinstance(event, CallStarted):
            said = Text(f"-- call begins ({', '.join(event.call.roles)})", style="bold")
        elif isinstance(event, CallMetrics):
            state.metrics = event
            if event.final:
                said = Text.assemble("-- ", _figures(event))
        elif isinstance(event, Alert):
            if (known := (event.call.call_id, event.rule, event.at_ms)) in self._raised:
                return
            self._raised.add(known)
            self._alerts.append(event)
            said = Text.assemble(f"{clock(event.at_ms):>7} ", _alert(event))
        elif isinstance(event, CallEnded):
            state.ended = time.monotonic()
            state.duration_ms = event.duration_ms
            self._forget_ended()
            said = Text(f"-- call ends after {clock(event.duration_ms)} ({event.reason})", style="bold")
        if said and not self._is_live:
            self._console.print(Text.assemble((f"{event.call.call_id}  ", "dim"), said), soft_wrap=True)

    def _forget_ended(self) -> dict[str, _Call]:
        since = time.monotonic() - ENDED_SECONDS
        self._calls = {name: state for name, state in self._calls.items() if state.ended is None or state.ended > since}
        return self._calls

    def _render(self) -> RenderableType:
        """Called by the thread that redraws."""
        with self._lock:
            shown = list(self._forget_ended().values())
            recent = [corrections.apply(score) for corrections, score in self._scores]
            alerts = [Text.assemble((f"{one.call.call_id}  ", "dim"), _alert(one)) for one in self._alerts]
        height = self._console.height
        rows = min(len(shown), max(1, height // 2 - 4))
        recent = recent[-max(3, height - rows - len(alerts) - 7) :]
        width = min(20, max((len(score.call.call_id) for score in recent), default=0))
        said = [Text.assemble((f"{score.call.call_id[-width:]:<{width}} ", "dim"), _row(score)) for score in recent]
        for text in (*alerts, *said):
            text.no_wrap, text.overflow = True, "ellipsis"
        return Group(
            self._table(shown[-rows:], len(shown) - rows) if shown else Text(),
            *alerts,
            *(said or [Text("nothing has been said yet; try: calltide ingest FILE", style="dim")]),
            Text(self._state, style="yellow"),
        )

    def _table(self, calls: Sequence[_Call], more: int) -> Table:
        table = Table(expand=True, pad_edge=False, box=SIMPLE_HEAD, caption=f"and {more} more calls" if more else None)
        table.add_column("call", no_wrap=True, ratio=3)
        table.add_column("agent / queue", no_wrap=True, ratio=2, style="dim")
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("said", justify="right")
        table.add_column("talk", no_wrap=True)
        table.add_column("call so far", no_wrap=True, min_width=11)
        table.add_column("customer now", no_wrap=True, min_width=11)
        table.add_column("sounds", no_wrap=True, min_width=13)
        for state in calls:
            call, last, customer = state.call, state.last, state.customer
            emotion = customer.emotion if customer else None
            table.add_row(
                Text(call.call_id, style="dim" if state.ended else "bold"),
                " / ".join(part for part in (call.agent, call.queue) if part),
                clock(state.duration_ms).rpartition(".")[0] + (" ended" if state.ended else ""),
                str(last.running.utterances if last else 0),
                _share(state.metrics),
                bar(last.running.score) if last else "",
                bar(customer.running.party_score) if customer else "",
                f"{emotion_name(emotion)} {emotion.probabilities[emotion.label]:.0%}" if emotion else "",
            )
        return table


def listen(url: str, console: Console, key: str = "", **fields: str | Sequence[str]) -> None:
    """Show what is said until Ctrl-C, then how much that was. Raises CalltideError as `subscribe`."""
    heard: list[float] = []
    scores = 0

    async def show() -> None:
        nonlocal scores
        with View(console) as view:
            async for message in subscribe(url, key, **({"history": "live", "kinds": WATCHED} | fields)):
                view.add(message)
                scores += message["type"] == "score"
                if (latency := latency_s(message)) is not None:
                    heard.append(latency)

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        pass
    half = f", half of them within {sorted(heard)[len(heard) // 2]:.2f} s" if heard else ""
    console.print(f"{scores} utterances{half}", highlight=False)
