"""Data sets with truth, as files: the format that `calltide eval` reads. docs/evaluation.md describes it for users.

Two kinds of file. `NAME.json` is the list of turns of the recording beside it (`NAME.flac`, `.wav`, …). A `.jsonl` file
holds one item a line: a call (it has `turns` or `transcript`), a clip (it has `file`), or a text. A directory stands
for all of both in it. Times are seconds, paths are relative to the manifest, fields that are not known are ignored.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from schemas.errors import CalltideError
from schemas.events import EmotionLabel, Role, SentimentLabel

SUFFIXES: Final = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".webm")
EMOTIONS: Final[dict[str, EmotionLabel | None]] = {
    "neutral": "neutral",
    "happiness": "happiness",
    "sadness": "sadness",
    "anger": "anger",
    "fear": "fear",
    "surprise": "surprise",
    "calm": "neutral",
    "boredom": "neutral",
    "disgust": None,
}
"""Names that data sets use → ours. Even voices are neutral to a call centre; None: left out, none of the six fits."""
ALIASES: Final = {
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "fearful": "fear",
    "surprised": "surprise",
    "disgusted": "disgust",
    "bored": "boredom",
}
"""Other words for them, here and in `calltide train emotion`; capitals do not matter."""
NEUTRAL_BAND: Final = 0.125
"""A sentiment given as a number is neutral this near to 0: half a point of human scores from −4 to 4 (judgement)."""


def _known_emotion(name: str) -> str:
    known = ALIASES.get(name.lower(), name.lower())
    if known not in EMOTIONS:
        raise ValueError(f"unknown emotion {name!r}; known are {', '.join(EMOTIONS)}")
    return known


def _known_sentiment(truth: object) -> object:
    if truth in ("negative", "neutral", "positive") or (isinstance(truth, int | float) and -1 <= truth <= 1):
        return truth
    raise ValueError(f"{truth!r} is none of negative, neutral, positive, nor a number from -1 to 1")


Seconds = Annotated[float, Field(ge=0)]
EmotionName = Annotated[str, AfterValidator(_known_emotion)]
SentimentTruth = Annotated[SentimentLabel | float, BeforeValidator(_known_sentiment)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Word(_Model):
    """A word of a turn with the times that are known of it."""

    text: str
    start: Seconds | None = None
    end: Seconds | None = None


class Turn(_Model):
    """What one party says in one go. Without times it stands in order, and its words alone are compared."""

    start: Seconds | None = None
    end: Seconds | None = None
    channel: int = Field(default=0, ge=0)
    speaker: str = ""
    role: Role | None = None
    text: str | None = None
    words: tuple[Word, ...] = ()
    emotion: EmotionName | None = None
    sentiment: SentimentTruth | None = None

    @property
    def name(self) -> str:
        """Who speaks: the speaker's name, or else the role, or else the channel."""
        return self.speaker or self.role or f"channel-{self.channel}"


class Call(_Model):
    """A recording of a call. `turns` say who speaks when; `transcript`, where given, what is said in their place."""

    file: Path
    roles: tuple[Role, ...] | None = None
    mix: bool = False
    turns: tuple[Turn, ...] | None = None
    transcript: tuple[Turn, ...] | None = None

    @property
    def spoken(self) -> tuple[Turn, ...]:
        """The turns whose text is known, in order of time; empty `turns` mean that nobody says anything."""
        spoken = [turn for turn in self.transcript or self.turns or () if turn.text is not None]
        return tuple(sorted(spoken, key=lambda turn: -1.0 if turn.start is None else turn.start))


class Clip(_Model):
    """A short recording of one person."""

    file: Path
    speaker: str = ""
    text: str | None = None
    emotion: EmotionName | None = None
    sentiment: SentimentTruth | None = None


class Text(_Model):
    """Something that was said or written. Texts of one `speaker` (or source) are drawn together in the intervals."""

    text: str = Field(min_length=1)
    speaker: str = ""
    sentiment: SentimentTruth


Item = Call | Clip | Text
_TURNS: Final = TypeAdapter(tuple[Turn, ...])


@dataclass(frozen=True, slots=True)
class DataSet:
    """Items that are measured together. `about` and `limits` are for the reader of the figures."""

    name: str
    items: tuple[Item, ...]
    about: str = ""
    limits: str = ""
    left_out: dict[str, int] = field(default_factory=dict)


def sentiment_of(truth: SentimentTruth) -> tuple[SentimentLabel, float]:
    """(label, number from −1 to 1) of a sentiment given as either."""
    if isinstance(truth, str):
        return truth, {"negative": -1.0, "neutral": 0.0, "positive": 1.0}[truth]
    if abs(truth) <= NEUTRAL_BAND:
        return "neutral", truth
    return ("positive" if truth > 0 else "negative"), truth


def data_set(name: str, items: Iterable[Item], about: str = "", limits: str = "") -> DataSet:
    """A data set without the emotions of clips that are none of ours; `left_out` counts them by name."""
    kept: list[Item] = []
    left_out: dict[str, int] = {}
    for item in items:
        if isinstance(item, Clip) and item.emotion is not None and EMOTIONS[item.emotion] is None:
            left_out[item.emotion] = left_out.get(item.emotion, 0) + 1
            if item.text is None and item.sentiment is None:
                continue
            item = item.model_copy(update={"emotion": None})
        kept.append(item)
    return DataSet(name, tuple(kept), about, limits, left_out)


