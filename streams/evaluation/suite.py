"""The default suite: the recordings and texts that the figures of docs/models.md are measured on.

They lie in the folder of the setting CALLTIDE_TEST_DATA, in the layouts in which they are published. A changer must
know: only what no committed model was trained on may be here. `EMOTION_SPEAKERS` and the parts of the texts follow
`training/train_emotion.py` and `training/train_sentiment.py`; tests/unit/test_evaluation_suite.py compares them.
"""

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from schemas.errors import CalltideError
from schemas.events import Role
from streams.evaluation.hearing import Ears
from streams.evaluation.manifest import Call, Clip, DataSet, Item, Text, Turn, Word, data_set

EMOTION_SPEAKERS: Final = ("ravdess-19", "ravdess-20", "emodb-14")
"""Kept out of the committed emotion model."""
TEXTS_AT_MOST: Final = 1_000
"""Texts drawn (seeded) from each set: an interval of ±3 points at 70 %, and minutes of CPU less."""
HELPDESK_LABELS: Final = Path(__file__).parents[2] / "training" / "helpdesk_turns.tsv"
"""Checksum of a customer's turn in the calls that training leaves out → its label, or `doubtful`."""
CLASSES: Final = {"1": "negative", "2": "neutral", "3": "positive"}
"""GoEmotions' class numbers in goemotions-labels.txt; comments with several, or only 0 (ambiguous), are left out."""


def applies(folder: Path) -> bool:
    """Whether a folder has the layout of the default suite."""
    return (folder / "calls" / "made").is_dir() and (folder / "emotion" / "index.jsonl").is_file()


