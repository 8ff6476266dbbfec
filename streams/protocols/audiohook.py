"""Genesys AudioHook, version 2: JSON messages in order, and sound as binary messages between `opened` and `close`.

Client: `open`, `ping`, `update`, `paused`, `resumed`, `discarded`, `dtmf`, `playback_started`, `playback_completed`,
`error`, `close`. Here: `opened`, `pong`, `updated`, `closed`, `event`, `disconnect`; never sound. A changer must know:
both sides number their messages from 1 without a gap and tell the last number they have seen, and where sound belongs
is told by counting samples, so one that is lost or invented is a fault of the whole session.

Sources: developer.genesys.cloud/devapps/audiohook, and Genesys' reference implementation for what that leaves open:
L16 is little-endian, a position runs on through a pause, and it is the client that closes: after `disconnect` nothing
counts but its `close`.
"""

import json
import re
import uuid
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from schemas.audio import BYTES_PER_SAMPLE, Codec
from schemas.events import Role, Transcript
from streams.protocols.base import Audio, Began, Dtmf, Ended, Event, Fault, Paused, Resumed
from streams.protocols.messages import LONGEST_MESSAGE, member, name, parse

RATE: Final = 8_000
CODECS: Final[dict[str, Codec]] = {"PCMU": "mulaw", "L16": "pcm_s16le"}
ROLES: Final[dict[str, Role]] = {"external": "customer", "internal": "agent"}
CHANNELS: Final = (["external", "internal"], ["external"], ["internal"])
NO_CONVERSATION: Final = str(uuid.UUID(int=0))
"""The conversation of a connection probe: Genesys tries whether anybody answers."""
SLACK: Final = RATE
"""Samples by which a position may differ from the sound that came. Judgement: what a client holds between counting
and sending; a wrong count is wrong by more."""
LONGEST_S: Final = 24 * 3_600
"""No position lies further. Judgement: a day, as the longest call of other phone systems."""
DURATION: Final = re.compile(r"PT(\d{1,9}(?:\.\d{0,20})?|\.\d{1,20})S", re.ASCII)
DIGITS: Final = frozenset("0123456789*#ABCD")
OPEN: Final = frozenset({"update", "paused", "resumed", "discarded", "dtmf", "playback_started", "playback_completed"})
"""Messages that need an open session."""


