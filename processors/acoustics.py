"""What can be measured of an utterance: level, pace, spectrum, pitch and, with Praat, the quality of the voice.

A changer must know: every number comes from a library that keeps to a published definition, in one thread and without
dither, so that the same samples give the same digits. Praat (praat-parselmouth) is under GPL-3 while Calltide is under
Apache-2.0: it is imported only when a setting asks for it, and nothing else may come to need it.
"""

import importlib.util
import math
from fractions import Fraction
from typing import Any, Final

import av
import av.filter
import kaldi_native_fbank
import numpy as np
from numpy.typing import NDArray

from processors.utterances import RATE, rounded
from schemas.errors import CalltideError
from schemas.events import Acoustics

PITCH_HZ: Final = (60.0, 500.0)
"""The pitch that is looked for: low men's voices up to raised women's (judgement)."""
VOICED: Final = 0.6
"""Normalised cross-correlation from which on a frame counts as voiced. Measured: with it Kaldi's voiced frames and
Praat's agree best on the acted clips; white noise stays under 0.4, a steady tone is over 0.99."""
LEAST_VOICED: Final = 10
"""Frames of 10 ms under which there is too little voice to say anything of it (judgement: half a vowel)."""
LEVEL: Final = 0.05 * 32_768
"""Root mean square, on 16-bit samples, at which pitch is looked for: the tracker's threshold depends on the level."""
FORMANTS: Final = (4, 4_000.0)
"""How many formants are looked for under how many Hz: the same in wide band and over a telephone line. Praat's rule is
one a kHz."""
SILENCE_LUFS: Final = -70.0
"""The absolute gate of ITU-R BS.1770-4: what is under it has no loudness."""
_WINDOW: Final = 512
"""Samples (32 ms) of one spectrum, half as many from one to the next."""

Samples = NDArray[np.float32]


def measure(samples: Samples, words: int | None, *, praat: bool = False) -> Acoustics:
    """Of mono 16 kHz `samples`, float32 (n,) in [-1, 1], at least 25 ms, in which `words` words are spoken
    (None: it is not known how many).

    `praat`: also jitter, shimmer, formants and harmonics-to-noise ratio. What cannot be told (no voice, silence) is
    None or empty. Numbers have four digits. Raises ValueError for less than 25 ms, ImportError when Praat is asked
    for and missing (`require_praat` says so beforehand, for people).
    """
    if len(samples) < RATE // 40:
        raise ValueError("less than 25 ms of audio cannot be measured")
    found: dict[str, float | tuple[float, ...] | None] = {
        **_pitch(samples),
        "rms": float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))),
        "loudness_lufs": _loudness(samples),
        "speaking_rate_wps": None if words is None else words * RATE / len(samples),
        "spectral_centroid_hz": _centroid(samples),
        "zero_crossing_rate": float(np.mean(np.diff(np.signbit(samples)))),
        "mfcc": tuple(_mfcc(samples)),
        **(_voice(samples) if praat else {}),
    }
    return Acoustics.model_validate(
        {
            name: tuple(map(rounded, value)) if isinstance(value, tuple) else rounded(value)
            for name, value in found.items()
            if value is not None
        }
    )


def require_praat() -> None:
    """Raises CalltideError when Praat is not installed."""
    if importlib.util.find_spec("parselmouth") is None:
        raise CalltideError(
            "emotion.praat needs praat-parselmouth (GPL-3), which is not installed; run "
            "`.venv/bin/pip install -e '.[praat]'`, or set CALLTIDE_EMOTION__PRAAT=false"
        )


def _pitch(samples: Samples) -> dict[str, float]:
    """Mean and variance over voiced frames of Kaldi's pitch tracker (Ghahremani et al. 2014)."""
    options = kaldi_native_fbank.PitchExtractionOptions()
    options.samp_freq, (options.min_f0, options.max_f0) = RATE, PITCH_HZ
    options.delta_pitch = 0.02  # steps of 2 % instead of 0.5: means and variances within 1 %, at two thirds of the time
    shown = kaldi_native_fbank.ProcessPitchOptions()
    shown.add_normalized_log_pitch, shown.add_delta_pitch, shown.add_raw_log_pitch = False, False, True
    level = float(np.sqrt(np.mean(np.square(samples))))
    tracker = kaldi_native_fbank.OnlinePitch(options, shown)
    tracker.accept_waveform(RATE, samples * np.float32(LEVEL / max(level, 1e-4)))
    tracker.input_finished()
    if not tracker.num_frames_ready:
        return {}
    frames = np.array([tracker.get_frame(i) for i in range(tracker.num_frames_ready)], np.float64)
    # The first column is 2 ((1.0001 − c)^0.15 − 1), of which c, the correlation, is wanted.
    correlation = 1.0001 - (1 + frames[:, 0] / 2) ** (1 / 0.15)
    hertz = np.exp(frames[correlation >= VOICED, 1])
    if len(hertz) < LEAST_VOICED:
        return {}
    return {"pitch_mean_hz": float(hertz.mean()), "pitch_variance_hz2": float(hertz.var())}


