"""Rows of ClickHouse's tables, made of events: a column a key.

A changer must know: what does not fit its column raises OverflowError here, because ClickHouse takes a larger number
without a word, as another one.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from confluent_kafka import Message

from schemas.events import (
    Acoustics,
    Alert,
    CallEnded,
    CallEvent,
    CallMetrics,
    CallStarted,
    Categorised,
    Correction,
    Evaluation,
    Evidence,
    Findings,
    Insights,
    Score,
    decode,
)
from streams import kafka
from streams.dead_letters import read_letter, read_marker

_SMALL, _LARGE = 2**8 - 1, 2**32 - 1
LIMITS: Final = {
    "channel": _SMALL,
    "channels": _SMALL,
    "start_ms": _LARGE,
    "end_ms": _LARGE,
    "at_ms": _LARGE,
    "overlap_ms": _LARGE,
    "call_utterances": _LARGE,
    "words.start_ms": _LARGE,
    "words.end_ms": _LARGE,
    "duration_ms": _LARGE,
    "missing_ms": _LARGE,
    "dropped_packets": _LARGE,
    "not_speech_ms": _LARGE,
    "redacted": _LARGE,
}
"""What the columns hold. ClickHouse takes a larger number without a word, as another one."""
YEARS: Final = range(1970, 2200)
"""Of times: ClickHouse's DateTime64 ends with 2299, and a TTL's date before that."""


def time_of(moment: datetime) -> str:
    if moment.year not in YEARS:
        raise OverflowError(f"{moment:%Y-%m-%d} is beyond the years that are kept")
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def call_row(event: CallStarted | CallEnded, version: str) -> dict[str, Any]:
    """The row of `calls` for the start or the end of a call."""
    call = event.call
    row: dict[str, Any] = {
        "tenant": call.tenant,
        "call_id": call.call_id,
        "pipeline_version": version,
        "queue": call.queue,
        "agent": call.agent,
        "source": call.source,
        "roles": list(call.roles),
        "channels": len(call.roles),
        "metadata": call.metadata,
        "started_at": time_of(call.started_at),
        "revision": 1,
    }
    if isinstance(event, CallEnded):
        row |= {
            "ended_at": time_of(event.ended_at),
            "duration_ms": event.duration_ms,
            "end_reason": event.reason,
            "missing_ms": event.missing_ms,
            "dropped_packets": event.dropped_packets,
            "not_speech_ms": event.not_speech_ms,
            "revision": 2,
        }
    return row


def utterance_row(score: Score, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """The row of `utterances_heard` for a score."""
    call, emotion, sentiment = score.call, score.emotion, score.sentiment
    granular = emotion.granular if emotion else ()
    return {
        "tenant": call.tenant,
        "call_id": call.call_id,
        "pipeline_version": score.pipeline_version,
        "call_started_at": time_of(call.started_at),
        "channel": score.channel,
        "start_ms": score.start_ms,
        "end_ms": score.end_ms,
        "spoken_at": time_of(call.started_at + timedelta(milliseconds=score.start_ms)),
        "captured_at": time_of(score.captured_at),
        "queue": call.queue,
        "agent": call.agent,
        "speaker": score.speaker,
        "role": score.role,
        "role_confidence": score.role_confidence,
        "speaker_confidence": score.speaker_confidence,
        "overlap_ms": score.overlap_ms,
        "cut": score.cut,
        "text": score.text,
        "redacted": score.redacted,
        "words.text": [word.text for word in score.words],
        "words.start_ms": [word.start_ms for word in score.words],
        "words.end_ms": [word.end_ms for word in score.words],
        "words.confidence": [word.confidence for word in score.words],
        "language": score.language,
        "asr_confidence": score.asr_confidence,
        "asr_model": score.asr_model,
        "flags": list(score.flags),
        "emotion": emotion.label if emotion else "",
        "emotions": emotion.probabilities if emotion else {},
        "emotion_uncertain": emotion.uncertain if emotion else False,
        "complex_emotion": (emotion.complex or "") if emotion else "",
        "granular.name": [one.name for one in granular],
        "granular.base": [one.base for one in granular],
        "granular.confidence": [one.confidence for one in granular],
        "emotion_model": emotion.model if emotion else "",
        "emotion_skipped": score.emotion_skipped or "",
        # Each of its fields is a column of the same name.
        **(score.acoustics or Acoustics()).model_dump(),
        "sentiment": sentiment.label if sentiment else "",
        "score": sentiment.score if sentiment else None,
        "text_score": sentiment.text_score if sentiment else None,
        "voice_score": sentiment.voice_score if sentiment else None,
        "disagree": sentiment.disagree if sentiment else False,
        "confidence": sentiment.confidence if sentiment else None,
        "members": sentiment.members if sentiment else {},
        "sentiment_model": sentiment.model if sentiment else "",
        "call_score": score.running.score,
        "party_score": score.running.party_score,
        "call_utterances": score.running.utterances,
        "topic": topic,
        "partition": partition,
        "offset": offset,
    }


def correction_row(event: Correction, version: str, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """The row of `corrections`."""
    return {
        "tenant": event.call.tenant,
        "call_id": event.call.call_id,
        "pipeline_version": version,
        "started_at": time_of(event.call.started_at),
        "speaker": event.speaker,
        "same_as": event.same_as or "",
        "role": event.role,
        "role_confidence": event.role_confidence,
        "topic": topic,
        "partition": partition,
        "offset": offset,
    }


def letter_row(message: Message, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """The row of `dead_letters` for a letter, or for the marker that settles one: each fills columns of its own."""
    headers = kafka.headers_of(message)
    place = {"dlq_topic": topic, "dlq_partition": partition}
    at = time_of(datetime.fromtimestamp(message.timestamp()[1] / 1_000, UTC))
    if marker := read_marker(headers):
        fate, settles = marker
        return place | {"dlq_offset": settles, "settled": fate, "settled_at": at}
    letter = read_letter(message, headers)
    try:
        known = decode({name: value for name, value in headers if value is not None}, message.value() or b"")
        tenant = known.call.tenant
    except (KeyError, ValueError):
        tenant = ""  # a packet of audio says none, and what could not be read may be why it is here
    return place | {
        "dlq_offset": offset,
        "failed_at": at,
        "stage": letter.stage or "",
        "topic": letter.topic or "",
        "partition": letter.topic_partition,
        "offset": letter.topic_offset,
        "tenant": tenant,
        "call_id": letter.call,
        "kind": letter.kind,
        "error": letter.exception or "",
        "message": letter.message or "",
    }


def fitting(row: dict[str, Any]) -> dict[str, Any]:
    """The row. Raises OverflowError for a number that its column does not hold."""
    for name, most in LIMITS.items():
        value = row.get(name)
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value or 0,)
        if max(values, default=0) > most:
            raise OverflowError(f"{name} is more than {most}")
    return row


Place = tuple[str, int, int]
"""Topic, partition and offset of a record."""


def alert_row(event: Alert, place: Place) -> dict[str, Any]:
    """The row of `alerts`."""
    call, first = event.call, event.evidence[0] if event.evidence else None
    return {
        "tenant": call.tenant,
        "call_id": call.call_id,
        "pipeline_version": event.pipeline_version,
        "at": time_of(event.raised_at),
        "at_ms": event.at_ms,
        "rule": event.rule,
        "rules_version": event.rules_version,
        "category": event.category,
        "severity": event.severity,
        "queue": call.queue,
        "agent": call.agent,
        "role": first.role if first else "",
        "text": event.message,
        "utterances": _utterances(event.evidence),
        **_at(place),
    }


def category_row(event: Categorised, place: Place) -> dict[str, Any]:
    """The row of `call_categories`."""
    return {
        **_call_of(event, event.pipeline_version),
        "category": event.category,
        "rule": event.rule,
        "rules_version": event.rules_version,
        "at_ms": event.at_ms,
        "utterances": _utterances(event.evidence),
        **_at(place),
    }


def progress_rows(event: CallMetrics, place: Place) -> list[dict[str, Any]]:
    """The rows of `call_progress`, one a party."""
    of_call = event.model_dump(include=_OF_CALL)
    return [
        {
            **_call_of(event, event.pipeline_version),
            **party.model_dump(exclude={"emotion_share"}),
            **of_call,
            "call_score": event.score,
            "outlook": event.outlook.negative if event.outlook else None,
            "outlook_model": event.outlook.model if event.outlook else "",
            "dead_air": [silence.model_dump() for silence in event.dead_air],
            **_at(place),
        }
        for party in event.parties
    ]


def insights_row(event: Insights, place: Place) -> dict[str, Any]:
    """The row of `insights`."""
    findings = event.model_dump_json(include=set(Findings.model_fields), exclude_defaults=True)
    return {
        **_call_of(event, event.pipeline_version),
        **event.model_dump(include=_OF_INSIGHTS),
        "ended_at": time_of(event.ended_at),
        "summary": [one.text for one in event.summary],
        "reason": event.reason.text if event.reason else "",
        "outcome": event.outcome.text if event.outcome else "",
        "resolved": event.resolution.resolved,
        "topics": [" > ".join(one.path) for one in event.topics],
        "similarities": [one.similarity for one in event.topics],
        "issues": [one.name for one in event.issues],
        "objections": [one.name for one in event.objections],
        "coaching": [one.name for one in event.coaching],
        "action_items": len(event.action_items),
        "questions": len(event.quiz),
        "findings": findings,
        **_at(place),
    }


def evaluation_row(event: Evaluation, place: Place) -> dict[str, Any]:
    """The row of `evaluations`."""
    return {
        **_call_of(event, event.pipeline_version),
        **event.model_dump(include=_OF_EVALUATION),
        "ended_at": time_of(event.ended_at),
        "sections.name": [one.name for one in event.sections],
        "sections.weight": [one.weight for one in event.sections],
        "sections.score": [one.score for one in event.sections],
        "items": event.model_dump_json(include={"sections"}),
        **_at(place),
    }


_OF_EVALUATION: Final = {"duration_ms", "language", "form", "form_version", "state", "why", "score", "judged"}
"""Fields of an evaluation that are columns of the same name."""

_OF_INSIGHTS: Final = {
    "duration_ms", "engine", "model", "state", "language", "business", "glossary", "utterances", "unread", "uncited",
}  # fmt: skip
"""Fields of insights that are columns of the same name."""

_OF_CALL: Final = {
    "at_ms", "final", "partial", "silences", "silence_ms", "longest_silence_ms", "silence_now_ms", "hold_ms",
}  # fmt: skip
"""Fields of metrics that are those of the whole call."""


def _call_of(event: CallEvent, version: str) -> dict[str, Any]:
    call = event.call
    return {
        "tenant": call.tenant,
        "pipeline_version": version,
        "started_at": time_of(call.started_at),
        "call_id": call.call_id,
        "queue": call.queue,
        "agent": call.agent,
    }


def _utterances(evidence: Sequence[Evidence]) -> list[dict[str, int]]:
    return [{"channel": one.channel, "start_ms": one.start_ms} for one in evidence]


def _at(place: Place) -> dict[str, Any]:
    return dict(zip(("topic", "partition", "offset"), place, strict=True))


FINDING_ROWS: Final[dict[str, Callable[[Any, Place], list[dict[str, Any]]]]] = {
    "metrics": progress_rows,
    "alert": lambda event, place: [alert_row(event, place)],
    "category": lambda event, place: [category_row(event, place)],
    "insights": lambda event, place: [insights_row(event, place)],
    "evaluation": lambda event, place: [evaluation_row(event, place)],
}
"""Kind of what is made of the scores (`schemas.topics.FINDINGS`) → the rows of its table."""
