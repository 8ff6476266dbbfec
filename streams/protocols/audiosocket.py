"""Asterisk's AudioSocket: a TCP stream of frames, each 1 byte kind, 2 bytes length (big-endian) and a payload.

A changer must know: Asterisk itself never says goodbye. It closes the socket when the channel is hung up
(`chan_audiosocket.c`), so a connection that ends between two frames ends the call, and one that ends inside a frame
was cut off. Nothing is ever sent back: to Asterisk any answer but audio is a hang-up or an error, and whoever listens
must not end the call.
"""

from collections.abc import Sequence
from typing import Final, NoReturn
from uuid import UUID

from schemas.events import Role
from streams.protocols.base import Audio, Began, Dtmf, Ended, Event, Fault

RATES: Final = {
    0x10: 8_000,
    0x11: 12_000,
    0x12: 16_000,
    0x13: 24_000,
    0x14: 32_000,
    0x15: 44_100,
    0x16: 48_000,
    0x17: 96_000,
    0x18: 192_000,
}
"""Kind of an audio frame → samples a second. Signed linear, 16 bit, little-endian, one channel."""
MOST_KEYS_BEFORE_AUDIO: Final = 64
"""Judgement. The call begins with its first audio, which tells the rate; keys pressed before are kept until then."""

_HANG_UP, _UUID, _DTMF, _ERROR = 0x00, 0x01, 0x03, 0xFF
_LENGTHS: Final = {_HANG_UP: 0, _UUID: 16, _DTMF: 1}
_KEYS: Final = frozenset(b"0123456789*#ABCD")
_ERRORS: Final = {0x01: "hang-up of the calling party", 0x02: "a frame could not be forwarded", 0x04: "out of memory"}
"""Asterisk's own codes; an application may have others."""
_HEADER: Final = 3


class AudioSocket:
    """One connection. `role`: the party on it; `unknown` for a mixed channel, whose speakers are told apart by voice.

    Faults are counted as `order` (the UUID is not the first frame, or comes twice), `kind`, `length`, `dtmf`, `rate`
    (it changes within the call), `truncated` and `text`.
    """

    def __init__(self, role: Role = "unknown") -> None:
        self.outbox: list[bytes | str] = []
        self.finished = False
        self._role = role
        self._held = b""
        self._call_id = ""
        self._kind: int | None = None
        """Of the call's audio frames; None before the first."""
        self._keys: list[Event] = []

    def receive(self, message: bytes | str) -> Sequence[Event]:
        """What a piece of the stream means. Pieces may be cut anywhere. Raises Fault."""
        if self.finished:
            return ()
        events: list[Event] = []
        if isinstance(message, str):
            self._fault("text in a stream of bytes", "text", events)
        data = self._held + message if self._held else message
        start, end = 0, len(data)
        while end - start >= _HEADER and not self.finished:
            kind, length = data[start], data[start + 1] << 8 | data[start + 2]
            # What is wrong is refused by its header, so that no one waits for the rest of it.
            if kind != self._kind or length & 1:
                self._check(kind, length, events)
            if end - start - _HEADER < length:
                break
            payload = data[start + _HEADER : start + _HEADER + length]
            start += _HEADER + length
            if kind == self._kind:
                # An empty one is what Asterisk's jitter buffer makes of a packet that was lost.
                if payload:
                    events.append(Audio(0, payload))
            else:
                self._seldom(kind, payload, events)
        # At most one frame: 65,538 bytes.
        self._held = b"" if self.finished else data[start:]
        return events

    def lost(self) -> Sequence[Event]:
        """A hang-up, when the connection ended between two frames. Raises Fault when it ended inside one."""
        if self.finished:
            return ()
        events: list[Event] = []
        if self._held:
            self._fault(f"the connection ended {len(self._held)} bytes into a frame", "truncated", events)
        self.finished = True
        if self._call_id:
            self._end(Ended("hangup"), events)
        return events

    def _check(self, kind: int, length: int, events: list[Event]) -> None:
        if kind not in RATES and kind not in _LENGTHS and kind != _ERROR:
            self._fault(f"a frame of unknown kind 0x{kind:02x}", "kind", events)
        if length != _LENGTHS.get(kind, length) or (kind in RATES and length & 1):
            self._fault(f"a frame of kind 0x{kind:02x} with {length} bytes", "length", events)
        if (kind == _UUID) == bool(self._call_id) and kind not in (_HANG_UP, _ERROR):
            what = "a second UUID" if self._call_id else f"a frame of kind 0x{kind:02x} before the UUID"
            self._fault(what, "order", events)
        if kind in RATES and self._kind is not None and kind != self._kind:
            self._fault(f"{RATES[kind]} Hz in a call of {RATES[self._kind]}", "rate", events)

    def _seldom(self, kind: int, payload: bytes, events: list[Event]) -> None:
        if kind == _UUID:
            self._call_id = str(UUID(bytes=payload))
        elif kind in RATES:
            self._begin(kind, events)
            if payload:
                events.append(Audio(0, payload))
        elif kind == _DTMF:
            if payload[0] not in _KEYS:
                self._fault(f"no key of a telephone: 0x{payload[0]:02x}", "dtmf", events)
            pressed = self._keys if self._kind is None else events
            pressed.append(Dtmf(payload.decode()))
            if len(self._keys) > MOST_KEYS_BEFORE_AUDIO:
                self._fault("keys and no audio", "dtmf", events)
        else:
            self.finished = True
            if not self._call_id:
                return
            code = payload[0] if payload else None
            if kind == _HANG_UP or code == 0x01:
                self._end(Ended("hangup"), events)
            else:
                self._end(Ended("error", _ERRORS.get(code or 0, f"code {payload[:8].hex() or 'none'}")), events)

    def _begin(self, kind: int, events: list[Event]) -> None:
        self._kind = kind
        events.append(Began(self._call_id, (self._role,), "pcm_s16le", RATES[kind]))
        events += self._keys
        self._keys = []

    def _end(self, ended: Ended, events: list[Event]) -> None:
        if self._kind is None:
            # A call in which nothing was said is a call.
            self._begin(0x10, events)
        events.append(ended)

    def _fault(self, what: str, counted_as: str, before: Sequence[Event]) -> NoReturn:
        self.finished = True
        self._held = b""
        raise Fault(f"AudioSocket: {what}", counted_as, before=before)