def _loudness(samples: Samples) -> float | None:
    """Integrated loudness in LUFS, ITU-R BS.1770-4 as FFmpeg computes it; None under 0.4 s and in silence."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="flt", layout="mono", time_base=Fraction(1, RATE))
    graph.link_nodes(source, graph.add("ebur128", "metadata=1:framelog=quiet"), graph.add("abuffersink")).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = RATE, 0
    graph.push(frame)
    graph.push(None)
    loudness = None
    while True:
        try:
            measured: Any = graph.pull()
        except (av.EOFError, av.BlockingIOError):
            break
        loudness = measured.metadata.get("lavfi.r128.I", loudness)
    return None if loudness is None or float(loudness) <= SILENCE_LUFS else float(loudness)


def _centroid(samples: Samples) -> float | None:
    """Mean frequency, weighted by magnitude, of all Hann-windowed spectra: loud frames count more; None in silence."""
    padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[:: _WINDOW // 2]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))).sum(0)
    if not magnitude.any():
        return None
    return float(magnitude @ np.fft.rfftfreq(_WINDOW, 1 / RATE) / magnitude.sum())


def _mfcc(samples: Samples) -> NDArray[np.float32]:
    """Means over time of 13 cepstral coefficients as Kaldi computes them (23 mel bins, 20 ms step), the first c0."""
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.frame_opts.frame_shift_ms = RATE, 0.0, 20.0
    options.num_ceps, options.use_energy = 13, False
    computer = kaldi_native_fbank.OnlineMfcc(options)
    computer.accept_waveform(RATE, samples)
    computer.input_finished()
    frames = np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)], np.float32)
    means: NDArray[np.float32] = frames.mean(0)
    return means


def _voice(samples: Samples) -> dict[str, float | tuple[float, ...] | None]:
    """Jitter, shimmer, F1 to F3 and harmonics-to-noise ratio by Praat (Boersma 1993), with the values of its manual."""
    import parselmouth
    from parselmouth.praat import call

    sound = parselmouth.Sound(samples.astype(np.float64), RATE)
    shortest_s = 3 / PITCH_HZ[0]  # Praat wants three periods
    if sound.duration <= shortest_s:
        return {}
    pitch = sound.to_pitch_ac(pitch_floor=PITCH_HZ[0], pitch_ceiling=PITCH_HZ[1])
    frames = pitch.selected_array
    voiced = frames["frequency"] > 0
    if np.count_nonzero(voiced) < LEAST_VOICED:
        return {}
    pulses = call([sound, pitch], "To PointProcess (cc)")
    periods = (0, 0, 0.0001, 0.02, 1.3)  # all of it; shortest and longest period, largest ratio of neighbours
    jitter = call(pulses, "Get jitter (local)", *periods)
    shimmer = call([sound, pulses], "Get shimmer (local)", *periods, 1.6)
    count, ceiling = FORMANTS
    formant = sound.to_formant_burg(time_step=0.02, max_number_of_formants=count, maximum_formant=ceiling)
    times = pitch.xs()[voiced]
    tracks = np.array([[formant.get_value_at_time(number, time) for time in times] for number in (1, 2, 3)])
    known = ~np.isnan(tracks).any(0)
    # The harmonics-to-noise ratio of Praat's voice report: from the mean autocorrelation of the voiced frames.
    strength = float(np.clip(frames["strength"][voiced].mean(), 1e-6, 1 - 1e-6))
    return {
        "jitter": None if math.isnan(jitter) else jitter,
        "shimmer": None if math.isnan(shimmer) else shimmer,
        "formants_hz": tuple(tracks[:, known].mean(1)) if known.any() else (),
        "hnr_db": 10 * math.log10(strength / (1 - strength)),
    }
