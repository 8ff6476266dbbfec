"""The microphone of a browser: samples as an AudioWorklet gives them, 16 bit, one channel; results as the gateway's.

A changer must know: the browser's side is docs/ingestion-listen.md's script, and a browser cannot set headers: all it
says is in the query.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.events import CallEnded, CallEvent, Correction, Interim, Progress, Role, Score
from streams.protocols.base import Audio, Began, Ended, Event, Fault
from streams.protocols.messages import parse
from streams.protocols.query import Query, refused
from streams.protocols.unfinished import Unfinished

RATE: Final = 16_000
"""What the chain hears at, Hz."""
RATES: Final = (8_000, 96_000)
"""Lowest and highest sample rate, Hz: a browser that cannot convert sends what its sound card has."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the page asks for. `save`: the recording is to be kept."""

    rate: int = RATE
    role: Role = "unknown"
    call_id: str = ""
    queue: str = ""
    agent: str = ""
    save: bool = False


def options(query: str) -> Options:
    """What the query of the handshake asks for. Raises Fault, also for parameters that are not known."""
    asked = Query(query)
    unknown = asked.values.keys() - {"rate", "roles", "call", "queue", "agent", "save", "token"}
    if unknown:
        raise refused(f"There is no parameter {min(unknown)!r}.")
    return Options(
        rate=asked.number("rate", *RATES, default=RATE),
        role=asked.roles(("unknown",))[0],
        call_id=asked.name("call"),
        queue=asked.name("queue"),
        agent=asked.name("agent"),
        save=asked.flag("save"),
    )


class Microphone:
    """One connection. `call_id`: the call's name unless the page gives one.

    The page sends samples, and `{"type": "stop"}` at the end; it is told `started` with the call's name, then each
    event of the call, the words of an unfinished utterance too. `finished` is set once the call's last event was
    `heard`.
    """

    def __init__(self, options: Options, call_id: str) -> None:
        self.options = options
        self.call_id = options.call_id or call_id
        self.outbox: list[bytes | str] = []
        self.finished = False
        self._begun = False
        self._stopped = False
        self._late_bytes = 0
        self._unfinished = Unfinished()
        self._rest = b""
        """The first byte of a sample whose second is in the next message."""

    def receive(self, message: bytes | str) -> Sequence[Event]:
        """What a websocket message means. Raises Fault for text that is not the one message there is."""
        if self.finished:
            return ()
        if isinstance(message, str):
            return self._told(message)
        if self._stopped:
            self._late_bytes += len(message)
            return ()
        data = self._rest + message
        whole = len(data) // 2 * 2
        self._rest = data[whole:]
        if not whole:
            return ()
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            self._answer("started", call=self.call_id)
            asked = self.options
            began = Began(
                self.call_id,
                (asked.role,),
                "pcm_s16le",
                asked.rate,
                queue=asked.queue,
                agent=asked.agent,
                interim=True,
            )
            events.append(began)
        return [*events, Audio(0, data[:whole])]

    def lost(self) -> Sequence[Event]:
        """A call that has no name of the page's cannot be continued."""
        if not self._begun or self._stopped or self.options.call_id:
            return ()
        self._stopped = True
        return (Ended("hangup", "the connection was lost"),)

    def heard(self, event: CallEvent) -> None:
        """Pass on what the chain made of the call. An `Interim`, whose topic is another one, may come at any time."""
        if self.finished:
            return
        if isinstance(event, Progress | CallEnded):
            for gone in self._unfinished.passed(event.at_ms if isinstance(event, Progress) else math.inf):
                # What seemed to be speech was none: there are no words to come.
                self._tell(gone.model_copy(update={"text": "", "words": ()}))
        if isinstance(event, CallEnded):
            self._tell(event, late_bytes=self._late_bytes)
            self.finished = True
        elif isinstance(event, Interim):
            if self._unfinished.is_news(event):
                self._tell(event)
        elif isinstance(event, Score | Correction):
            if isinstance(event, Score):
                self._unfinished.finished(event)
            self._tell(event)

    def _told(self, text: str) -> Sequence[Event]:
        try:
            if parse(text).get("type") != "stop":
                raise Fault('a message that is not {"type": "stop"}', "unknown_message")
        except Fault:
            self.finished = True
            raise
        if self._stopped:
            return ()
        self._stopped = True
        if self._begun:
            return (Ended(),)
        # Without audio there is no call, so no end of it to wait for.
        self.finished = True
        return ()

    def _tell(self, event: CallEvent, **fields: Any) -> None:
        self._answer(event.kind, event=event.model_dump(mode="json"), **fields)

    def _answer(self, kind: str, **fields: Any) -> None:
        self.outbox.append(json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":")))
