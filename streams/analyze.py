"""`calltide analyze`: the same processors as in Kafka, in one process, on recordings.

A changer must know: `document` is a public format (docs/analyze.md), and the tests hold it against what arrives in
ClickHouse, in `scores` and at a websocket client for the same file.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from processors.base import Record
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, Correction, Emotion, Role, Score, decode
from schemas.topics import CHAIN
from streams.corrections import Corrections
from streams.files import open_audio
from streams.ingest import new_call_id
from streams.memory import Chain
from streams.packets import now, records, roles_for
from streams.settings import Settings
from streams.stages import build

BLOCK: Final = 200
"""Records pushed at once: 10 s of a two-channel call, so that ASR can decode several segments together."""

CARRIAGE: Final = {"kind", "call", "codec", "rate", "captured_at"}
"""Fields of a score that say how it travelled, not what was heard."""

CSV_COLUMNS: Final = (
    *("call_id", "channel", "speaker", "role", "role_confidence", "start_ms", "end_ms", "overlap_ms", "flags"),
    *("text", "language", "asr_confidence", "emotion", "emotion_probability", "emotion_uncertain", "complex_emotion"),
    *("sentiment", "score", "text_score", "voice_score", "disagree", "confidence"),
)

ROLE_STYLE: Final = {"agent": "cyan", "customer": "magenta", "unknown": "white"}
SENTIMENT_STYLE: Final = {"negative": "red", "neutral": "dim", "positive": "green"}


class Analysis:
    """What was heard in one recording."""

    def __init__(self, call: CallInfo) -> None:
        self.call = call
        self.scores: list[Score] = []
        """As they were heard."""
        self.corrections = Corrections()
        self.ended: CallEnded | None = None

    def add(self, finished: Iterable[Record]) -> None:
        """Take what came out of the chain."""
        for record in finished:
            event = decode(record.headers, record.value)
            if isinstance(event, Score):
                self.scores.append(event)
            elif isinstance(event, Correction):
                self.corrections.add(event)
            elif isinstance(event, CallEnded):
                self.ended = event

    @property
    def in_order(self) -> list[Score]:
        """Scores by when they were spoken, with speakers and roles as they are known by now."""
        known = map(self.corrections.apply, self.scores)
        return sorted(known, key=lambda score: (score.start_ms, score.channel))


def utterance(score: Score) -> dict[str, Any]:
    """One utterance of the public format."""
    return score.model_dump(mode="json", exclude=CARRIAGE)


def document(analysis: Analysis) -> dict[str, Any]:
    """The public format of one call: `call` and `utterances`."""
    call = analysis.call.model_dump(mode="json")
    if analysis.ended is not None:
        call |= analysis.ended.model_dump(
            mode="json", include={"duration_ms", "missing_ms", "dropped_packets", "not_speech_ms"}
        )
    return {"call": call, "utterances": [utterance(score) for score in analysis.in_order]}


class Analyzer:
    """The chain with its models loaded once, for one recording after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.chain = Chain(lambda row: build(settings, row), CHAIN)

    def hear(
        self,
        path: Path,
        *,
        roles: tuple[Role, ...] | None = None,
        mix: bool = False,
        call_id: str | None = None,
        progress: Callable[[float, Analysis], None] = lambda _fraction, _analysis: None,
    ) -> tuple[Analysis, str | None]:
        """(what was heard, what is wrong with the file or None). Raises CalltideError for what cannot be a call."""
        audio = open_audio(path, mix)
        call = CallInfo(
            call_id=call_id or new_call_id(path),
            started_at=now(),
            roles=roles_for(audio, roles),
            source=path.name,
        )
        start_ms = round(call.started_at.timestamp() * 1_000)
        analysis, damage = Analysis(call), None
        block: list[Record] = []
        stream = records(call, audio, self.settings.ingest.packet_ms)
        while True:
            try:
                block.append(next(stream))
            except StopIteration:
                break
            except CalltideError as error:
                damage = str(error)
                break
            if len(block) >= BLOCK:
                heard_ms = block[-1].timestamp_ms - start_ms
                analysis.add(self.chain.push(block))
                block = []
                progress(min(heard_ms / audio.duration_ms, 1.0) if audio.duration_ms else 0.0, analysis)
        analysis.add(self.chain.push(block))
        letters = [record for worker in self.chain.workers for record in worker.dead_letters.records]
        if letters:
            reasons = {record.headers.get("__connect.errors.exception.message", b"").decode() for record in letters}
            damage = f"{path}: {len(letters)} records could not be processed ({'; '.join(sorted(reasons))[:300]})"
            for worker in self.chain.workers:
                worker.dead_letters.records.clear()
        return analysis, damage


