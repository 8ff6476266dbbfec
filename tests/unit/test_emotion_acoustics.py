"""Acoustic measures of sounds whose values are known, of a real voice, and of what has no voice."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from processors.acoustics import measure
from processors.utterances import RATE
from schemas.events import Acoustics

Audio = NDArray[np.float32]
TIME = np.arange(2 * RATE) / RATE


def noise(samples: int, seed: int = 0) -> Audio:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def vowel(pitch_hz: float, formants_hz: tuple[float, ...]) -> Audio:
    """Pulses through resonances of 80 Hz width: a steady vowel whose pitch and formants are known."""
    frequencies = np.fft.rfftfreq(len(TIME), 1 / RATE)
    sound = np.zeros(len(TIME))
    sound[(np.arange(0, len(TIME), RATE / pitch_hz)).astype(int)] = 1
    spectrum = np.fft.rfft(sound)
    for formant in formants_hz:
        spectrum /= 1 - (frequencies / formant) ** 2 + 1j * 80 * frequencies / formant**2
    shaped = np.fft.irfft(spectrum, len(TIME))
    return np.asarray(0.1 * shaped / np.abs(shaped).max(), np.float32)


def test_a_tone_of_full_scale() -> None:
    """ITU-R BS.1770-4, annex 1: a sine of 997 Hz and 0 dBFS on one channel has −3.01 LUFS."""
    tone = np.sin(2 * np.pi * 997 * TIME).astype(np.float32)
    shown = measure(tone, 4)
    assert shown.loudness_lufs == pytest.approx(-3.01, abs=0.1)
    assert shown.rms == pytest.approx(2**-0.5, abs=1e-3)
    assert shown.zero_crossing_rate == pytest.approx(2 * 997 / RATE, rel=1e-2)
    assert shown.spectral_centroid_hz == pytest.approx(997, abs=15)
    assert shown.speaking_rate_wps == 2
    assert len(shown.mfcc) == 13


@pytest.mark.parametrize("pitch_hz", [110.0, 220.0])
def test_a_vowel(pitch_hz: float) -> None:
    pytest.importorskip("parselmouth", reason="praat-parselmouth (the extra praat) is not installed")
    shown = measure(vowel(pitch_hz, (700, 1_200, 2_600, 3_500)), 1, praat=True)
    assert shown.pitch_mean_hz == pytest.approx(pitch_hz, rel=0.01)
    assert shown.pitch_variance_hz2 is not None
    assert shown.pitch_variance_hz2 < 4
    assert shown.formants_hz == pytest.approx((700, 1_200, 2_600), rel=0.08)
    assert shown.jitter is not None
    assert shown.jitter < 0.01
    assert shown.shimmer is not None
    assert shown.shimmer < 0.05
    assert shown.hnr_db is not None
    assert shown.hnr_db > 15


def test_without_praat_there_is_no_voice_quality() -> None:
    shown = measure(vowel(150, (500, 1_500, 2_500)), 1)
    assert shown.pitch_mean_hz == pytest.approx(150, rel=0.01)
    assert (shown.jitter, shown.shimmer, shown.formants_hz, shown.hnr_db) == (None, None, (), None)


def test_gain_moves_the_level_and_nothing_of_the_voice() -> None:
    loud, soft = (measure(vowel(180, (600, 1_300, 2_400)) * np.float32(gain), 1) for gain in (1, 0.1))
    assert loud.loudness_lufs is not None
    assert soft.loudness_lufs == pytest.approx(loud.loudness_lufs - 20, abs=0.05)
    assert soft.pitch_mean_hz == pytest.approx(loud.pitch_mean_hz, rel=1e-3)
    assert soft.spectral_centroid_hz == pytest.approx(loud.spectral_centroid_hz, rel=1e-3)


@pytest.mark.parametrize("samples", [np.zeros(RATE, np.float32), noise(RATE)], ids=["silence", "noise"])
def test_what_has_no_voice_has_no_pitch(samples: Audio) -> None:
    shown = measure(samples, 0, praat=True)
    assert (shown.pitch_mean_hz, shown.pitch_variance_hz2, shown.jitter, shown.formants_hz) == (None, None, None, ())
    assert (shown.loudness_lufs is None) == (not samples.any())


def test_too_little_to_measure() -> None:
    with pytest.raises(ValueError, match="25 ms"):
        measure(noise(RATE // 40 - 1), 0)


@settings(max_examples=25)
@given(st.integers(RATE // 40, RATE // 2), st.integers(0, 3), st.floats(0, 10), st.integers(0, 5))
def test_any_sound_gives_finite_rounded_numbers_and_the_same_again(
    length: int, seed: int, gain: float, words: int
) -> None:
    samples = np.clip(noise(length, seed) * np.float32(gain), -1, 1)
    shown = measure(samples, words, praat=True)
    assert Acoustics.model_validate_json(shown.model_dump_json()) == shown
    numbers = [shown.rms, shown.zero_crossing_rate, shown.speaking_rate_wps, *shown.mfcc, *shown.formants_hz]
    assert all(number is not None and np.isfinite(number) and round(number, 4) == number for number in numbers)
    assert measure(samples.copy(), words, praat=True) == shown


@pytest.mark.models
def test_a_woman_and_a_man(test_data: Path) -> None:
    """Clips of RAVDESS said without emotion; the actors' sexes are in its index."""
    folder = test_data / "emotion" / "ravdess"
    man, woman = (
        measure(soundfile.read(folder / f"03-01-01-01-01-01-{actor}.flac", dtype="float32")[0], 7, praat=True)
        for actor in ("01", "02")
    )
    assert man.pitch_mean_hz is not None
    assert woman.pitch_mean_hz is not None
    assert 80 < man.pitch_mean_hz < 150 < woman.pitch_mean_hz < 260
    for voice in (man, woman):
        first, second, third = voice.formants_hz
        assert 300 < first < 900 < second < 2_000 < third < 3_300
