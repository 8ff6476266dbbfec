"""`calltide explain`: an utterance found again, its audio read back, and its score explained.

What was scored is asked of ClickHouse, and where that has not got the call, of the topic of scores. The audio is the
record of the topic of transcripts; when Kafka has deleted it, the piece of the archived call.

A changer must know: an emotion that was not computed is not computed here either (see processors.emotion).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from numpy.typing import NDArray

from processors import audio, explanation
from processors.base import Record
from processors.emotion import load_model
from processors.explanation import FEWEST_OTHERS, Explanation, TextParts, VoiceParts
from processors.models.attention import TextAttention, VoiceAttention
from processors.models.emotion import EmotionModel, WhisperStatsEmotion
from processors.models.sentiment import EnsembleSentiment, SentimentModel
from processors.sentiment import NO_LANGUAGE, FusedSentiment
from processors.sentiment import build as build_sentiment
from processors.utterances import RATE, samples
from schemas.audio import AudioPacket
from schemas.errors import CalltideError
from schemas.events import CallEnded, Correction, Score, Transcript, decode
from schemas.topics import SCORES, lanes, stage
from streams import history, kafka
from streams.archive import Archive
from streams.corrections import Corrections
from streams.replay.plan import SLACK_MS
from streams.settings import Settings
from streams.shapley import require_shap, shapley
from streams.sink import Unreachable, connect

SAME: Final = 0.001
"""Farther apart, what was scored and what is explained are not the same number: another model, other audio."""
_TIME: Final = re.compile(r"(?:(\d+):)?(\d+):(\d\d(?:\.\d+)?)")
_ROWS: Final = """
SELECT *, pipeline_version = (SELECT argMax(pipeline_version, promoted_at) FROM promotions) AS promoted
FROM utterances
WHERE call_id = {call:String} AND (empty({version:String}) OR pipeline_version = {version:String})
ORDER BY captured_at
"""


@dataclass(slots=True)
class Heard:
    """A call as it was scored."""

    scores: list[Score]
    """In the order of their start, with speakers and roles as they are known by now."""
    partition: int
    """Of Kafka's topics; −1: not known."""

    def find(self, which: str) -> Score:
        """The utterance of `CHANNEL/START_MS`, of a number from 1, or that is spoken at `1:23`.

        Raises CalltideError when there is none.
        """
        found: list[Score] = []
        if (time := _TIME.fullmatch(which)) is not None:
            at_ms = round(1_000 * (int(time[1] or 0) * 3_600 + int(time[2]) * 60 + float(time[3])))
            # 1:23 is a whole second, and a list shows when an utterance began without its milliseconds.
            found = [one for one in self.scores if one.start_ms < at_ms + 1_000 and one.end_ms > at_ms][-1:]
        elif "/" in which:
            found = [one for one in self.scores if f"{one.channel}/{one.start_ms}" == which]
        elif which.isdecimal() and 0 < int(which) <= len(self.scores):
            found = [self.scores[int(which) - 1]]
        if not found:
            raise CalltideError(
                f"there is no utterance {which} in the call; name it CHANNEL/START_MS, by its number or by a time such "
                "as 1:23 (`calltide explain CALL` lists them)"
            )
        return found[0]

    def others(self, score: Score) -> list[Score]:
        """What else the speaker said."""
        return [one for one in self.scores if one.speaker == score.speaker and one.identity != score.identity]


@dataclass(slots=True)
class Audio:
    """The audio of an utterance, mono 16 kHz float32 (n,), or why there is none."""

    samples: NDArray[np.float32] | None
    source: str = ""
    why_not: str = ""


def hear(settings: Settings, call_id: str, version: str = "", tenant: str = "") -> Heard:
    """Look a call up. Raises CalltideError when nothing has it."""
    try:
        found = _in_clickhouse(settings, call_id, version, tenant)
        nowhere = f"there is no call {call_id} in ClickHouse"
    except Unreachable as error:
        found, nowhere = None, str(error)
    if found:
        return found
    try:
        kafka.check(settings)
        found = _in_kafka(settings, call_id, version, tenant)
    except CalltideError as error:
        raise CalltideError(f"call {call_id} cannot be looked up: {nowhere}; {error}") from None
    if not found:
        of = f" of version {version}" if version else ""
        raise CalltideError(f"{nowhere}, nor are there scores{of} on the topic {SCORES}; `calltide report` names calls")
    return found