def clock(milliseconds: int) -> str:
    """Media time as m:ss.s."""
    return f"{milliseconds // 60_000}:{milliseconds % 60_000 / 1_000:04.1f}"


def emotion_name(emotion: Emotion) -> str:
    """The name of the strongest emotion, with a question mark where it is too weak to be called by it."""
    return f"{emotion.label}?" if emotion.uncertain else emotion.label


def marks(score: Score) -> list[str]:
    """What a reader must know of an utterance beside what was said."""
    sentiment, found = score.sentiment, []
    if sentiment and sentiment.disagree and sentiment.voice_score is not None:
        found.append(f"words {sentiment.text_score:+.2f} but voice {sentiment.voice_score:+.2f}")
    if score.overlap_ms:
        found.append(f"both speak for {score.overlap_ms / 1_000:.1f} s")
    if "cross_talk" in score.flags and score.text:
        found.append("cross-talk of the other channel")
    return found


def line(score: Score) -> Text:
    """One utterance as one readable line; dim where it is the other party, heard through."""
    text = Text(style="dim" if "cross_talk" in score.flags else "")
    text.append(f"{clock(score.start_ms):>7} ", style="dim")
    text.append(f"{score.speaker:<10} ", style=ROLE_STYLE[score.role])
    if score.text:
        text.append(score.text)
    else:
        text.append(f"({', '.join(score.flags) or 'no words'})", style="dim italic")
    if score.sentiment is not None:
        style = SENTIMENT_STYLE[score.sentiment.label]
        text.append(f"  {score.sentiment.label} {score.sentiment.score:+.2f}", style=style)
        if score.emotion is not None:
            probability = score.emotion.probabilities[score.emotion.label]
            text.append(f"  {emotion_name(score.emotion)} {probability:.0%}", style="yellow")
    if found := marks(score):
        text.append(f"  [{'; '.join(found)}]", style="dim")
    return text


def notes(analysis: Analysis) -> list[str]:
    """What a reader must be told about a transcript, and how to change it."""
    found = []
    skipped = sorted({score.emotion_skipped for score in analysis.scores if score.emotion_skipped})
    if skipped:
        note = f"no emotion for some utterances: {'; '.join(skipped)}."
        if any(reason.startswith("role ") for reason in skipped):
            note += (
                " It is computed for customers only: say who speaks with --roles (one role a channel, such as --roles "
                "customer), or take everybody with --emotion all."
            )
        found.append(note)
    known = analysis.in_order
    if any(score.role == "unknown" for score in known):
        found.append("it is not known who is the agent and who the customer: --roles names the channels' parties.")
    if surest := [score.role_confidence for score in known if score.role != "unknown" and score.role_confidence]:
        found.append(f"who is the agent and who the customer was found by what they said ({min(surest):.0%} sure).")
    return found


def show(console: Console, analysis: Analysis) -> None:
    """A readable transcript."""
    call = analysis.call
    length = f", {clock(analysis.ended.duration_ms)}" if analysis.ended else ""
    console.print(Text(f"{call.source}  ({' + '.join(call.roles)}{length})", style="bold"))
    for score in analysis.in_order:
        console.print(line(score))
    if analysis.scores:
        last = max(analysis.scores, key=lambda score: score.running.utterances)
        summary = Text("call so far: ", style="bold")
        summary.append(f"{last.running.score:+.2f}", style="green" if last.running.score >= 0 else "red")
        console.print(summary)
    for note in notes(analysis):
        console.print(Text(note, style="dim"))


def as_json(analyses: Sequence[Analysis]) -> str:
    """One document, or a list of them for several recordings."""
    documents = [document(analysis) for analysis in analyses]
    return json.dumps(documents[0] if len(documents) == 1 else documents, ensure_ascii=False, indent=2)


def as_csv(analyses: Sequence[Analysis]) -> str:
    """One line an utterance."""
    table = io.StringIO()
    writer = csv.DictWriter(table, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for analysis in analyses:
        for score in analysis.in_order:
            row = dict(score) | {"call_id": score.call.call_id, "flags": " ".join(score.flags), "emotion": ""}
            if emotion := score.emotion:
                row |= {"emotion": emotion.label, "emotion_probability": emotion.probabilities[emotion.label]}
                row |= {"emotion_uncertain": emotion.uncertain, "complex_emotion": emotion.complex}
            row["sentiment"] = ""
            if sentiment := score.sentiment:
                row |= dict(sentiment) | {"sentiment": sentiment.label}
            writer.writerow(row)
    return table.getvalue()