def read(paths: Sequence[Path]) -> list[DataSet]:
    """The data sets of manifests and directories: one a `.jsonl`, and one for all `.json` of a directory.

    Raises CalltideError that names file and line for what cannot be read.
    """
    sets: list[DataSet] = []
    calls: dict[Path, list[Path]] = {}
    for path in paths:
        for file in _files(path):
            if file.suffix == ".jsonl":
                sets.append(data_set(file.stem if file.stem != "index" else file.absolute().parent.name, _lines(file)))
            else:
                calls.setdefault(file.absolute().parent, []).append(file)
    sets += [data_set(folder.name, map(_call, files)) for folder, files in calls.items()]
    names = [one.name for one in sets]
    for one in sets:
        if names.count(one.name) > 1:
            raise CalltideError(f"two data sets are called {one.name}; rename one, figures are kept by name")
        if not one.items:
            raise CalltideError(f"the data set {one.name} is empty; there is nothing to measure")
    return sets


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        turns = [file for file in sorted(path.glob("*.json")) if _recording(file)]
        found = [*turns, *sorted(path.glob("*.jsonl"))]
        if not found:
            raise CalltideError(
                f"{path} holds no manifest: no .jsonl, and no .json beside a recording of its name (docs/evaluation.md)"
            )
        return found
    if not path.exists():
        raise CalltideError(f"no manifest {path}; check the name")
    if path.suffix not in (".json", ".jsonl"):
        raise CalltideError(f"{path} is no manifest; give a .json or .jsonl file or a directory (docs/evaluation.md)")
    return [path]


def without_recording(folder: Path) -> list[Path]:
    """The .json files of a directory without a recording of their name beside them: `read` leaves them out."""
    return [file for file in sorted(folder.glob("*.json")) if not _recording(file)]


def _recording(turns: Path) -> Path | None:
    suffixes = (each for suffix in SUFFIXES for each in (suffix, suffix.upper()))
    return next((file for suffix in suffixes if (file := turns.with_suffix(suffix)).exists()), None)


def _load(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CalltideError(f"{where} is no JSON ({error}); mend the line") from None


def _wrong(where: str, error: ValidationError) -> CalltideError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return CalltideError(f"{where}: {place}: {what}; mend it (docs/evaluation.md has the format)")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # Windows programs begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise CalltideError(f"{path} cannot be read ({error}); give a JSON file in UTF-8") from None


def _call(path: Path) -> Call:
    recording = _recording(path)
    if recording is None:
        raise CalltideError(f"no recording beside {path}; put {path.stem}.flac or .wav there, or use a .jsonl manifest")
    return Call(file=recording, turns=turns(_load(_text(path), str(path)), str(path)))


def turns(rows: Any, where: str) -> tuple[Turn, ...]:
    """The turns of a JSON list. Raises CalltideError for what is none, or ends before it starts.

    It does so, too, where only some have a text: whatever is heard in the others would count as wrong.
    """
    if not isinstance(rows, list):
        raise CalltideError(f"{where} is no list of turns; a call's .json is a list, items go into a .jsonl")
    try:
        found = _TURNS.validate_python(rows)
    except ValidationError as error:
        raise _wrong(where, error) from None
    for number, turn in enumerate(found):
        if (turn.start is None) != (turn.end is None) or (turn.start or 0) > (turn.end or 0):
            raise CalltideError(f"{where}: turn {number} has no start before its end; give both, in seconds")
    found = tuple(
        turn.model_copy(update={"text": " ".join(word.text for word in turn.words)})
        if turn.text is None and turn.words
        else turn
        for turn in found
    )
    if any(turn.text is not None for turn in found):
        for number, turn in enumerate(found):
            if turn.text is None:
                raise CalltideError(
                    f'{where}: turn {number} has no text and others have; give all a text ("" for none), or none'
                )
    return found


def _lines(path: Path) -> list[Item]:
    items: list[Item] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):  # not at the other marks that JSON may hold
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _load(line, where)
        if not isinstance(row, dict):
            raise CalltideError(f"{where} is no JSON object; one item a line (docs/evaluation.md)")
        items.append(_item(row, path, where))
    return items


def _item(row: dict[str, Any], manifest: Path, where: str) -> Item:
    if "file" in row:
        row = row | {"file": manifest.parent / str(row["file"])}
        if not row["file"].exists():
            raise CalltideError(f"{where}: no file {row['file']}; paths are relative to the manifest")
    for name in ("turns", "transcript"):
        if isinstance(row.get(name), str):
            beside = manifest.parent / row[name]
            row = row | {name: turns(_load(_text(beside), str(beside)), str(beside))}
        elif name in row:
            row = row | {name: turns(row[name], f"{where}, {name}")}
    if not row.keys() & {"turns", "transcript", "text", "emotion", "sentiment"}:
        raise CalltideError(f"{where} holds nothing to compare; give turns, transcript, text, emotion or sentiment")
    kind: type[Item] = Call if "turns" in row or "transcript" in row else Clip if "file" in row else Text
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        raise _wrong(where, error) from None