def read_audio(settings: Settings, score: Score, partition: int) -> Audio:
    """Read an utterance's audio back: from Kafka, or else from the archive."""
    try:
        kafka.check(settings)
        if (heard := _from_kafka(settings, score, partition)) is not None:
            return Audio(heard, "Kafka")
        why_not = "Kafka has its audio no more"
    except CalltideError as error:
        why_not = str(error)
    try:
        heard = _from_archive(settings, score)
    except CalltideError as error:
        return Audio(None, why_not=f"{why_not}; {error}")
    if heard is None:
        return Audio(None, why_not=f"{why_not}, and the call is not in the archive")
    return Audio(heard, "archive")


class Explainer:
    """The models of the settings, each loaded when it is first needed. Raises CalltideError without shap."""

    def __init__(self, settings: Settings) -> None:
        require_shap()
        self._settings = settings
        self._emotion: tuple[EmotionModel, VoiceAttention | None] | None = None
        self._sentiment: FusedSentiment | None = None
        self._text: dict[int, TextAttention | None] = {}

    def explain(
        self, score: Score, others: Sequence[Score], heard: Audio, *, voice: bool = True, words: bool = True
    ) -> Explanation:
        """Everything that can be said of the utterance. `voice`, `words`: whether these are wanted.

        Raises CalltideError when a model cannot be had.
        """
        missing: dict[Any, str] = {}
        notes: list[str] = []
        voice_parts = self._voice(score, heard, missing, notes) if voice else None
        text_parts = self._words(score, missing, notes) if words else None
        differences = explanation.compare(score, others)
        measured = sum(one.acoustics is not None for one in others)
        if score.acoustics is None:
            missing["differences"] = score.emotion_skipped or "nothing was measured of its voice"
        elif measured < FEWEST_OTHERS:
            missing["differences"] = (
                f"{measured} other utterances of the speaker were measured, {FEWEST_OTHERS} are needed"
            )
        return Explanation(
            call_id=score.call.call_id,
            tenant=score.call.tenant,
            channel=score.channel,
            start_ms=score.start_ms,
            end_ms=score.end_ms,
            speaker=score.speaker,
            role=score.role,
            text=score.text,
            language=score.language,
            pipeline_version=score.pipeline_version,
            emotion=score.emotion.probabilities if score.emotion else None,
            score=score.sentiment.score if score.sentiment else None,
            voice=voice_parts,
            words=text_parts,
            differences=differences,
            compared_with=measured,
            missing=missing,
            notes=tuple(notes),
            audio_from=heard.source if voice_parts else "",
        )

    def _voice(self, score: Score, heard: Audio, missing: dict[Any, str], notes: list[str]) -> VoiceParts | None:
        if score.emotion is None:
            missing["voice"] = f"its emotion was not computed: {score.emotion_skipped or 'it is not said why'}"
            return None
        if heard.samples is None or not len(heard.samples):
            missing["voice"] = heard.why_not or "its audio is empty"
            return None
        if self._emotion is None:
            model = load_model(self._settings.emotion)
            self._emotion = model, VoiceAttention() if isinstance(model, WhisperStatsEmotion) else None
        model, attention = self._emotion
        parts = explanation.explain_voice(score, heard.samples, model, shapley, attention)
        scored = score.emotion.probabilities.get(score.emotion.label, 0)
        if model.id != score.emotion.model or abs(parts.value - scored) > SAME:
            notes.append(
                f"voice: {score.emotion.model} gave {score.emotion.label} {scored:.4f}, and {model.id}, which is "
                f"explained, gives {parts.value:.4f}"
            )
        if not score.words:
            notes.append("voice: the words have no times, so the audio is divided evenly")
        return parts

    def _words(self, score: Score, missing: dict[Any, str], notes: list[str]) -> TextParts | None:
        if not score.text:
            missing["words"] = "no words were recognised"
            return None
        if self._sentiment is None:
            self._sentiment = build_sentiment(self._settings.sentiment, "")  # type: ignore[assignment]
        assert isinstance(self._sentiment, FusedSentiment)
        model = self._sentiment.model_for(score.role, score.language)
        if model is None:
            which = f"language {score.language}" if NO_LANGUAGE in score.flags else f"role {score.role}"
            missing["words"] = f"no sentiment model is set for {which}"
            return None
        parts = explanation.explain_words(score, model, shapley, self._attention_of(model))
        if score.sentiment is None:
            notes.append("words: they were not scored when they were heard")
        elif model.id != score.sentiment.model or abs(parts.value - score.sentiment.text_score) > SAME:
            notes.append(
                f"words: {score.sentiment.model} gave {score.sentiment.text_score:+.4f}, and {model.id}, which is "
                f"explained, gives {parts.value:+.4f}"
            )
        return parts

    def _attention_of(self, model: SentimentModel) -> TextAttention | None:
        if id(model) not in self._text:
            folder = model.folder if isinstance(model, EnsembleSentiment) else None
            self._text[id(model)] = TextAttention(folder) if folder else None
        return self._text[id(model)]


