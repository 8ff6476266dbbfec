"""The audio packet: what `audio.frames` carries. Everything but the samples is in Kafka headers.

The value is raw audio in its source encoding (mu-law stays 8 bits a sample), so any Kafka tool can cut it out and any
player can play it. The key of every record is the call id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from schemas.errors import CalltideError

Codec = Literal["pcm_s16le", "mulaw", "alaw"]

BYTES_PER_SAMPLE: Final[Mapping[str, int]] = {"pcm_s16le": 2, "mulaw": 1, "alaw": 1}
RATES: Final = (8_000, 16_000)
"""Sample rates in Hz that travel; ingest resamples all others to 16 kHz."""


@dataclass(frozen=True, slots=True)
class AudioPacket:
    """About 100 ms of one channel.

    `sample` is the index of the first sample counted from the start of the call (so a lost packet is a visible hole),
    `sequence` counts the packets of the channel from 0 (so a doubled packet is visible too).
    """

    channel: int
    codec: Codec
    rate: int
    sample: int
    sequence: int
    value: bytes

    @property
    def samples(self) -> int:
        """Number of samples in the packet."""
        return len(self.value) // BYTES_PER_SAMPLE[self.codec]

    def headers(self) -> list[tuple[str, bytes]]:
        """The Kafka headers of the packet."""
        return [
            ("kind", b"audio"),
            ("channel", b"%d" % self.channel),
            ("codec", self.codec.encode()),
            ("rate", b"%d" % self.rate),
            ("sample", b"%d" % self.sample),
            ("sequence", b"%d" % self.sequence),
        ]

    @classmethod
    def decode(cls, headers: Mapping[str, bytes], value: bytes) -> "AudioPacket":
        """Read a packet back. Raises CalltideError for an absent or wrong header, or a value that ends in a sample."""
        try:
            codec = headers["codec"].decode("ascii")
            numbers = [int(headers[name]) for name in ("channel", "rate", "sample", "sequence")]
        except (KeyError, ValueError, UnicodeDecodeError) as error:
            raise CalltideError(
                f"audio packet with a missing or malformed header ({error}); mend the producer"
            ) from error
        channel, rate, sample, sequence = numbers
        if codec not in BYTES_PER_SAMPLE:
            raise CalltideError(f"audio packet with unknown codec {codec!r}; send one of {', '.join(BYTES_PER_SAMPLE)}")
        if rate not in RATES:
            raise CalltideError(f"audio packet at {rate} Hz; send 8000 or 16000")
        if min(channel, sample, sequence) < 0:
            raise CalltideError("audio packet with a negative channel, sample or sequence; mend the producer")
        if len(value) % BYTES_PER_SAMPLE[codec]:
            raise CalltideError(f"audio packet of {len(value)} bytes ends inside a sample; mend the producer")
        return cls(channel, cast(Codec, codec), rate, sample, sequence, value)
