"""What each step does to sound whose content is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from processors.preprocessing import STEPS, prepare

RATE = 16_000
Samples = NDArray[np.float32]


def tone(hz: float, seconds: float = 1.0, loudness: float = 0.1) -> Samples:
    return (loudness * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def noise(seconds: float, loudness: float) -> Samples:
    return np.random.default_rng(7).normal(0, loudness, int(seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize(("hz", "share"), [(100, 0.0), (500, 1.0), (3_000, 1.0), (6_000, 0.0)])
def test_band_leaves_the_telephone_band(hz: float, share: float) -> None:
    out, _ = prepare(tone(hz), ["band"])
    assert level(out) / level(tone(hz)) == pytest.approx(share, abs=0.02)


def test_normalise_gives_every_voice_the_same_loudness_without_clipping() -> None:
    quiet, loud = (prepare(tone(300, loudness=loudness), ["normalise"])[0] for loudness in (0.001, 0.9))
    assert level(quiet) == pytest.approx(0.05, abs=1e-3) == level(loud)
    click = tone(300, loudness=0.001)
    click[100] = 0.5
    assert np.max(np.abs(prepare(click, ["normalise"])[0])) <= 1
    assert not prepare(np.zeros(RATE, np.float32), ["normalise"])[0].any()


def test_trim_cuts_the_silence_and_says_how_much() -> None:
    silence = noise(1, 1e-4)
    out, cut_s = prepare(np.concatenate([silence, tone(300), silence]), ["trim"])
    assert cut_s == pytest.approx(0.9, abs=0.04)
    assert len(out) / RATE == pytest.approx(1.2, abs=0.07)


def test_denoise_takes_noise_away_and_leaves_the_voice() -> None:
    voice = np.concatenate([np.zeros(RATE, np.float32), tone(500)])
    out, cut_s = prepare(voice + noise(2, 0.01), ["denoise"])
    assert (len(out), cut_s) == (len(voice), 0)
    assert 20 * np.log10(level(out[: RATE - 800]) / 0.01) < -6
    assert level(out[RATE + 800 :]) == pytest.approx(level(tone(500)), rel=0.1)
    assert np.corrcoef(out[RATE:], tone(500))[0, 1] > 0.99


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 700, 20_001])
def test_any_length_is_taken(samples: int) -> None:
    sound = noise(2, 0.1)[:samples]
    out, cut_s = prepare(sound, STEPS)
    assert out.dtype == np.float32
    assert np.isfinite(out).all() and 0 <= cut_s <= samples / RATE
    assert np.array_equal(out, prepare(sound, STEPS[::-1])[0]), "the order is the module's"
    assert prepare(sound, [])[0] is sound