def _in_clickhouse(settings: Settings, call_id: str, version: str, tenant: str) -> Heard | None:
    with connect(settings) as client:
        try:
            answer = client.raw_query(_ROWS, parameters={"call": call_id, "version": version}, fmt="JSONEachRow")
        except ClickHouseError as error:
            raise Unreachable(f"ClickHouse refuses: {str(error).splitlines()[0][:300]}") from None
    rows = [json.loads(line) for line in answer.splitlines()]
    rows = [row for row in rows if row["tenant"] == _tenant(call_id, tenant, {row["tenant"] for row in rows})]
    if not rows:
        return None
    chosen = next((row for row in reversed(rows) if row["promoted"]), rows[-1])["pipeline_version"]
    rows = [row for row in rows if row["pipeline_version"] == chosen]
    return Heard(_in_order(map(_score, rows)), int(rows[0]["partition"]))


def _score(row: dict[str, Any]) -> Score:
    """The utterance of a row of the view `utterances`."""
    emotion = sentiment = None
    if row["emotion"]:
        granular = zip(row["granular.name"], row["granular.base"], row["granular.confidence"], strict=True)
        emotion = {
            "label": row["emotion"],
            "probabilities": row["emotions"],
            "model": row["emotion_model"],
            "uncertain": row["emotion_uncertain"],
            "granular": [{"name": name, "base": base, "confidence": sure} for name, base, sure in granular],
            "complex": row["complex_emotion"] or None,
        }
    if row["sentiment"]:
        fields = ("score", "text_score", "voice_score", "confidence", "members", "disagree")
        sentiment = {name: row[name] for name in fields} | {"label": row["sentiment"], "model": row["sentiment_model"]}
    words = zip(*(row[f"words.{name}"] for name in ("text", "start_ms", "end_ms", "confidence")), strict=True)
    return Score.model_validate(
        {name: row[name] for name in Score.model_fields if name in row and name not in ("emotion", "sentiment")}
        | {
            "call": {
                "call_id": row["call_id"],
                "tenant": row["tenant"],
                "queue": row["queue"],
                "agent": row["agent"],
                "started_at": _utc(row["call_started_at"]),
                "roles": [row["role"]],
            },
            # Of the audio rows say nothing; who reads the audio back is told by its own record.
            "codec": "pcm_s16le",
            "rate": RATE,
            "captured_at": _utc(row["captured_at"]),
            "words": [
                {"text": text, "start_ms": start, "end_ms": end, "confidence": sure} for text, start, end, sure in words
            ],
            "emotion": emotion,
            "emotion_skipped": row["emotion_skipped"] or None,
            "acoustics": row if row["rms"] is not None else None,
            "sentiment": sentiment,
            "running": {
                "score": row["call_score"],
                "party_score": row["party_score"],
                "utterances": row["call_utterances"],
            },
        }
    )


def _utc(text: str) -> str:
    return text.replace(" ", "T") + "Z"


@dataclass(slots=True)
class _Scan:
    scores: dict[str, dict[tuple[int, int], Score]] = field(default_factory=dict)
    """Tenant → (channel, start) → the latest."""
    corrections: dict[str, Corrections] = field(default_factory=dict)
    partition: int = -1
    ended: bool = False


