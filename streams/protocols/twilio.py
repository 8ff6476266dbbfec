"""Twilio Media Streams: the JSON messages that `<Stream>` sends to a websocket.

Order on the connection: `connected`, `start`, then `media`, `dtmf` and `mark`, then `stop`. A changer must know: where
audio belongs is told by `media.timestamp` alone, so a message that comes twice or late is audio that comes twice or
late, and whoever counts that does so for all protocols; `sequenceNumber` is not looked at.

Source: twilio.com/docs/voice/media-streams/websocket-messages, 2026-11.
"""

import binascii
from collections.abc import Sequence
from typing import Any, Final, cast, get_args

from schemas.events import Role
from streams.protocols.base import Audio, Began, Dtmf, Ended, Event, Fault, Mark
from streams.protocols.messages import member, name, parse

RATE: Final = 8_000
LONGEST_MS: Final = 24 * 3_600_000
"""Twilio ends a call after 24 hours, so no timestamp is later."""
ROLES: Final[dict[str, Role]] = {"inbound": "customer", "outbound": "agent"}
"""Whom a track carries unless a custom parameter of its name says otherwise, and the order of the tracks' channels:
always this one, so that a second stream of the same call has the same channels as the first."""
DIGITS: Final = frozenset("0123456789*#ABCD")
GIVEN: Final = frozenset({*ROLES, "tenant", "queue", "agent"})
"""Custom parameters that have a place of their own; all others become the call's metadata."""


class TwilioDecoder:
    """One stream. The call is named by its call SID; the name of the stream and the account are in the metadata.

    Custom parameters `inbound` and `outbound` (agent, customer or unknown), `tenant`, `queue` and `agent` say what they
    name; all others become metadata. Messages of kinds that are not documented are skipped: kinds are added to the
    protocol without a new version.
    """

    def __init__(self) -> None:
        self.outbox: list[bytes | str] = []
        self.finished = False
        self._stream = ""
        self._channels: dict[str, int] = {}

    def receive(self, message: bytes | str) -> Sequence[Event]:
        """The events of one message; none of what comes after `stop`. Raises Fault, after which nothing is read."""
        if self.finished:
            return ()
        try:
            return self._events(message)
        except Fault:
            self.finished = True
            raise

    def lost(self) -> Sequence[Event]:
        """Nothing: another stream of the same call may follow."""
        return ()

    def _events(self, message: bytes | str) -> Sequence[Event]:
        if isinstance(message, bytes):
            raise Fault("binary message; Twilio sends text", "binary", 1003)
        data = parse(message)
        kind = data.get("event")
        if not isinstance(kind, str):
            raise Fault("message without an event", "malformed")
        if kind == "start":
            return self._start(data)
        if kind not in ("media", "dtmf", "mark", "stop"):
            return ()
        if not self._channels:
            raise Fault(f"{kind} before start", "early")
        if data.get("streamSid") != self._stream:
            raise Fault(f"{kind} of another stream than the one that started here", "other_stream")
        if kind == "media":
            return self._media(member(data, "media"))
        if kind == "dtmf":
            return self._dtmf(member(data, "dtmf"))
        if kind == "mark":
            return (Mark(name(member(data, "mark"), "name")),)
        self.finished = True
        return (Ended(),)

    def _start(self, data: dict[str, Any]) -> Sequence[Event]:
        if self._channels:
            raise Fault("start twice on one connection", "twice")
        start = member(data, "start")
        media = start.get("mediaFormat")
        if media != {"encoding": "audio/x-mulaw", "sampleRate": RATE, "channels": 1}:
            raise Fault("media format other than audio/x-mulaw, 8000 Hz, 1 channel", "media_format")
        sent = start.get("tracks")
        tracks = [track for track in ROLES if isinstance(sent, list) and track in sent]
        if not isinstance(sent, list) or not tracks or len(tracks) != len(sent):
            raise Fault("tracks that are not inbound, outbound or both", "tracks")
        custom = start.get("customParameters") or {}
        if not isinstance(custom, dict) or not all(isinstance(value, str) for value in custom.values()):
            raise Fault("custom parameters that are not texts", "malformed")
        roles = [custom.get(track, ROLES[track]) for track in tracks]
        if not set(roles) <= set(get_args(Role)):
            raise Fault(f"custom parameter with the role {roles}; send one of {', '.join(get_args(Role))}", "role")
        began = Began(
            name(start, "callSid"),
            tuple(cast(Role, role) for role in roles),
            "mulaw",
            RATE,
            tenant=custom.get("tenant", ""),
            queue=custom.get("queue", ""),
            agent=custom.get("agent", ""),
            metadata={
                **{key: value for key, value in custom.items() if key not in GIVEN},
                "account": name(start, "accountSid"),
                "stream": name(start, "streamSid"),
            },
        )
        self._stream = began.metadata["stream"]
        self._channels = {track: channel for channel, track in enumerate(tracks)}
        return (began,)

    def _media(self, media: dict[str, Any]) -> Sequence[Event]:
        track, at, payload = media.get("track"), media.get("timestamp"), media.get("payload")
        channel = self._channels.get(track) if isinstance(track, str) else None
        if channel is None:
            raise Fault("media of a track that start did not name", "tracks")
        # Nine digits are more than a day of milliseconds, and int() of a long text takes long.
        if not (isinstance(at, str) and at.isascii() and at.isdecimal() and len(at) <= 9 and int(at) <= LONGEST_MS):
            raise Fault("media whose timestamp is no number of milliseconds within a day", "timestamp")
        if not isinstance(payload, str):
            raise Fault("media without a payload", "payload")
        try:
            samples = binascii.a2b_base64(payload, strict_mode=True)
        except ValueError as error:
            raise Fault(f"media whose payload is not base64 ({error})", "payload", 1007) from error
        return (Audio(channel, samples, int(at)),) if samples else ()

    def _dtmf(self, dtmf: dict[str, Any]) -> Sequence[Event]:
        digit, track = dtmf.get("digit"), dtmf.get("track")
        if not isinstance(digit, str) or digit not in DIGITS:
            raise Fault("dtmf without a key of a telephone", "dtmf")
        # The track of a key is written inbound_track.
        channel = self._channels.get(track.removesuffix("_track")) if isinstance(track, str) else None
        return (Dtmf(digit, channel),)
