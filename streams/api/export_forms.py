"""A call as a file: CSV, subtitles (SRT, WebVTT), and JSON in the shape of Amazon's Post Call Analytics.

A changer must know: what comes in is what the API answers (streams/api/calls.py), nothing is asked here; and what
callers say is data in every form: a spreadsheet must not take it for a formula, nor a player for markup.
"""

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

CALL_COLUMNS: Final = ("tenant", "call_id", "pipeline_version", "queue", "agent", "started_at")
COLUMNS: Final = (
    "channel", "start_ms", "end_ms", "speaker", "role", "text", "language", "confidence", "sentiment", "score",
    "text_score", "voice_score", "disagree", "emotion", "alerts",
)  # fmt: skip
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula, at the beginning of a text (OWASP, CSV injection)."""
CUE_LETTERS: Final = 84
CUE_MS: Final = 7_000
"""Of a subtitle: two lines of 42 letters, seven seconds (BBC and Netflix guidelines)."""
QUARTERS: Final = 4
PCA_SCALE: Final = 5.0
"""Post Call Analytics has scores from −5 to 5."""


@dataclass(frozen=True, slots=True)
class Whole:
    """All that is known of a call, as the API answers it."""

    call: Mapping[str, Any]
    utterances: Sequence[Mapping[str, Any]]
    figures: Mapping[str, Any]
    insights: Mapping[str, Any] | None
    evaluations: Sequence[Mapping[str, Any]]


def as_json(whole: Whole) -> dict[str, Any]:
    """Everything."""
    return {
        "call": whole.call,
        "utterances": whole.utterances,
        "metrics": whole.figures,
        "insights": whole.insights,
        "evaluations": whole.evaluations,
    }


def csv_lines(rows: Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]], header: bool = True) -> Iterator[str]:
    """A line for each (call, utterance)."""
    file = io.StringIO()
    writer = csv.writer(file)
    if header:
        writer.writerow((*CALL_COLUMNS, *COLUMNS))
    for call, said in rows:
        alerts = "; ".join(alert["rule"] for alert in said["alerts"])
        values = [*(call[name] for name in CALL_COLUMNS), *(said[name] for name in COLUMNS[:-1]), alerts]
        writer.writerow([_cell(value) for value in values])
        yield file.getvalue()
        file.seek(0)
        file.truncate()
    yield file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle."""

    start_ms: int
    end_ms: int
    who: str
    text: str


def name_of(said: Mapping[str, Any]) -> str:
    """Who speaks, for people."""
    role = str(said["role"])
    return role.capitalize() if role != "unknown" else str(said["speaker"]).capitalize()


def cues(utterances: Sequence[Mapping[str, Any]]) -> Iterator[Cue]:
    """What was said in pieces that can be read, by the times of the words."""
    for said in utterances:
        for start_ms, end_ms, text in _pieces(said):
            yield Cue(start_ms, max(end_ms, start_ms + 1), name_of(said), text)