def _in_kafka(settings: Settings, call_id: str, version: str, tenant: str) -> Heard | None:
    """All of the topic is read until the call's end was found."""
    scan = _Scan()
    try:
        admin = AdminClient(kafka.client(settings))
        ranges = kafka.ranges(admin, SCORES, history.partitions(admin, SCORES), history.ANSWER_S)
        for message in history.read(settings, SCORES, ranges, enough=lambda _: scan.ended):
            if message.key() != call_id.encode():
                continue
            headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
            try:
                event = decode(headers, message.value() or b"")
            except (KeyError, ValueError):
                continue  # what is no event was told by those who read it live
            scan.partition = kafka.partition_of(message)
            if isinstance(event, Score) and version in ("", event.pipeline_version):
                scan.scores.setdefault(event.call.tenant, {})[event.channel, event.start_ms] = event
            elif isinstance(event, Correction):
                scan.corrections.setdefault(event.call.tenant, Corrections()).add(event)
            scan.ended = scan.ended or isinstance(event, CallEnded)
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; see that it runs and try again") from error
    chosen = _tenant(call_id, tenant, set(scan.scores))
    if chosen not in scan.scores:
        return None
    known = scan.corrections.get(chosen, Corrections())
    return Heard(_in_order(map(known.apply, scan.scores[chosen].values())), scan.partition)


def _tenant(call_id: str, wanted: str, found: set[str]) -> str:
    if not wanted and len(found) > 1:
        raise CalltideError(f"tenants {', '.join(sorted(found))} have a call {call_id} each; choose one by --tenant")
    return wanted or next(iter(found), "")


def _in_order(scores: Any) -> list[Score]:
    return sorted(scores, key=lambda score: (score.start_ms, score.channel))


def _from_kafka(settings: Settings, score: Score, partition: int) -> NDArray[np.float32] | None:
    """From the topics of transcripts of both lanes: the stretch of the partition in which the record should lie."""
    at_ms = round(score.captured_at.timestamp() * 1_000)
    try:
        admin = AdminClient(kafka.client(settings))
        for row in lanes(stage("emotion")):
            numbers = [number for number in history.partitions(admin, row.reads) if partition in (-1, number)]
            ranges = kafka.ranges(admin, row.reads, numbers, history.ANSWER_S)
            first = history.offsets_at(admin, row.reads, numbers, at_ms - SLACK_MS)
            behind = history.offsets_at(admin, row.reads, numbers, at_ms + SLACK_MS)
            likely = {}
            for number, (low, high) in ranges.items():
                begin, end = first[number], behind[number]
                if begin is not None:
                    likely[number] = max(low, begin), high if end is None else max(low, end)
            for message in history.read(settings, row.reads, likely):
                headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
                if message.key() != score.call.call_id.encode() or headers.get("kind") != b"transcript":
                    continue
                event = decode(headers, b"")
                if isinstance(event, Transcript) and event.identity == score.identity:
                    record = Record(event.call.call_id, event.kind, headers, message.value() or b"", at_ms)
                    return samples(event, record)
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}") from error
    return None


def _from_archive(settings: Settings, score: Score) -> NDArray[np.float32] | None:
    """The utterance's stretch of its channel; what no packet brought is silence."""
    store = Archive(settings)
    kept = store.find(score.call.call_id)
    if kept is None or kept.call.tenant != score.call.tenant:
        return None  # another tenant's call of the same name is another call
    cut: NDArray[np.float32] | None = None
    rate = first = 0
    for record in store.records(kept):
        if record.kind != "audio":
            continue
        packet = AudioPacket.decode(record.headers, record.value)
        if packet.channel != score.channel:
            continue
        if cut is None:
            rate = packet.rate
            first = score.start_ms * rate // 1_000
            cut = np.zeros(score.end_ms * rate // 1_000 - first, np.float32)
        begin, end = max(packet.sample, first), min(packet.sample + packet.samples, first + len(cut))
        if packet.rate == rate and begin < end:
            sound = audio.decode(packet.value, packet.codec)
            cut[begin - first : end - first] = sound[begin - packet.sample : end - packet.sample]
    return None if cut is None else audio.resample(cut, rate, RATE)
