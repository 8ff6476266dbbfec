"""What a protocol's decoder is: the contract between the bytes of a phone system and whatever carries them.

A decoder knows one connection. It is given what the other side sent and returns what that means, as the events below;
what it wants to say back it keeps in `outbox`. It has no socket, clock or thread, so a recorded stream, a made one and
a socket drive it alike. A changer must know: a decoder never raises but `Fault`, whatever it is given, and what it
returned before a fault stays true.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from schemas.audio import Codec
from schemas.events import Role


@dataclass(frozen=True, slots=True)
class Began:
    """A call is there. `call_id`: the phone system's own name for it; the same one again continues the call.

    `roles`: the party on each channel. `rate`: samples a second, whatever the phone system has; ingest resamples what
    is neither 8,000 nor 16,000. `interim`: words are wanted before their utterance is finished.
    """

    call_id: str
    roles: tuple[Role, ...]
    codec: Codec
    rate: int
    tenant: str = ""
    queue: str = ""
    agent: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    interim: bool = False


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples of one channel, in the call's codec.

    `at_ms`: where in the call they begin by the phone system's own count; None: where the last ones of the channel
    ended. What was counted but never came is a gap.
    """

    channel: int
    samples: bytes
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Dtmf:
    """Keys were pressed."""

    digits: str
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """The phone system marks this moment with a name."""

    name: str


@dataclass(frozen=True, slots=True)
class Paused:
    """No audio comes until `Resumed`, and that is meant: the call is on hold, or something is not to be heard."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Audio comes again. `missing_ms`: how long the pause was by the phone system's count; None: it does not say."""

    missing_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The phone system says that the call is over."""

    reason: Literal["hangup", "error"] = "hangup"
    detail: str = ""


Event = Began | Audio | Dtmf | Mark | Paused | Resumed | Ended


class Fault(Exception):
    """The other side broke the protocol, or may not do what it asks for.

    `counted_as`: a word for metrics. `close_code`: of the websocket, where there is one. The answer that the protocol
    wants is in `outbox` already. `before`: what the same message said before the fault, to be taken as if returned.
    """

    def __init__(self, what: str, counted_as: str, close_code: int = 1008, before: Sequence[Event] = ()) -> None:
        super().__init__(what)
        self.counted_as = counted_as
        self.close_code = close_code
        self.before = before


class Decoder(Protocol):
    """One connection of a protocol."""

    outbox: list[bytes | str]
    """What is to be sent to the other side, oldest first: text as str, binary as bytes. Whoever sends it empties it."""
    finished: bool
    """Whether the connection is to be closed once `outbox` is sent."""

    def receive(self, message: bytes | str) -> Sequence[Event]:
        """What a message means: of a websocket text or binary as it came, of a TCP connection any piece of the stream.

        Raises Fault.
        """
        ...

    def lost(self) -> Sequence[Event]:
        """The connection ended without a goodbye: what is to be concluded from it (nothing, as long as the call may be
        continued by another connection).

        Raises Fault where it ended inside a message.
        """
        ...
