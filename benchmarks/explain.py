"""What an explanation costs, and what it is worth: `python -m benchmarks.explain` takes some 3 minutes.

Utterances are of the calls in CALLTIDE_TEST_DATA, as `calltide analyze` hears them, else of the packaged conversation.
Time is of an explanation of voice and words with its models loaded; what they take to load is beside it. Faithfulness:
how far the score falls when the two parts that add most are taken away, and when two drawn ones are. A changer must
know: the masks of a voice are compared by how far they push the model towards one emotion; docs/explanations.md rests
on that table.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.support import Table, add_outputs, publish
from processors import explanation
from processors.audio import resample
from processors.explanation import Values
from processors.models.emotion import EMOTIONS, WhisperStatsEmotion
from processors.models.sentiment import EnsembleSentiment
from processors.utterances import RATE
from schemas.errors import CalltideError
from schemas.events import Score
from streams import samples
from streams.analyze import Analyzer
from streams.explain import Audio, Explainer
from streams.explain_pictures import draw
from streams.settings import Settings, load
from streams.shapley import shapley

COMMAND: Final = "python -m benchmarks.explain"
DRAWS: Final = 5
SEED: Final = 1
Samples = NDArray[np.float32]
Masked = Callable[[Samples, NDArray[np.bool_]], Samples]


def _silence(audio: Samples, left: NDArray[np.bool_]) -> Samples:
    return np.where(left, audio, np.float32(0))


def _floor(audio: Samples, left: NDArray[np.bool_]) -> Samples:
    """Noise of the level of the quietest tenth of 20 ms frames."""
    frames = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    power = np.sort((frames**2).mean(1))[: max(1, len(frames) // 10)].mean()
    noise = np.random.default_rng(SEED).normal(0, np.sqrt(power), len(audio)).astype(np.float32)
    return np.where(left, audio, noise)


def _cut(audio: Samples, left: NDArray[np.bool_]) -> Samples:
    return audio[left]


MASKS: Final[dict[str, Masked]] = {"silence": _silence, "noise floor": _floor, "cut out": _cut}


def _utterances(settings: Settings) -> list[tuple[Score, Samples]]:
    call = Path(settings.test_data) / "calls" / "auto-repair-40.flac"
    path = call if call.exists() else samples.packaged()
    emotion = settings.emotion.model_copy(update={"roles": ("all",)})
    analysis, damage = Analyzer(settings.model_copy(update={"emotion": emotion})).hear(path)
    if damage:
        raise CalltideError(damage)
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return [
        (
            one,
            resample(
                np.ascontiguousarray(sound[one.start_ms * rate // 1_000 : one.end_ms * rate // 1_000, one.channel]),
                rate,
                RATE,
            ),
        )
        for one in analysis.in_order
        if one.emotion and len(one.words) >= 4
    ]


def _costs(settings: Settings, heard: list[tuple[Score, Samples]]) -> Table:
    begin = time.perf_counter()
    explainer = Explainer(settings)
    explainer.explain(*_of(heard, 0))
    first_s = time.perf_counter() - begin
    rows = []
    for most_s in (2, 4, 6, 16):
        group = [at for at, (_, audio) in enumerate(heard) if len(audio) / RATE <= most_s]
        group = [at for at in group if len(heard[at][1]) / RATE > {2: 0, 4: 2, 6: 4, 16: 6}[most_s]][:5]
        if not group:
            continue
        walls, cpus = [], []
        for at in group:
            wall, cpu = time.perf_counter(), time.process_time()
            explainer.explain(*_of(heard, at))
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        words = statistics.mean(len(heard[at][0].words) for at in group)
        rows.append(
            (
                f"up to {most_s} s",
                f"{len(group)}",
                f"{words:.0f}",
                *(f"{seconds:.2f}" for seconds in (statistics.median(walls), max(walls), statistics.median(cpus))),
            )
        )
    return Table(
        "An explanation of voice and words",
        ("utterance", "utterances", "words", "median s", "longest s", "CPU s"),
        rows,
        [f"The first of a process, which imports shap and loads the models, took {first_s:.1f} s."],
    )


def _of(heard: list[tuple[Score, Samples]], at: int) -> tuple[Score, list[Score], Audio]:
    score, audio = heard[at]
    return score, [one for one, _ in heard if one.speaker == score.speaker and one is not score], Audio(audio, "file")


def _masks(voice: WhisperStatsEmotion, heard: list[tuple[Score, Samples]]) -> Table:
    draws = np.random.default_rng(SEED)
    whole, masked = [], {name: [] for name in MASKS}  # type: ignore[var-annotated]
    for score, audio in heard:
        edges = explanation._edges(score.words, score.start_ms, len(audio))
        part_of = np.repeat(np.arange(len(score.words)), np.diff(edges))
        kept = np.zeros(len(score.words), np.bool_)
        kept[draws.permutation(len(kept))[: len(kept) // 2]] = True
        left = kept[part_of]
        if not left.any():
            continue
        whole.append(voice.predict([audio])[0])
        for name, mask in MASKS.items():
            masked[name].append(voice.predict([mask(audio, left)])[0])
    before = np.array(whole)
    rows = [("nothing", *(f"{share:.2f}" for share in before.mean(0)), "0.00", "100 %")]
    for name, found in masked.items():
        after = np.array(found)
        bias = np.abs((after - before).mean(0)).sum() / 2
        same = (after.argmax(1) == before.argmax(1)).mean()
        rows.append((name, *(f"{share:.2f}" for share in after.mean(0)), f"{bias:.2f}", f"{same:.0%}"))
    silence = voice.predict([np.zeros(3 * RATE, np.float32)])[0]
    return Table(
        "Half of the words of each utterance masked",
        ("masked by", *EMOTIONS, "moved", "same emotion"),
        rows,
        [
            f"Mean probabilities over {len(before)} utterances; moved: probability that changed its emotion.",
            f"Of 3 s of pure silence the model says sadness {silence[EMOTIONS.index('sadness')]:.2f}.",
        ],
    )


def _falls(played: "list[tuple[explanation.Game, Values]]", column: int, draws: np.random.Generator) -> Iterator[float]:
    """Of the last game: how far it falls without the two parts that add most, and without two drawn ones."""
    game, values = played[-1]
    parts = len(values)
    towards = 1.0 if values[:, column].sum() >= 0 else -1.0
    chosen = [np.argsort(-towards * values[:, column])[:2], *(draws.permutation(parts)[:2] for _ in range(DRAWS))]
    masks = np.array([np.ones(parts, bool), *(~np.isin(np.arange(parts), gone) for gone in chosen)])
    answers = towards * game(masks)[:, column]
    yield float(answers[0] - answers[1])
    yield float(answers[0] - answers[2:].mean())


def _faithful(voice: WhisperStatsEmotion, text: EnsembleSentiment, heard: list[tuple[Score, Samples]]) -> Table:
    draws = np.random.default_rng(SEED)
    falls: dict[str, list[tuple[float, ...]]] = {"voice": [], "words": []}
    played: list[tuple[explanation.Game, Values]] = []

    def kept(game: explanation.Game, parts: int, questions: int) -> Values:
        values = shapley(game, parts, questions)
        played.append((game, values))
        return values

    for score, audio in heard:
        assert score.emotion is not None
        explanation.explain_voice(score, audio, voice, kept)
        if len(played[-1][1]) >= 4:
            falls["voice"].append((*_falls(played, EMOTIONS.index(score.emotion.label), draws),))
        explanation.explain_words(score, text, kept)
        falls["words"].append((*_falls(played, 0, draws),))
    rows: list[tuple[str, ...]] = []
    for name, pairs in falls.items():
        top, drawn = np.array(pairs).T
        rows.append((name, f"{len(pairs)}", f"{top.mean():.3f}", f"{drawn.mean():.3f}", f"{(top > drawn).mean():.0%}"))
    return Table(
        "How far the score falls when two parts are taken away",
        ("of", "utterances", "the two that add most", "two drawn ones", "the first fall farther"),
        rows,
        [f"Drawn: mean of {DRAWS} draws."],
    )


def _draw(folder: Path, settings: Settings, heard: list[tuple[Score, Samples]]) -> None:
    """Of the customer's utterances of 6 to 12 words, the one whose words say most."""
    at = max(
        (at for at, (score, _) in enumerate(heard) if 6 <= len(score.words) <= 12 and score.role != "agent"),
        key=lambda at: abs(heard[at][0].sentiment.text_score) if heard[at][0].sentiment else 0.0,  # type: ignore[union-attr]
    )
    explained = Explainer(settings).explain(*_of(heard, at))
    for path in draw(folder, explained, heard[at][1]):
        path.rename(folder / f"explanation-{path.name.rsplit('-', 1)[1]}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--utterances", type=int, default=20, help="most utterances for masks and faithfulness")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the clearest utterance for the docs")
    add_outputs(parser)
    arguments = parser.parse_args()
    settings = load()
    heard = _utterances(settings)
    some = heard[:: max(1, len(heard) // arguments.utterances)][: arguments.utterances]
    voice, text = WhisperStatsEmotion(), EnsembleSentiment()
    tables = [_costs(settings, heard), _masks(voice, some), _faithful(voice, text, some)]
    publish({COMMAND: tables}, arguments)
    if arguments.pictures:
        _draw(arguments.pictures, settings, heard)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
