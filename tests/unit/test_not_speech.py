"""Hold music, tones, modems and noise are not speech, in both bands; people are."""

import zlib
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile

from benchmarks.not_speech import KINDS, RATE, SECONDS, Floats
from processors import audio, vad
from processors.base import Step
from processors.models.silero import SileroVad
from processors.vad import Config, VoiceActivity
from schemas.audio import Codec
from tests.unit.test_vad import call_info, call_of, feed, not_speech_ms, packets, times

pytestmark = pytest.mark.models

TAKE = 7
"""Other notes and other noise than those that the threshold was chosen by (0 to 3)."""


@pytest.fixture(scope="module")
def silero() -> SileroVad:
    return SileroVad()


def heard(model: SileroVad, sounds: dict[str, Floats], codec: Codec, rate: int) -> dict[str, tuple[int, int]]:
    """Number of segments and milliseconds taken for no speech, of each of `sounds`; all calls side by side."""
    stage = VoiceActivity(Config(), model)
    lines = []
    for name, samples in sounds.items():
        line = packets(audio.encode(samples, codec), 0, codec, rate, [1_000])
        lines.append((stage.open(name), call_of(line, call_info(name, 1))))
    found: dict[str, list[Step]] = {name: [] for name in sounds}
    for turn in range(max(len(records) for _, records in lines)):
        batch = [(state, records[turn]) for state, records in lines if turn < len(records)]
        for (_, record), step in zip(batch, stage.process(batch), strict=True):
            found[record.call_id].append(step)
    return {
        name: (len(times(steps)), max(not_speech_ms(step.snapshot) for step in steps if step.snapshot))
        for name, steps in found.items()
    }


@cache
def wide(group: str) -> dict[str, Floats]:
    return {name: make(np.random.default_rng([zlib.crc32(name.encode()), TAKE])) for name, make in KINDS[group].items()}


def made(group: str, rate: int) -> dict[str, Floats]:
    return {name: audio.resample(samples, RATE, rate) for name, samples in wide(group).items()}


BANDS = pytest.mark.parametrize(("codec", "rate"), [("mulaw", 8_000), ("pcm_s16le", 16_000)])


@BANDS
@pytest.mark.parametrize("group", list(KINDS))
def test_what_nobody_says_is_not_speech(silero: SileroVad, group: str, codec: Codec, rate: int) -> None:
    found = heard(silero, made(group, rate), codec, rate)
    assert len(found) >= 4
    assert {name: n for name, (n, _) in found.items() if n} == {}


def test_what_was_taken_for_no_speech_is_counted(silero: SileroVad) -> None:
    sounds = {"mobile phone": made("noise", 16_000)["mobile phone"], "silence": np.zeros(RATE * SECONDS, np.float32)}
    found = heard(silero, sounds, "pcm_s16le", 16_000)
    assert found["silence"] == (0, 0)
    n, ms = found["mobile phone"]
    assert n == 0 and 300 < ms < 10_000
    # The model alone is taken in by it.
    with mock.patch.object(vad, "EVIDENCE", dict.fromkeys(vad.EVIDENCE, 0.0)):
        assert heard(silero, sounds, "pcm_s16le", 16_000)["mobile phone"][0] >= 2


@BANDS
def test_speech_between_hold_music_is_heard(silero: SileroVad, test_data: Path, codec: Codec, rate: int) -> None:
    """A sentence of a call after 10 s of music, and the music goes on after it."""
    speech, native = soundfile.read(test_data / "calls/phone-chat.flac", dtype="float32", start=160_000, frames=48_000)
    assert native == 16_000
    music = audio.resample(KINDS["music"]["piano"](np.random.default_rng(TAKE)), RATE, rate)
    sound = np.concatenate([music[: 10 * rate], audio.resample(speech, native, rate), music[10 * rate : 20 * rate]])
    line = packets(audio.encode(sound, codec), 0, codec, rate)
    found = times(feed(VoiceActivity(Config(), silero), call_of(line, call_info(channels=1))))
    assert found
    assert all(start >= 9_500 and end <= 14_500 for _, start, end, _ in found), found
    assert sum(end - start for _, start, end, _ in found) > 2_500


def test_short_words_are_speech(silero: SileroVad, test_data: Path) -> None:
    """ "Hello?", "Hello?", "Oh, hello." of a telephone chat at 8 kHz, the first of them hardly above the threshold."""
    samples, native = soundfile.read(test_data / "calls/phone-chat.flac", dtype="float32")
    value = audio.encode(audio.resample(samples, native, 8_000), "mulaw")
    found = times(feed(VoiceActivity(Config(), silero), call_of(packets(value, codec="mulaw"), call_info(channels=1))))
    for at_ms in (6_900, 7_900, 8_650):
        assert any(start <= at_ms < end for _, start, end, _ in found)
