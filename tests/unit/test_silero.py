"""The VAD model on the telephone sample of the pyannote.audio wheel: right, and the same bits in every batch."""

import numpy as np
import onnxruntime
import pytest
import soundfile

from processors import audio
from processors.models.packages import packaged_file
from processors.models.silero import CONTEXT, STATE, WINDOW, Floats, SileroVad
from schemas.errors import CalltideError

pytestmark = pytest.mark.models
RATES = pytest.mark.parametrize("rate", [16_000, 8_000])


@pytest.fixture(scope="module")
def model() -> SileroVad:
    return SileroVad()


def windows_of_sample(rate: int) -> Floats:
    """The sample (30 s) cut into windows: (n, WINDOW[rate])."""
    samples, native = soundfile.read(
        packaged_file("pyannote.audio", "pyannote/audio/sample/sample.wav"), dtype="float32"
    )
    samples = audio.resample(samples, native, rate)
    return samples[: len(samples) // WINDOW[rate] * WINDOW[rate]].reshape(-1, WINDOW[rate])


def listen(model: SileroVad, rate: int, channels: Floats) -> tuple[Floats, Floats]:
    """Probabilities (channels, n) and last states of `channels` (channels, n, window), all stepped together."""
    states = np.zeros((len(channels), *STATE), np.float32)
    contexts = np.zeros((len(channels), CONTEXT[rate]), np.float32)
    probabilities = []
    for i in range(channels.shape[1]):
        probability, states, contexts = model.step(rate, channels[:, i], states, contexts)
        probabilities.append(probability)
    return np.stack(probabilities, axis=1), states


@RATES
def test_probabilities_are_those_of_the_published_way_of_calling_the_model(model: SileroVad, rate: int) -> None:
    """As `OnnxWrapper` of silero_vad/utils_vad.py does it: one window at a time, the end of the last one before it."""
    session = onnxruntime.InferenceSession(str(packaged_file("silero-vad", "silero_vad/data/silero_vad.onnx")))
    windows = windows_of_sample(rate)
    state, context, expected = np.zeros((2, 1, 128), np.float32), np.zeros((1, CONTEXT[rate]), np.float32), []
    for window in windows:
        heard = np.concatenate([context, window[np.newaxis]], axis=1)
        output, state = session.run(None, {"input": heard, "state": state, "sr": np.array(rate)})
        context = heard[:, -CONTEXT[rate] :]
        expected.append(output.item())
    probabilities, states = listen(model, rate, windows[np.newaxis])
    np.testing.assert_array_equal(probabilities[0], np.array(expected, np.float32))
    np.testing.assert_array_equal(states[0], state[:, 0])


@RATES
def test_a_channel_has_the_same_bits_alone_and_in_any_company(model: SileroVad, rate: int) -> None:
    windows = windows_of_sample(rate)[200:320]
    # Different moments of the call, each also very quiet and very loud, as channels beside each other.
    channels = np.stack([np.roll(windows, 5 * i, axis=0) * np.float32(0.01 * 3**i % 4) for i in range(40)])
    alone = [listen(model, rate, channel[np.newaxis]) for channel in channels]
    order = np.random.default_rng(7).permutation(len(channels))
    for size in (2, 3, 7, 16, 17, 40):
        chosen = order[:size]
        probabilities, states = listen(model, rate, channels[chosen])
        for row, channel in enumerate(chosen):
            np.testing.assert_array_equal(probabilities[row], alone[channel][0][0])
            np.testing.assert_array_equal(states[row], alone[channel][1][0])
        order = np.roll(order, 5)


@RATES
def test_speech_is_found_where_people_speak(model: SileroVad, rate: int) -> None:
    probabilities = listen(model, rate, windows_of_sample(rate)[np.newaxis])[0][0]
    middles = (np.arange(len(probabilities)) + 0.5) * WINDOW[rate] / rate
    reference = packaged_file("pyannote.audio", "pyannote/audio/sample/sample.rttm").read_text()
    turns = [
        (float(fields[3]), float(fields[3]) + float(fields[4])) for fields in map(str.split, reference.splitlines())
    ]
    speech = np.array([any(start <= at < end for start, end in turns) for at in middles])
    assert np.mean(probabilities[speech] > 0.5) > 0.95  # 0.98 measured at both rates
    assert np.mean(probabilities[~speech] > 0.5) < 0.05  # 0.01 measured


@RATES
def test_silence_and_noise_are_not_speech(model: SileroVad, rate: int) -> None:
    noise = np.random.default_rng(3).normal(0, 0.05, (1, 150, WINDOW[rate])).astype(np.float32)
    channels = np.concatenate([np.zeros_like(noise), noise])
    assert np.max(listen(model, rate, channels)[0]) < 0.35


def test_nothing_is_changed_in_place_or_shared(model: SileroVad) -> None:
    rng = np.random.default_rng(5)
    given = [rng.normal(0, 0.1, shape).astype(np.float32) for shape in ((3, 256), (3, 2, 128), (3, 32))]
    before = [array.copy() for array in given]
    results = model.step(8_000, *given)
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert not any(np.shares_memory(array, result) for result in results)
    assert [result.shape for result in results] == [(3,), (3, 2, 128), (3, 32)]


def test_kernels_that_depend_on_the_batch_are_found_out_and_given_one_row_at_a_time() -> None:
    class Unsteady(SileroVad):
        def _run(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats]:
            probabilities, new_states = super()._run(rate, windows, states, contexts)
            return probabilities, new_states + np.spacing(new_states) * (len(windows) > 11)

    model, windows = Unsteady(), windows_of_sample(8_000)[np.newaxis, 200:230]
    together = listen(model, 8_000, np.repeat(windows, 12, axis=0))
    alone = listen(model, 8_000, windows)
    np.testing.assert_array_equal(together[0][11], alone[0][0])
    np.testing.assert_array_equal(together[1][11], alone[1][0])


def test_weights_that_are_not_installed_are_an_error_that_says_so() -> None:
    with pytest.raises(CalltideError, match="no-such-package is not installed"):
        packaged_file("no-such-package", "weights.onnx")
    with pytest.raises(CalltideError, match=r"has no silero_vad/data/none\.onnx"):
        packaged_file("silero-vad", "silero_vad/data/none.onnx")
