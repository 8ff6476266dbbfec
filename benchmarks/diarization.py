"""How well voices on one mixed channel are told apart: `python -m benchmarks.diarization`.

Reference turns of two-party calls go through the diarization stage with its real model, as 16 kHz and as 8 kHz mu-law
audio. Printed are the share of speech time given to the wrong speaker at each threshold; the same when short segments
may open a speaker too; and the slope of the confidence, fitted over the margins between right and wrong speaker. The
figures stand in processors/diarization.py.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from processors import audio, diarization
from processors.models.speaker import RATE, CamPlusPlus
from schemas.events import CallInfo, Segment
from streams.settings import load

THRESHOLDS = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.62, 0.65, 0.7)
LONGEST_S, BRIEF_S = 15.0, 0.5

Floats = NDArray[np.float32]
Turn = tuple[float, float, str]
INFO = CallInfo(call_id="benchmark", started_at=datetime(2026, 1, 1, tzinfo=UTC), roles=("unknown",))


def calls(folder: Path) -> Iterator[tuple[str, Path, list[Turn]]]:
    """(name, recording, turns: start and end in seconds, speaker), no turn longer than VAD lets a segment be."""
    lines = [line.split() for line in (folder / "phone-chat.rttm").read_text().splitlines()]
    yield "phone-chat", folder / "phone-chat.flac", [(float(c[3]), float(c[3]) + float(c[4]), c[7]) for c in lines]
    for file in sorted((folder / "made").glob("*.json")):
        turns = [(turn["start"], turn["end"], turn["speaker"]) for turn in json.loads(file.read_text())]
        yield file.stem, file.with_suffix(".flac"), [part for turn in turns for part in parts(*turn)]


def parts(start: float, end: float, speaker: str) -> list[Turn]:
    edges = np.linspace(start, end, int(np.ceil((end - start) / LONGEST_S)) + 1).tolist()
    return [(first, last, speaker) for first, last in pairwise(edges)]


class Ready:
    """Gives the embeddings that were computed before, in order: the clustering alone is what varies."""

    id, dim = "ready", 192

    def __init__(self, embeddings: Floats) -> None:
        self.embeddings = embeddings

    def embed(self, audio: Sequence[Floats]) -> Floats:
        return self.embeddings


def speakers(embeddings: Floats, seconds: Sequence[float], rate: int, threshold: float | None) -> list[str]:
    """What the stage calls the speaker of each segment."""
    stage = diarization.Diarization(diarization.Config(threshold=threshold), Ready(embeddings))
    state = stage.open("benchmark")
    found = []
    for embedding, length in zip(embeddings, seconds, strict=True):
        segment = Segment.model_validate(
            {"call": INFO, "channel": 0, "start_ms": 0, "end_ms": round(length * 1_000), "cut": "pause"}
            | {"codec": "pcm_s16le", "rate": rate, "captured_at": INFO.started_at}
        )
        found.append(stage._cluster(state, segment, embedding)[0])
    return found


def confusion(found: Sequence[str], truth: Sequence[str], seconds: Sequence[float]) -> float:
    """Share of the time given to the wrong speaker, under the best assignment of names."""
    labels, people = sorted(set(found)), sorted(set(truth))
    labels += [""] * (len(people) - len(labels))
    right = max(
        sum(s for f, t, s in zip(found, truth, seconds, strict=True) if mapping[t] == f)
        for mapping in (dict(zip(people, order, strict=True)) for order in permutations(labels, len(people)))
    )
    return 1 - right / sum(seconds)


def margins(embeddings: Floats, judged: Floats, turns: Sequence[Turn]) -> Iterator[float]:
    """By how much `judged` are nearer to their own speaker than to the other; centroids without the judged turn."""
    people = sorted({speaker for _, _, speaker in turns})
    for i, (_, _, own) in enumerate(turns):
        cosine = {}
        for person in people:
            rest = [
                embedding * (end - start)
                for j, (embedding, (start, end, speaker)) in enumerate(zip(embeddings, turns, strict=True))
                if speaker == person and j != i and end - start >= diarization.SHORT_S
            ]
            centroid = np.sum(rest, axis=0)
            cosine[person] = float(judged[i] @ centroid / np.linalg.norm(centroid))
        yield cosine.pop(own) - max(cosine.values())


def slope(found: Sequence[float]) -> float:
    """The slope of the logistic curve under which these choices are likeliest."""
    slopes = np.arange(1, 60, 0.5)
    likelihood = [-np.log1p(np.exp(-k * np.array(found))).sum() for k in slopes]
    return float(slopes[int(np.argmax(likelihood))])


def main() -> None:
    """Print the figures."""
    model = CamPlusPlus()
    folder = load().test_data / "calls"
    for rate, default in ((16_000, diarization.WIDE_BAND), (8_000, diarization.TELEPHONE)):
        material = []
        for name, file, turns in calls(folder):
            samples, file_rate = soundfile.read(file, dtype="float32")
            if rate == 8_000:
                telephone = audio.encode(audio.resample(samples, file_rate, 8_000), "mulaw")
                samples, file_rate = audio.decode(telephone, "mulaw"), 8_000
            sounds = [
                audio.resample(samples[int(start * file_rate) : int(end * file_rate)], file_rate, RATE)
                for start, end, _ in turns
            ]
            brief = model.embed([sound[: int(BRIEF_S * RATE)] for sound in sounds])
            material.append((name, turns, [end - start for start, end, _ in turns], model.embed(sounds), brief))
        print(f"{rate} Hz, % of speech time confused: {', '.join(name for name, *_ in material)}")
        for threshold in THRESHOLDS:
            row = [
                confusion(speakers(embeddings, seconds, rate, threshold), [t[2] for t in turns], seconds)
                for _, turns, seconds, embeddings, _ in material
            ]
            print(f"  threshold {threshold:.2f}:  {'  '.join(f'{100 * value:4.1f}' for value in row)}")
        for opens in (False, True):
            # A stretch of half a second comes first; called long, it opens a speaker.
            row = []
            for _, turns, seconds, embeddings, brief in material:
                for first in brief:
                    length = diarization.SHORT_S if opens else BRIEF_S
                    found = speakers(np.stack([first, *embeddings]), [length, *seconds], rate, None)
                    row.append(confusion(found[1:], [turn[2] for turn in turns], seconds))
            may = "may" if opens else "may not"
            print(f"  a first word that {may} open a speaker, threshold {default}: {100 * np.mean(row):.1f} % confused")
        for what in ("turns", "first 0.5 s of turns"):
            nearer = [
                margin
                for _, turns, _, embeddings, brief in material
                for margin in margins(embeddings, embeddings if what == "turns" else brief, turns)
            ]
            wrong = 100 * np.mean(np.array(nearer) < 0)
            print(f"  {what}: {wrong:.1f} % of {len(nearer)} nearer to the wrong speaker, slope {slope(nearer):.1f}")


if __name__ == "__main__":
    main()