def default(folder: Path, ears: Ears) -> list[DataSet]:
    """All data sets of the suite. `ears` finds who speaks on the separate channels of a call before they are mixed.

    Raises CalltideError where the folder has not the layout.
    """
    if not applies(folder):
        raise CalltideError(
            f"no recordings of the default suite at {folder}; set CALLTIDE_TEST_DATA, or name manifests of your own"
        )
    calls, emotion, text = folder / "calls", folder / "emotion", folder / "text"
    made = sorted((calls / "made").glob("*.json"))
    return [
        data_set(
            "made-mono",
            (Call(file=file.with_suffix(".flac"), turns=_turns(file)) for file in made),
            "six calls of about a minute put together from LibriSpeech test-other: two readers on one channel, some "
            "turns overlapping by 0.4 s",
            "read sentences of books, no spontaneous speech, hardly any overlap, quiet rooms; "
            "thresholds of the voice activity and speaker stages were looked at on these calls",
        ),
        data_set(
            "made-stereo",
            (Call(file=file.with_name(f"{file.stem}-stereo.wav"), turns=_turns(file)) for file in made),
            "the same six calls as the telephone gives them: 8 kHz mu-law, one party a channel",
            "read sentences; the channels hold nothing of the other party, as a real line may",
        ),
        data_set(
            "phone-chat",
            [
                Call(
                    file=calls / "phone-chat.flac",
                    turns=_rttm(calls / "phone-chat.rttm"),
                    transcript=_stm(calls / "phone-chat.stm"),
                )
            ],
            "30 s of a real telephone chat of two women on one channel, with overlap",
            "half a minute of one call: the interval is that of its pieces and says nothing about other callers",
        ),
        data_set(
            "contoso-account",
            [Call(file=calls / "contoso-account.flac", transcript=_contoso(calls / "contoso-account.txt"))],
            "a customer's call of 127 s about a change of address, agent and customer on one channel",
            "synthetic voices and a written script: clearer than people, and the phrases of a model agent",
        ),
        data_set(
            "auto-repair-mixed",
            [
                Call(
                    file=calls / "auto-repair-40.flac",
                    mix=True,
                    turns=_by_channel(calls / "auto-repair-40.flac", ears),
                )
            ],
            "a real customer's call of 245 s to a car dealer (8 kHz), its two channels mixed into one; who speaks when "
            "is what Calltide hears on the separate channels",
            "one call; the reference is Calltide's own voice activity, so missed speech and false alarms are not "
            "independent of it, confusion and roles are",
        ),
        data_set(
            "prompts",
            _clips(folder / "prompts" / "index.jsonl", lambda row: {"text": row["text"]}),
            "60 announcements of a telephone exchange (Asterisk), 8 kHz, one trained voice",
            "one speaker who reads clearly, without noise; short phrases",
        ),
        *(
            data_set(
                f"{corpus}-unheard",
                _clips(
                    emotion / "index.jsonl",
                    lambda row: {"speaker": row["speaker"], "emotion": row["emotion"]},
                    lambda row, corpus=corpus: (  # type: ignore[misc]
                        row["speaker"] in EMOTION_SPEAKERS and row["speaker"].startswith(corpus)
                    ),
                ),
                about,
                "actors who show one emotion in a given sentence, in a studio; so few people that the interval, which "
                "is over clips, says nothing about other voices (docs/emotion.md has the cross-validation)",
            )
            for corpus, about in (
                ("ravdess", "English clips of the two actors of RAVDESS whom no committed model has heard"),
                ("emodb", "German clips of the one speaker of EmoDB whom no committed model has heard"),
            )
        ),
        data_set(
            "help-desk-turns",
            _helpdesk(text / "helpdesk-calls.jsonl"),
            "what customers say in the help-desk calls that are kept out of training, with labels of this project's "
            "own, without the doubtful ones",
            "calls written by a machine, in whole sentences and about computers; few turns",
        ),
        data_set(
            "goemotions",
            _drawn(_goemotions(text / "goemotions-dev.tsv")),
            "Reddit comments of GoEmotions' dev file, odd rows, those with one label that is not ambiguous",
            "written by strangers to strangers, of all topics; people who label them often differ",
        ),
        data_set(
            "tweets",
            _drawn(_tweets(text)),
            "tweets of SemEval-2017's validation part, odd rows",
            "written and public; about news, brands and stars",
        ),
        *(
            data_set(
                f"hutto-{name}",
                _drawn(_hutto(text / f"hutto-{name}.tsv")),
                f"{about} with mean human scores, a tenth kept out by their numbers",
                "gathered by VADER's authors while they built it, and VADER is a member of the ensemble: flattering",
            )
            for name, about in (("amazon", "sentences of product reviews"), ("tweets", "tweets"))
        ),
        data_set(
            "film-reviews",
            _drawn(_films(text / "sst2-train.tsv")),
            "whole sentences of film reviews (SST-2), positive or negative, one in ten, kept out of training with all "
            "their pieces",
            "two classes and a field of its own: nobody reviews films on a call",
        ),
    ]