class AudioHookDecoder:
    """One session. The call is named by its conversation, which a later session of the same conversation continues.

    `organization`, `session`: what the headers Audiohook-Organization-Id and Audiohook-Session-Id of the handshake
    said; messages that say otherwise are refused. Empty: not known.

    Of the media that `open` offers one is taken: rather both parties than one, rather mu-law than L16 (which is the
    same sound in twice the bytes), rather what is named first. Strings and numbers of `customConfig` describe the call:
    `tenant`, `queue` and `agent`, and all others as metadata. Messages of kinds that are not documented are skipped:
    kinds are added to the protocol without a new version.
    """

    def __init__(self, organization: str = "", session: str = "") -> None:
        self.outbox: list[bytes | str] = []
        self.finished = False
        self._organization = organization
        self._session = session
        self._sent = 0
        self._received = 0
        self._state: Literal["new", "open", "paused", "leaving"] = "new"
        self._codec: Codec = "mulaw"
        self._channels: list[str] = []
        self._probe = False
        self._origin = 0
        """Position at `open`, samples."""
        self._position = 0
        """Of the sample that comes next, from `_origin` on."""
        self._error = ""

    def receive(self, message: bytes | str) -> Sequence[Event]:
        """The events of one message; none of what follows `close`. Raises Fault, and only `close` is read after it."""
        if self.finished:
            return ()
        if self._state == "leaving":
            self._last(message)
            return ()
        try:
            return self._sound(message) if isinstance(message, bytes) else self._message(message)
        except Fault as fault:
            self.disconnect(str(fault), "unauthorized" if fault.counted_as == "unauthorized" else "error")
            raise

    def disconnect(self, why: str, reason: Literal["completed", "unauthorized", "error"] = "error") -> None:
        """Ask the client to close the session: it is `finished` when it does. Does nothing once it is over."""
        if not self.finished and self._state != "leaving":
            self._state = "leaving"
            self._send("disconnect", {"reason": reason, "info": why})

    def lost(self) -> Sequence[Event]:
        """Nothing: another session of the same conversation may follow."""
        return ()

    def transcript(self, heard: Transcript) -> bool:
        """Put what was said into `outbox`, as an `event` with an entity of type `transcript`.

        Returns whether: not before the session is open, not once it is over, and not where no words were recognised.
        The entity's id is made of the utterance's identity, so that saying it twice says nothing new.
        """
        if self.finished or self._state in ("new", "leaving") or self._probe or not heard.text:
            return False
        if heard.channel >= len(self._channels):
            return False
        data = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, heard.identity)),
            # 0 is the external channel, 1 the internal one, whichever were chosen.
            "channelId": list(ROLES).index(self._channels[heard.channel]),
            "isFinal": True,
            "offset": _duration(heard.start_ms),
            "duration": _duration(heard.end_ms - heard.start_ms),
            "alternatives": [
                {
                    "confidence": heard.asr_confidence,
                    "interpretations": [
                        {
                            "type": "display",
                            "transcript": heard.text,
                            "tokens": [
                                {
                                    "type": "word",
                                    "value": word.text,
                                    "confidence": word.confidence,
                                    "offset": _duration(word.start_ms),
                                    "duration": _duration(word.end_ms - word.start_ms),
                                }
                                for word in heard.words
                            ],
                        }
                    ],
                }
            ],
        }
        self._send("event", {"entities": [{"type": "transcript", "data": data}]})
        return True

    def _last(self, message: bytes | str) -> None:
        try:
            data = parse(message) if isinstance(message, str) else {}
        except Fault:
            return
        if data.get("type") == "close":
            if type(data.get("seq")) is int:
                self._received = data["seq"]
            self._send("closed", {})
            self.finished = True

    def _send(self, kind: str, parameters: dict[str, Any]) -> None:
        self._sent += 1
        message = {
            "version": "2",
            "type": kind,
            "seq": self._sent,
            "clientseq": self._received,
            "id": self._session or NO_CONVERSATION,
            "parameters": parameters,
        }
        self.outbox.append(json.dumps(message))

    def _message(self, message: str) -> Sequence[Event]:
        data = parse(message)
        kind, seq, seen = data.get("type"), data.get("seq"), data.get("serverseq")
        if data.get("version") != "2" or not isinstance(kind, str):
            raise Fault("a message that is not of AudioHook version 2", "malformed")
        if type(seq) is not int or seq != self._received + 1:
            raise Fault(f"seq is not {self._received + 1}, the one after the last", "sequence")
        if type(seen) is not int or not 0 <= seen <= self._sent:
            raise Fault(f"serverseq is not of 0 to {self._sent}, the messages sent", "sequence")
        self._received = seq
        session = name(data, "id")
        if session != (self._session or session):
            raise Fault("id of another session", "other_session")
        self._session = session
        position, parameters = _samples(data.get("position"), "position"), member(data, "parameters")
        if self._state == "new":
            if kind == "open":
                return self._open(position, parameters)
            if kind in OPEN:
                raise Fault(f"{kind} before open", "early")
        if kind in ("resumed", "discarded"):
            return self._moved(kind, parameters)
        if self._state != "new":
            ahead = position - self._origin - self._position
            # Through a pause the client counts on.
            if ahead < -SLACK or (ahead > SLACK and self._state == "open"):
                raise Fault(f"position is {ahead / RATE:+.3f} s from the sound that came", "position")
        if kind == "open":
            raise Fault("open twice", "twice")
        if kind == "ping":
            self._send("pong", {})
        elif kind == "update":
            self._send("updated", {})
        elif kind == "error":
            self._error = f"{parameters.get('code')!a}: {parameters.get('message')!a}"[:200]
        elif kind == "paused" and self._state == "open":
            self._state = "paused"
            return () if self._probe else (Paused(),)
        elif kind == "dtmf":
            digit = parameters.get("digit")
            if not isinstance(digit, str) or digit not in DIGITS:
                raise Fault("dtmf without a key of a telephone", "dtmf")
            return () if self._probe else (Dtmf(digit),)
        elif kind == "close":
            return self._close(parameters)
        return ()

    def _open(self, position: int, parameters: dict[str, Any]) -> Sequence[Event]:
        conversation = name(parameters, "conversationId")
        organization = name(parameters, "organizationId")
        if organization != (self._organization or organization):
            raise Fault("organizationId is not that of the handshake", "unauthorized")
        offered = parameters.get("media")
        usable = [
            one
            for one in (offered if isinstance(offered, list) else [])
            if isinstance(one, dict)
            and one.get("type") == "audio"
            and one.get("format") in list(CODECS)  # a list compares with whatever comes
            and one.get("rate") == RATE
            and one.get("channels") in CHANNELS
        ]
        if not usable:
            raise Fault("open without audio as PCMU or L16 at 8000 Hz, external, internal or both", "media_format")
        chosen = max(usable, key=lambda one: (len(one["channels"]), one["format"] == "PCMU"))
        self._codec, self._channels = CODECS[chosen["format"]], chosen["channels"]
        self._probe = conversation == NO_CONVERSATION
        custom = parameters.get("customConfig")
        described = {
            key: str(value)
            for key, value in (custom if isinstance(custom, dict) else {}).items()
            if isinstance(value, str | int | float)
        }
        tenant, queue, agent = (described.pop(key, "") for key in ("tenant", "queue", "agent"))
        who = parameters.get("participant")
        facts = {
            "session": self._session,
            "organization": organization,
            "language": parameters.get("language"),
            **{key: who.get(key) for key in ("ani", "aniName", "dnis") if isinstance(who, dict)},
        }
        described |= {key: value for key, value in facts.items() if isinstance(value, str) and value}
        self._state = "open"
        self._origin = position
        media = {"type": "audio", "format": chosen["format"], "channels": self._channels, "rate": RATE}
        self._send("opened", {"startPaused": False, "media": [media]})
        if self._probe:
            return ()
        roles = tuple(ROLES[channel] for channel in self._channels)
        return (Began(conversation, roles, self._codec, RATE, tenant, queue, agent, described),)

    def _moved(self, kind: str, parameters: dict[str, Any]) -> Sequence[Event]:
        """The position jumps over sound that was not sent."""
        start = _samples(parameters.get("start"), "start") - self._origin
        discarded = _samples(parameters.get("discarded"), "discarded")
        if abs(start - self._position) > SLACK or (start + discarded) > LONGEST_S * RATE:
            raise Fault(
                f"{kind} from {start / RATE:.3f} s on, after {self._position / RATE:.3f} s of sound", "position"
            )
        self._position = max(self._position, start + discarded)
        if kind == "discarded" or self._state != "paused":
            return ()
        self._state = "open"
        return () if self._probe else (Resumed(discarded * 1_000 // RATE),)

    def _close(self, parameters: dict[str, Any]) -> Sequence[Event]:
        reason = parameters.get("reason")
        began = self._state != "new" and not self._probe
        self._send("closed", {})
        self.finished = True
        if not began or reason == "reconnect":
            # Another session of the conversation follows.
            return ()
        return (Ended("error", self._error),) if reason == "error" else (Ended(),)

    def _sound(self, message: bytes) -> Sequence[Event]:
        if self._state != "open":
            raise Fault("sound before open" if self._state == "new" else "sound in a pause", "early")
        if len(message) > LONGEST_MESSAGE:
            raise Fault(f"{len(message)} bytes of sound at once; send at most {LONGEST_MESSAGE}", "too_long", 1009)
        width, channels = BYTES_PER_SAMPLE[self._codec], len(self._channels)
        samples, odd = divmod(len(message), width * channels)
        if odd:
            raise Fault(f"{len(message)} bytes of sound end inside a sample of {width * channels}", "length")
        at_ms = self._position * 1_000 // RATE
        self._position += samples
        if self._probe or not samples:
            return ()
        interleaved = np.frombuffer(message, f"V{width}").reshape(-1, channels)
        return [Audio(channel, one.tobytes(), at_ms) for channel, one in enumerate(interleaved.T)]


def _samples(value: Any, what: str) -> int:
    """A duration of the form PT1.25S, in samples. Raises Fault for what is none."""
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > LONGEST_S:
        raise Fault(f"{what} that is no duration within a day, as PT1.25S", "position")
    return round(float(match[1]) * RATE)


def _duration(ms: int) -> str:
    return f"PT{ms / 1_000:.3f}S"
