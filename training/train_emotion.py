"""Train the committed emotion head on acted speech and measure it on unheard speakers; writes docs/emotion.md's tables.

    python -m training.train_emotion --cache build/emotion

The method is that of `calltide train emotion` (streams/training/emotion.py); here it gets RAVDESS and EmoDB at once
and, as neutral, some read speech, without which the head hears sadness in most of LibriSpeech.

The one thing to know: the speakers in HELD_OUT never enter the committed model, so that a test can use them. Figures
of all other speakers come from cross-validation over speakers. Everything is seeded: one machine gives one result.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import soundfile
from numpy.typing import NDArray

from processors.audio import resample
from processors.models.emotion import EMOTIONS, MEANT_AS, RATE, WhisperEncoder, WhisperStatsEmotion
from streams.training.common import Report, confusion_table, report
from streams.training.emotion import (
    BANDS,
    Array,
    Clip,
    Head,
    Rows,
    best_temperature,
    compare,
    export,
    features,
    fit,
    load,
    read_clips,
    softmax,
)
from training.weights import WEIGHTS, record, store_as_fp16

HELD_OUT = ("ravdess-19", "ravdess-20", "emodb-14")
READ_ALOUD = ("1688", "2033", "367")
"""Speakers of calls/made whose turns are trained on as neutral; the other two, and the calls, show what it leads to."""
CORPORA = {"ravdess": "RAVDESS", "emodb": "EmoDB"}
FOLDS = 6
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
NAME = "whisper-tiny-stats-2"
PAGE = Path(__file__).parents[1] / "docs" / "emotion.md"
BEGIN, END = "<!-- figures: python -m training.train_emotion -->", "<!-- end of figures -->"


def cached(file: Path | None, recordings: Sequence[Callable[[], Array]], encoder: WhisperEncoder) -> Array:
    """Their `features`, from `file` if it is there."""
    if file and file.exists():
        kept: Array = np.load(file)
        return kept
    x = features(recordings, encoder)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, x)
    return x


def calibration_error(probability: Array, label: Rows) -> float:
    """Expected calibration error of the top class, ten equal bins of confidence."""
    confidence, right = probability.max(1), probability.argmax(1) == label
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def judged(label: Rows, probability: Array) -> Report:
    return report(EMOTIONS, label, probability.argmax(1))


def figures(name: str, clips: Sequence[Clip], label: Rows, probability: Array) -> list[str]:
    """Rows of the table, for (clips, bands, 6) probabilities."""
    rows = []
    for corpus in CORPORA:
        own = np.array([corpus_of(clip) == corpus for clip in clips])
        speakers = len({clip.speaker for clip in clips if corpus_of(clip) == corpus})
        for band, band_name in enumerate(BANDS):
            truth, shown = label[own], probability[own, band]
            found = judged(truth, shown)
            rows.append(
                f"| {name} | {CORPORA[corpus]} | {band_name} | {speakers} | {own.sum()} | {found.accuracy:.1%} "
                f"| **{found.unweighted:.1%}** | {found.macro_f1:.1%} | {1 / len(found.recall):.1%} "
                f"| {calibration_error(shown, truth):.3f} |"
            )
    return rows


def doubt(label: Rows, probability: Array) -> list[str]:
    """What is right below and above thresholds of the top probability, over (clips, bands, 6)."""
    confidence, right = probability.max(2), probability.argmax(2) == label[:, None]
    rows = ["| threshold | uncertain | right of these | right of the others |", "|--:|--:|--:|--:|"]
    for threshold in THRESHOLDS:
        weak = confidence < threshold
        below = f"{right[weak].mean():.0%}" if weak.any() else "none"
        rows.append(f"| {threshold} | {weak.mean():.0%} | {below} | {right[~weak].mean():.0%} |")
    return rows


def corpus_of(clip: Clip) -> str:
    return clip.file.parent.name


def read_speech(folder: Path) -> list[tuple[str, Array]]:
    """Speaker and samples of the turns of the calls made of LibriSpeech: read aloud, without an emotion meant."""
    turns: list[tuple[str, Array]] = []
    for script in sorted(folder.glob("*.json")):
        samples, _ = soundfile.read(script.with_suffix(".flac"), dtype="float32")
        turns += [
            (turn["speaker"], samples[int(turn["start"] * RATE) : int(turn["end"] * RATE)])
            for turn in json.loads(script.read_text())
        ]
    return turns


def pieces_of_call(file: Path, channel: int) -> list[Array]:
    """Pieces of 4 s of one party of a real call, without those that are mostly silence (judgement: under -46 dBFS)."""
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    party = resample(np.ascontiguousarray(samples[:, channel]), rate, RATE)
    pieces = party[: len(party) // (4 * RATE) * (4 * RATE)].reshape(-1, 4 * RATE)
    return [piece for piece in pieces if np.sqrt(np.mean(piece**2)) > 0.005]


def heard_in(model: WhisperStatsEmotion, recordings: list[Array], threshold: float) -> str:
    """Shares of the emotions heard in recordings, and of the uncertain, as cells of a table."""
    rows = model.predict(recordings)
    shares = np.bincount(rows.argmax(1), minlength=len(EMOTIONS)) / len(rows)
    return " | ".join(f"{share:.0%}" for share in shares) + f" | {(rows.max(1) < threshold).mean():.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = Path(os.environ.get("CALLTIDE_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder with emotion/ and calls/ (default %(default)s)")
    parser.add_argument(
        "--cache", type=Path, help="folder to keep the features in, and to read them from if they are there"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS / "emotion.onnx")
    arguments = parser.parse_args()
    started = time.monotonic()

    meant = {**{name: name for name in EMOTIONS}, **MEANT_AS}
    clips = [clip for clip in read_clips(arguments.data / "emotion") if meant[clip.emotion] in EMOTIONS]
    encoder = WhisperEncoder()
    cache = arguments.cache
    x = cached(cache and cache / "acted.npy", [partial(load, clip.file) for clip in clips], encoder)
    turns = read_speech(arguments.data / "calls" / "made")
    y = cached(cache and cache / "read.npy", [partial(np.asarray, turn) for _, turn in turns], encoder)
    aloud = y[np.array([speaker in READ_ALOUD for speaker, _ in turns])]
    label = np.array([EMOTIONS.index(meant[clip.emotion]) for clip in clips], np.intp)
    corpus = np.array([corpus_of(clip) for clip in clips])
    held_out = np.array([clip.speaker in HELD_OUT for clip in clips])
    known = ~held_out
    bands = x[:, : len(BANDS)]

    def fit_on(chosen: NDArray[np.bool_], with_reading: bool = True) -> Head:
        if not with_reading:
            return fit(EMOTIONS, x[chosen], label[chosen])
        calm = np.full(len(aloud), EMOTIONS.index("neutral"), np.intp)
        return fit(EMOTIONS, np.concatenate([x[chosen], aloud]), np.concatenate([label[chosen], calm]))

    def logits_of(head: Head, chosen: NDArray[np.bool_]) -> Array:
        return head.logits(bands[chosen].reshape(-1, x.shape[2])).reshape(-1, len(BANDS), len(EMOTIONS))

    print(f"cross-validation over speakers, {FOLDS} folds")
    fold_of = {}
    for name in CORPORA:
        speakers = sorted({clip.speaker for clip in clips if corpus_of(clip) == name} - set(HELD_OUT))
        fold_of.update({speaker: number % FOLDS for number, speaker in enumerate(speakers)})
    fold = np.array([fold_of.get(clip.speaker, -1) for clip in clips])
    logits = np.zeros((len(clips), len(BANDS), len(EMOTIONS)), np.float32)
    for number in range(FOLDS):
        outside = fold == number
        logits[outside] = logits_of(fit_on(~held_out & (fold != number)), outside)
        found = judged(label[outside], logits[outside, 1]).unweighted
        print(f"  fold {number + 1}: {outside.sum()} clips, unweighted accuracy over G.711 {found:.1%}")
    flat = logits[known].reshape(-1, len(EMOTIONS))
    temperature = best_temperature(flat, np.repeat(label[known], len(BANDS)), len(EMOTIONS))

    print("final model on all speakers but", ", ".join(HELD_OUT))
    head = replace(fit_on(~held_out), temperature=temperature)
    logits[held_out] = logits_of(head, held_out)
    probability = softmax(logits / np.float32(temperature))

    print("one corpus to the other")
    cross = []
    for train, test in (("ravdess", "emodb"), ("emodb", "ravdess")):
        inside = ~held_out & (corpus == train)
        both = known & (corpus == test) & np.isin(label, np.unique(label[inside]))
        for reading, which in (("no", fit_on(inside, False)), ("yes", fit_on(inside))):
            shown = logits_of(which, both)
            wide, phone = (judged(label[both], shown[:, band]) for band in range(len(BANDS)))
            cross.append(
                f"| {CORPORA[train]} | {CORPORA[test]} | {reading} | {wide.unweighted:.1%} | {phone.unweighted:.1%} "
                f"| {1 / len(wide.recall):.1%} |"
            )

    arguments.out.write_bytes(store_as_fp16(onnx.load_from_string(export(head, NAME))).SerializeToString())
    compare(arguments.out, head, largest=0.01)
    model = WhisperStatsEmotion(arguments.out)

    print("people who do not act, and time")
    calls = arguments.data / "calls"
    prompts = [soundfile.read(file, dtype="float32") for file in sorted((arguments.data / "prompts").glob("*.flac"))]
    others = {
        "LibriSpeech, two other speakers": [samples for speaker, samples in turns if speaker not in READ_ALOUD],
        "telephone prompts, one voice": [resample(samples, rate, RATE) for samples, rate in prompts],
        "auto-repair-40, agent": pieces_of_call(calls / "auto-repair-40.flac", 0),
        "auto-repair-40, caller": pieces_of_call(calls / "auto-repair-40.flac", 1),
        "bank-agent": pieces_of_call(calls / "bank-agent.flac", 0),
    }
    heard = [f"| {name} | {len(pieces)} | {heard_in(model, pieces, 0.5)} |" for name, pieces in others.items()]
    three_seconds = turns[0][1][: 3 * RATE]
    cpu = time.process_time()
    for _ in range(20):
        model.predict([three_seconds])
    cpu_ms = (time.process_time() - cpu) / 20 * 1000

    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d}, one thread of {os.cpu_count()} CPU cores ({platform.machine()}); "
        f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}. "
        f"Temperature {temperature}. CPU time for an utterance of 3 s: {cpu_ms:.0f} ms.",
        "",
        "| measured by | corpus | band | speakers | clips | accuracy | UAR | macro-F1 | chance | calibration error |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
        *figures(
            "cross-validation",
            [c for c, own in zip(clips, known, strict=True) if own],
            label[known],
            probability[known],
        ),
        *figures(
            "kept out of the committed model",
            [c for c, own in zip(clips, held_out, strict=True) if own],
            label[held_out],
            probability[held_out],
        ),
        "",
        "UAR is unweighted average recall: the mean of the shares found of each emotion. EmoDB has no surprise.",
        "",
    ]
    for name in CORPORA:
        own = known & (corpus == name)
        lines += [f"What was heard for what was meant, {CORPORA[name]} over G.711 (cross-validation):", ""]
        lines += [*confusion_table(judged(label[own], probability[own, 1])), ""]
    lines += [
        "The likelier the strongest emotion, the oftener it is right (cross-validation, both corpora and bands):",
        "",
        *doubt(label[known], probability[known]),
        "",
        "Trained on one corpus, measured on the other (emotions that both have):",
        "",
        "| trained on | measured on | read speech | UAR wide | UAR G.711 | chance |",
        "|---|---|---|--:|--:|--:|",
        *cross,
        "",
        "What is heard in people who do not act (without labels, so no figures of quality):",
        "",
        f"| recording | pieces | {' | '.join(EMOTIONS)} | uncertain |",
        "|---|--:|" + "--:|" * (len(EMOTIONS) + 1),
        *heard,
    ]
    print("\n".join(lines))
    print(f"{time.monotonic() - started:.0f} s in all")
    if arguments.out == WEIGHTS / "emotion.onnx":
        page = PAGE.read_text()
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text("\n".join([before, *lines, after]))
        record(
            arguments.out,
            source="trained on RAVDESS (Livingstone & Russo 2018), EmoDB (Burkhardt et al. 2005), LibriSpeech",
            source_version="2",
            licence="CC-BY-NC-SA-4.0 (of RAVDESS, which it is trained on)",
            made_by="training/train_emotion.py",
            used_for="emotion of an utterance from the voice",
            hub_id="firdhokk/speech-emotion-recognition-with-openai-whisper-large-v3",
        )


if __name__ == "__main__":
    main()