def _rows(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CalltideError(f"{path} cannot be read ({error.strerror}); the default suite needs it") from None


def _turns(file: Path) -> tuple[Turn, ...]:
    return tuple(Turn.model_validate(row) for row in json.loads(file.read_text("utf-8")))


def _rttm(file: Path) -> tuple[Turn, ...]:
    """Turns of NIST's RTTM: SPEAKER, file, channel, start, length, two unused, name."""
    rows = [row.split() for row in _rows(file) if row.startswith("SPEAKER")]
    return tuple(Turn(start=float(r[3]), end=float(r[3]) + float(r[4]), speaker=r[7]) for r in rows)


def _stm(file: Path) -> tuple[Turn, ...]:
    """Turns of NIST's STM: file, channel, speaker, start, end, words. A line's edges are those of its outer words."""
    turns = []
    for row in _rows(file):
        _, _, speaker, start, end, text = row.split(maxsplit=5)
        parts = text.split()
        words = [Word(text=part) for part in parts]
        words[0] = words[0].model_copy(update={"start": float(start)})
        words[-1] = words[-1].model_copy(update={"end": float(end)})
        turns.append(Turn(start=float(start), end=float(end), speaker=speaker, text=text, words=tuple(words)))
    return tuple(turns)


_AGENT_SAYS: Final = re.compile(
    r"Hello Adam|Absolutely|I'd be happy|May I have your|Thank you for (providing|the update|choosing)|Now, could you"
    r"|Thank you, Adam|And what will|I have (your new|verified)|Is that correct|Perfect|Before I proceed"
    r"|My name is Chris|How may I assist|Your account information|Is there anything else|You're welcome"
    r"|If you have any further|Have a great day|Goodbye, Adam|We appreciate|Take care"
)
"""Sentences of the agent in contoso-account.txt; all others are the customer's."""


def _contoso(file: Path) -> tuple[Turn, ...]:
    sentences = re.split(r"(?<=[.?!])\s+", " ".join(_rows(file)).strip())
    roles: list[Role] = ["agent" if _AGENT_SAYS.search(sentence) else "customer" for sentence in sentences]
    return tuple(Turn(text=text, speaker=role, role=role) for text, role in zip(sentences, roles, strict=True))


def _by_channel(file: Path, ears: Ears) -> tuple[Turn, ...]:
    """Turns of a call whose parties have a channel each, by the chain itself."""
    heard = ears.call(Call(file=file), "narrow")
    return tuple(
        Turn(start=score.start_ms / 1_000, end=score.end_ms / 1_000, speaker=score.role, role=score.role)
        for score in heard.scores
        if score.text
    )


def _clips(
    index: Path, fields: Callable[[dict[str, Any]], dict[str, Any]], wanted: Callable[[Any], bool] = lambda _row: True
) -> list[Item]:
    rows = [json.loads(line) for line in _rows(index)]
    return [Clip.model_validate({"file": index.parent / row["file"], **fields(row)}) for row in rows if wanted(row)]


def _drawn(texts: Iterator[Text]) -> list[Text]:
    """At most TEXTS_AT_MOST of them, in order."""
    found = list(texts)
    if len(found) <= TEXTS_AT_MOST:
        return found
    return [found[place] for place in sorted(random.Random(0).sample(range(len(found)), TEXTS_AT_MOST))]


def _helpdesk(file: Path) -> Iterator[Text]:
    labels = dict(row.split("\t") for row in _rows(HELPDESK_LABELS))
    calls = [json.loads(row) for row in _rows(file)]
    for text in sorted({turn["text"] for call in calls for turn in call["turns"] if turn["role"] == "customer"}):
        label = labels.get(f"{zlib.crc32(text.encode()):08x}")
        if label in ("negative", "neutral", "positive"):
            yield Text.model_validate({"text": text, "sentiment": label})


def _goemotions(file: Path) -> Iterator[Text]:
    for row in _rows(file)[1::2]:
        text, classes, _ = row.split("\t")
        if classes in CLASSES:
            yield Text.model_validate({"text": text, "sentiment": CLASSES[classes]})


def _tweets(folder: Path) -> Iterator[Text]:
    texts = (folder / "tweets-val-text.txt").read_text("utf-8").split("\n")
    labels = _rows(folder / "tweets-val-labels.txt")
    for text, label in list(zip(texts, labels, strict=False))[1::2]:
        yield Text.model_validate({"text": text, "sentiment": ("negative", "neutral", "positive")[int(label)]})


def _hutto(file: Path) -> Iterator[Text]:
    for row in _rows(file):
        key, score, text = row.split("\t", 2)
        source = key.split("_")[0]
        if int(source) % 10 == 1:
            yield Text(text=text, speaker=source, sentiment=float(score) / 4)


def _films(file: Path) -> Iterator[Text]:
    """Whole sentences, one in ten by the hash of their words; training keeps clear of them and of their pieces."""
    labels = {" ".join(text.split()): label for text, label in (row.rsplit("\t", 1) for row in _rows(file)[1:])}
    everything = "\n".join(f" {text} " for text in labels)
    for text, label in labels.items():
        words = text.split()
        if len(words) < 8 or words[-1] not in (".", "!", "?", "''") or zlib.crc32(text.encode()) % 10 != 1:
            continue
        if everything.count(f" {text} ") == 1:
            yield Text.model_validate({"text": text, "sentiment": ("negative", "positive")[int(label)]})
