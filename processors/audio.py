"""Audio as numbers: G.711 and 16-bit PCM bytes ⇄ float32 samples in [-1, 1), and sample-rate conversion.

All stages decode with these functions, so a changer must know: a different last bit here changes every result after it.
"""

from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from schemas.audio import Codec

_FULL_SCALE: Final = 32_768
_CODES: Final = np.arange(256)
_PCM: Final = np.arange(-_FULL_SCALE, _FULL_SCALE)


def _mulaw_levels() -> NDArray[np.int64]:
    """The 16-bit level of each mu-law code. ITU-T G.711 (11/1988), table 2: 14-bit levels, here times 4."""
    code = ~_CODES & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << (code >> 4 & 0x07)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude)


def _alaw_levels() -> NDArray[np.int64]:
    """The 16-bit level of each A-law code. ITU-T G.711 (11/1988), table 1: 13-bit levels, here times 8."""
    code = _CODES ^ 0x55
    segment = code >> 4 & 0x07
    fraction = ((code & 0x0F) << 4) + 8
    magnitude = np.where(segment == 0, fraction, (fraction + 0x100) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude)


def _mulaw_codes() -> NDArray[np.uint8]:
    """The mu-law code of each 16-bit value, -32768 first: sign, segment, four bits within it; all inverted."""
    biased = np.minimum(np.abs(_PCM), 32_635) + 0x84
    segment = np.frexp(biased)[1] - 8
    code = np.where(_PCM < 0, 0x80, 0) | segment << 4 | biased >> (segment + 3) & 0x0F
    return np.asarray(~code & 0xFF, np.uint8)


def _alaw_codes() -> NDArray[np.uint8]:
    """The A-law code of each 16-bit value, -32768 first. Even bits are inverted; segments 0 and 1 share a step."""
    magnitude = np.where(_PCM < 0, ~_PCM, _PCM)
    segment = np.maximum(np.frexp(magnitude)[1] - 8, 0)
    code = segment << 4 | magnitude >> (np.maximum(segment, 1) + 3) & 0x0F
    return np.asarray((code | np.where(_PCM < 0, 0, 0x80)) ^ 0x55, np.uint8)


_LEVELS: Final = {
    "mulaw": (_mulaw_levels() / _FULL_SCALE).astype(np.float32),
    "alaw": (_alaw_levels() / _FULL_SCALE).astype(np.float32),
}
_ENCODED: Final = {"mulaw": _mulaw_codes(), "alaw": _alaw_codes()}
_SILENCE: Final = {"pcm_s16le": b"\x00\x00", "mulaw": b"\xff", "alaw": b"\xd5"}


def decode(value: bytes, codec: Codec) -> NDArray[np.float32]:
    """Samples in [-1, 1), float32 (n,), of `value`. Raises ValueError when PCM ends inside a sample."""
    if codec == "pcm_s16le":
        return np.frombuffer(value, "<i2").astype(np.float32) / np.float32(_FULL_SCALE)
    return _LEVELS[codec][np.frombuffer(value, np.uint8)]


def encode(samples: NDArray[np.float32], codec: Codec) -> bytes:
    """Bytes of `samples`, float (n,), rounded to 16 bits; what lies outside [-1, 1) is clipped, and what is
    no number (a damaged file of floats has such) is silence.

    `encode(decode(value, codec), codec)` is `value`, but that mu-law's negative zero (0x7F) becomes 0xFF.
    """
    numbers: NDArray[np.float32] = np.nan_to_num(np.rint(samples * _FULL_SCALE))
    pcm = np.clip(numbers, -_FULL_SCALE, _FULL_SCALE - 1).astype("<i2")
    if codec == "pcm_s16le":
        return pcm.tobytes()
    return _ENCODED[codec][pcm.astype(np.int32) + _FULL_SCALE].tobytes()


def silence(n_samples: int, codec: Codec) -> bytes:
    """`n_samples` of silence: zeros, and in A-law, which has no zero, its smallest positive level."""
    return _SILENCE[codec] * n_samples


def resample(samples: NDArray[np.float32], from_rate: int, to_rate: int) -> NDArray[np.float32]:
    """`samples`, float32 (n,), at another rate, in one piece: the same input gives the same output bit for bit.

    Cutting the input gives other samples at the cuts, so a stretch is always converted whole.
    """
    if from_rate == to_rate or not len(samples):
        return samples
    converted: NDArray[np.float32] = soxr.resample(samples, from_rate, to_rate)
    return converted
