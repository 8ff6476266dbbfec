"""What may be done to a stretch of telephone speech before it is recognised; docs/asr.md says what each is worth.

A changer must know: a step may cut the ends off (`trim`), so `prepare` says how much, and word times are moved back.
"""

from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Step = Literal["band", "denoise", "trim", "normalise"]
STEPS: Final[tuple[Step, ...]] = get_args(Step)
"""In the order in which they are done."""

_RATE: Final = 16_000
_WINDOW: Final = 512
_HOP: Final = 128
_BAND_HZ: Final = (300.0, 3_400.0)
"""The telephone band, ITU-T G.712."""
_GATE_DB: Final = 6.0
"""A bin that is not so far over the noise is turned down (judgement) …"""
_GATED_DB: Final = -12.0
"""… by this much. Judgement: more makes the musical noise on which Whisper stumbles."""
_NOISE_SHARE: Final = 0.1
"""The quietest tenth of the frames is taken for noise. Judgement."""
_TRIM_DB: Final = -35.0
"""Below the loudest frame: what is quieter at the ends is cut off …"""
_TRIM_MARGIN_S: Final = 0.1
"""… but for so much. Both by judgement."""
_LOUDNESS: Final = 0.05
"""Root mean square after normalising, −26 dBov: the level of speech in ITU-T P.56 test material."""


def prepare(samples: NDArray[np.float32], steps: Sequence[Step]) -> tuple[NDArray[np.float32], float]:
    """(samples, seconds cut off the start) of mono float32 (n,) at 16 kHz after `steps`, in the order of `STEPS`."""
    cut_s = 0.0
    if len(samples) < _WINDOW:
        return samples, cut_s
    for step in STEPS:
        if step not in steps:
            continue
        if step == "trim":
            first, last = _speech(samples)
            samples, cut_s = samples[first:last], first / _RATE
        else:
            samples = {"band": _band, "denoise": _denoise, "normalise": _normalise}[step](samples)
    return samples, cut_s


def _band(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Only the telephone band, with edges 50 Hz wide."""
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / _RATE)
    low, high = _BAND_HZ
    gain = np.clip((hz - low) / 50 + 1, 0, 1) * np.clip((high - hz) / 50 + 1, 0, 1)
    return np.fft.irfft(spectrum * gain, len(samples)).astype(np.float32)


def _denoise(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spectral gating: in each frequency, what does not stand out over the quietest frames is turned down.

    The gate is smoothed over 5 frames and 3 bins (as in Sainburg's noisereduce, which wants scipy and matplotlib).
    """
    window = np.hanning(_WINDOW + 1)[:-1]
    padded = np.pad(samples.astype(np.float64), (_WINDOW, _WINDOW + -len(samples) % _HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * window
    spectra = np.fft.rfft(frames)
    level = 20 * np.log10(np.abs(spectra) + 1e-9)
    inside = level[_WINDOW // _HOP : -_WINDOW // _HOP]
    quietest = inside[np.argsort(inside.mean(1), kind="stable")[: max(1, round(len(inside) * _NOISE_SHARE))]]
    open_gate = (level > quietest.mean(0) + _GATE_DB).astype(np.float64)
    for axis, width in ((0, 5), (1, 3)):
        spread = np.pad(open_gate, [(width // 2, width // 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        open_gate = np.lib.stride_tricks.sliding_window_view(spread, width, axis).mean(-1)
    floor = 10 ** (_GATED_DB / 20)
    frames = np.fft.irfft(spectra * (floor + (1 - floor) * open_gate)) * window
    whole = np.zeros(len(padded))
    weight = np.zeros(len(padded))
    for number, frame in enumerate(frames):
        whole[number * _HOP : number * _HOP + _WINDOW] += frame
        weight[number * _HOP : number * _HOP + _WINDOW] += window**2
    return (whole / np.maximum(weight, 1e-3))[_WINDOW : _WINDOW + len(samples)].astype(np.float32)


def _speech(samples: NDArray[np.float32]) -> tuple[int, int]:
    """(first, last) sample of what is not much quieter than the loudest 32 ms."""
    frames = samples[: len(samples) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (_TRIM_DB / 10))
    margin = round(_TRIM_MARGIN_S * _RATE)
    return max(0, int(loud[0]) * _WINDOW - margin), min(len(samples), (int(loud[-1]) + 1) * _WINDOW + margin)


def _normalise(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """At the usual loudness, or as near to it as the loudest sample allows."""
    loudness = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    loudest = float(np.max(np.abs(samples)))
    if not loudest:
        return samples
    return samples * np.float32(min(_LOUDNESS / max(loudness, 1e-9), 1 / loudest))