def _pieces(said: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    tokens, words = str(said["text"]).split(), said["words"]
    begun, ended = int(said["start_ms"]), int(said["end_ms"])
    if len(words) == len(tokens):
        timed = [(word["start_ms"], word["end_ms"], token) for word, token in zip(words, tokens, strict=True)]
    else:
        # Numbers are written in figures in the text and as they were said in the words: by length, then.
        ends = [*itertools.accumulate(len(token) + 1 for token in tokens)]
        total = max(ends[-1] if ends else 1, 1)
        places = [begun + (ended - begun) * end // total for end in ends]
        timed = list(zip([begun, *places], places, tokens, strict=False))
    piece: list[tuple[int, int, str]] = []
    for one in timed:
        letters = sum(len(token) + 1 for _, _, token in piece) + len(one[2])
        if piece and (letters > CUE_LETTERS or one[1] - piece[0][0] > CUE_MS):
            yield piece[0][0], piece[-1][1], " ".join(token for _, _, token in piece)
            piece = []
        piece.append(one)
    if piece:
        yield piece[0][0], piece[-1][1], " ".join(token for _, _, token in piece)


def clock(ms: int, point: str) -> str:
    """hh:mm:ss and milliseconds."""
    seconds, rest = divmod(ms, 1_000)
    return f"{seconds // 3_600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


def as_srt(utterances: Sequence[Mapping[str, Any]]) -> str:
    """SubRip. It has no way to say that text is no markup: `<` is written as what looks like it."""
    parts = []
    for number, cue in enumerate(cues(utterances), 1):
        text = cue.text.replace("<", "‹").replace(">", "›").replace("{", "(").replace("}", ")")
        parts.append(f"{number}\n{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}\n{cue.who}: {text}\n")
    return "\n".join(parts)


def as_vtt(utterances: Sequence[Mapping[str, Any]]) -> str:
    """WebVTT, who speaks as its voices."""
    parts = ["WEBVTT\n"]
    for cue in cues(utterances):
        who = escape(cue.who, quote=False).replace("\n", " ")
        text = escape(cue.text, quote=False).replace("-->", "--&gt;")
        parts.append(f"{clock(cue.start_ms, '.')} --> {clock(cue.end_ms, '.')}\n<v {who}>{text}\n")
    return "\n".join(parts)


def as_pca(whole: Whole) -> dict[str, Any]:
    """The shape of Post Call Analytics' own output: `ConversationAnalytics` and `SpeechSegments`.

    Source: output_json_structure.md of aws-samples/amazon-transcribe-post-call-analytics. Its scores run from −5 to 5,
    its times are seconds. What it has and is not known here (entities, loudness by second) is there and empty.
    """
    call, said = whole.call, whole.utterances
    speakers: dict[tuple[str, str], str] = {}
    for one in said:
        speakers.setdefault((one["role"], one["speaker"]), f"spk_{len(speakers)}")
    parties = {(party["role"], party["speaker"]): party for party in whole.figures["parties"]}
    insights = whole.insights or {}
    found: dict[str, Any] = {
        "ConversationTime": call["started_at"],
        "ConversationLocation": "UTC",
        "ProcessTime": call["ended_at"],
        "Duration": _seconds(call["duration_ms"] or 0),
        "LanguageCode": call["language"],
        "Agent": call["agent"],
        "GUID": call["call_id"],
        "EntityRecognizerName": "",
        "SpeakerLabels": [
            {"Speaker": label, "DisplayText": name_of({"role": role, "speaker": speaker})}
            for (role, speaker), label in speakers.items()
        ],
        "SentimentTrends": {label: _trend(call, parties.get(key, {})) for key, label in speakers.items()},
        "SpeakerTime": {
            **{
                label: {"TotalTimeSecs": _seconds(parties[key]["talk_ms"])}
                for key, label in speakers.items()
                if key in parties
            },
            "NonTalkTime": {
                "TotalTimeSecs": _seconds(whole.figures["silence_ms"]),
                "Instances": [_stretch(gap) for gap in whole.figures["dead_air"]],
            },
        },
        "CustomEntities": [],
        "CategoriesDetected": _categories(call),
        "IssuesDetected": [_statement(one) for one in insights.get("issues", ())],
        "ActionItemsDetected": [_statement(one) for one in insights.get("action_items", ())],
        "OutcomesDetected": [_statement(one) for one in (insights.get("outcome"),) if one],
        "SourceInformation": [
            {
                "CalltideInfo": {
                    "Tenant": call["tenant"],
                    "Queue": call["queue"],
                    "PipelineVersion": call["pipeline_version"],
                    "MediaFileUri": call["source"],
                    "ChannelIdentification": call["channels"] > 1,
                    "Summary": " ".join(one["text"] for one in insights.get("summary", ())),
                }
            }
        ],
    }
    cited = {name: _cited(insights.get(name, ())) for name in ("issues", "action_items")}
    cited["outcome"] = _cited([one for one in (insights.get("outcome"),) if one])
    segments = [_segment(one, speakers[one["role"], one["speaker"]], call, cited) for one in said]
    return {"ConversationAnalytics": found, "SpeechSegments": segments}


def _seconds(ms: float) -> float:
    return round(ms / 1_000, 3)


def _stretch(gap: Mapping[str, Any]) -> dict[str, float]:
    start, end = gap["start_ms"], gap["end_ms"]
    return {
        "BeginOffsetSecs": _seconds(start),
        "EndOffsetSecs": _seconds(end),
        "DurationSecs": _seconds(end - start),
    }


def _scaled(score: float | None) -> float:
    return round((score or 0.0) * PCA_SCALE, 3)


def _trend(call: Mapping[str, Any], party: Mapping[str, Any]) -> dict[str, Any]:
    length = (call["duration_ms"] or 0) / QUARTERS
    return {
        "SentimentScore": _scaled(party.get("score")),
        "SentimentChange": round(party.get("change") or 0.0, 3),
        "SentimentPerQuarter": [
            {
                "Quarter": quarter + 1,
                "Score": round(score, 3),
                "BeginOffsetSecs": _seconds(quarter * length),
                "EndOffsetSecs": _seconds((quarter + 1) * length),
            }
            for quarter, score in enumerate(party.get("quarters") or ())
            if score is not None
        ],
    }


def _categories(call: Mapping[str, Any]) -> list[dict[str, Any]]:
    marks: dict[str, list[Mapping[str, Any]]] = {}
    for mark in call["marks"]:
        if mark["kind"] == "category":
            marks.setdefault(mark["name"], []).append(mark)
    return [
        {
            "Name": name,
            "Instances": len(found),
            "Timestamps": [
                {"BeginOffsetSecs": _seconds(mark["at_ms"]), "EndOffsetSecs": _seconds(mark["at_ms"])} for mark in found
            ],
        }
        for name, found in marks.items()
    ]


def _statement(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"Text": one["text"], "BeginOffset": 0, "EndOffset": len(one["text"])}


def _cited(statements: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Utterance → the statements that rest on it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in statements:
        for evidence in one.get("evidence", ()):
            found.setdefault(evidence["identity"], []).append(_statement(one))
    return found


def _segment(
    said: Mapping[str, Any], speaker: str, call: Mapping[str, Any], cited: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    score = said["score"] or 0.0
    names = [mark["name"] for mark in call["marks"] if said["id"] in mark["utterances"]]
    return {
        "SegmentStartTime": _seconds(said["start_ms"]),
        "SegmentEndTime": _seconds(said["end_ms"]),
        "SegmentSpeaker": speaker,
        "SegmentInterruption": False,
        "IVRSegment": False,
        "OriginalText": said["text"],
        "DisplayText": said["text"],
        "TextEdited": False,
        "SentimentIsPositive": said["sentiment"] == "positive",
        "SentimentIsNegative": said["sentiment"] == "negative",
        "SentimentScore": _scaled(score),
        "BaseSentimentScores": {
            "Positive": round(max(score, 0.0), 4),
            "Negative": round(max(-score, 0.0), 4),
            "Neutral": round(1 - abs(score), 4),
        },
        "LoudnessScores": [],
        "EntitiesDetected": [],
        "CategoriesDetected": list(dict.fromkeys(names)),
        "FollowOnCategories": [],
        "IssuesDetected": cited["issues"].get(said["id"], []),
        "ActionItemsDetected": cited["action_items"].get(said["id"], []),
        "OutcomesDetected": cited["outcome"].get(said["id"], []),
        "WordConfidence": [
            {
                "Text": word["text"],
                "Confidence": round(word["confidence"], 4),
                "StartTime": _seconds(word["start_ms"]),
                "EndTime": _seconds(word["end_ms"]),
            }
            for word in said["words"]
        ],
    }
