"""Which protocol is spoken where: the one table. A new protocol is a decoder in streams/protocols/ and a row here."""

import ipaddress
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from schemas.errors import CalltideError
from schemas.events import CallEvent, Role, Transcript
from streams.protocols import listen, microphone
from streams.protocols.audiohook import AudioHookDecoder
from streams.protocols.audiosocket import AudioSocket
from streams.protocols.base import Decoder, Fault
from streams.protocols.twilio import TwilioDecoder
from streams.settings import Serve


@dataclass(frozen=True, slots=True)
class Request:
    """What a connection began with. `path` and `query` as they came, the names of `headers` in lower case.

    Of a TCP connection there is only `peer`, the other side's address, and `role`, who is heard on it. `id`: the
    connection's own, a UUID.
    """

    peer: str = ""
    path: str = ""
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    languages: Sequence[str] | None = None
    """Codes of those that can be heard; None: any."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    role: Role = "unknown"

    @property
    def fields(self) -> dict[str, str]:
        """The query's parameters, the last of each name."""
        return dict(parse_qsl(self.query))


def _refused(status: int, message: str, _id: str) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "text/plain; charset=utf-8"}, f"{status}: {message}\n".encode()


@dataclass(frozen=True, slots=True)
class Route:
    """One protocol. `make` may raise Fault for a request that asks for what cannot be."""

    name: str
    """As metrics, keys and the calls' `source` have it."""
    make: Callable[[Request], Decoder]
    live: bool
    """Whether audio comes in real time and cannot wait: then silence is by the clock, and what finds no room is lost.
    Else it follows on what came, and whoever sends it faster than it is taken is made to wait."""
    tell: Callable[[Any, CallEvent], object] | None = None
    """Hands the decoder what the chain made of its call."""
    keeps: Callable[[Any], bool] = lambda _decoder: False
    """Whether the connection's audio, 16 bit and one channel, is to be kept as a recording."""
    refused: Callable[[int, str, str], tuple[dict[str, str], bytes]] = _refused
    """(status, why, the request's id) → headers and body of the answer to a handshake that is not granted."""
    granted: Callable[[str], dict[str, str]] = lambda _id: {}
    """The request's id → headers of the answer to a handshake that is."""
    idle: tuple[int, str] = (1008, "nothing came for too long")
    """Close code and reason for who has gone silent."""
    bye: Callable[[Any, Fault], object] | None = None
    """Says goodbye in the protocol's own way, when the connection ends for a reason that is not the decoder's. After
    that, or a Fault, the decoder takes what still comes without another, and is `finished` when it was answered."""


def _audiohook(request: Request) -> Decoder:
    organization, session = (request.headers.get(f"audiohook-{one}-id", "") for one in ("organization", "session"))
    return AudioHookDecoder(organization, session)


def _transcript(decoder: AudioHookDecoder, event: CallEvent) -> None:
    if isinstance(event, Transcript):
        decoder.transcript(event)


def _goodbye(decoder: AudioHookDecoder, fault: Fault) -> None:
    # Who stops, or has heard enough, has made no error: 1000 and 1001 are the websocket's words for it.
    decoder.disconnect(str(fault), "completed" if fault.close_code in (1000, 1001) else "error")


def _listen(request: Request) -> Decoder:
    return listen.Listen(listen.options(request.query, request.languages), request.id, datetime.now(UTC))


def _microphone(request: Request) -> Decoder:
    return microphone.Microphone(microphone.options(request.query), f"microphone-{request.id}")


ROUTES: Final[Mapping[str, Route]] = {
    "/twilio": Route("twilio", lambda _request: TwilioDecoder(), live=True),
    "/audiohook": Route("audiohook", _audiohook, live=True, tell=_transcript, bye=_goodbye),
    "/v1/listen": Route(
        "listen",
        _listen,
        live=False,
        tell=listen.Listen.heard,
        refused=listen.refusal,
        granted=listen.grant,
        idle=listen.IDLE,
    ),
    "/microphone": Route(
        "microphone",
        _microphone,
        live=False,
        tell=microphone.Microphone.heard,
        keeps=lambda decoder: decoder.options.save,
    ),
}
"""Path → protocol, of websockets."""
AUDIOSOCKET: Final = Route("audiosocket", lambda request: AudioSocket(request.role), live=True)
"""On a port of its own."""


def check_open(serve: Serve) -> None:
    """See that no protocol takes calls from other machines without a key unless that is meant.

    Raises CalltideError where one would, and for names in the settings that are no protocol's.
    """
    sources = [route.name for route in ROUTES.values()]
    for setting, names in (("KEYS", serve.keys), ("OPEN", serve.open)):
        if unknown := sorted(set(names) - set(sources)):
            raise CalltideError(
                f"{unknown[0]!r} in CALLTIDE_SERVE__{setting} is no protocol with keys; name {', '.join(sources)}"
            )
    signed = {"twilio"} if serve.twilio_auth_token else set()
    unguarded = [one for one in sources if one not in {*serve.keys, *serve.open, *signed}]
    if unguarded and not _is_loopback(serve.host):
        raise CalltideError(
            f"{', '.join(unguarded)} would take calls from anyone who reaches {serve.host or 'this machine'}; give "
            "each its keys in CALLTIDE_SERVE__KEYS ({} for a protocol that is not used), or, if it is to be open, "
            f"name it in CALLTIDE_SERVE__OPEN='{json.dumps(unguarded)}'"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
