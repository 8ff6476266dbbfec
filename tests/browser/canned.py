"""Answers of the API as pages get them, of the shapes that streams/api/ gives: for tests of pages and their states.

Nothing here is imported by the product. The shapes are held against the real ones by tests/browser/test_shapes.py.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import soundfile
from playwright.sync_api import Page, Route

STARTED_AT = "2026-11-22T08:00:00.000Z"
LENGTH_MS = 64_000
SAID = [
    (0, 0, "Thank you for calling, my name is Diane. How can I help you?", "positive", 0.42, None),
    (1, 5_000, "Hello, I was charged twice for the same order.", "negative", -0.48, "anger"),
    (0, 11_000, "I am sorry to hear that. Let me look it up.", "neutral", 0.05, None),
    (1, 22_000, "This is the third time I call about it, I am really angry.", "negative", -0.82, "anger"),
    (1, 28_000, "Great, just great.", "positive", 0.12, "sadness"),
    (0, 33_000, "I can see both payments, I will refund the second one today.", "positive", 0.35, None),
    (1, 41_000, "Okay, and how long does it take?", "neutral", 0.02, "neutral"),
    (0, 46_000, "Three to five working days, and you get a message.", "neutral", 0.1, None),
    (1, 53_000, "Good, thank you very much for your help.", "positive", 0.55, "happiness"),
]


def call(call_id: str = "billing-4711", **more: Any) -> dict[str, Any]:
    """A call as lists have it."""
    return {
        "call_id": call_id,
        "tenant": "default",
        "queue": "billing",
        "agent": "diane",
        "started_at": STARTED_AT,
        "ended_at": "2026-11-22T08:01:04.000Z",
        "duration_ms": LENGTH_MS,
        "state": "ended",
        "pipeline_version": "v1",
        "score": -0.04,
        "categories": ["refunds"],
        "alerts": 1,
        "language": "en",
        "channels": 2,
    } | more


def whole(call_id: str = "billing-4711", **more: Any) -> dict[str, Any]:
    """A call as a whole."""
    marks = [
        {
            "kind": "alert",
            "name": "angry-customer",
            "rule": "angry-customer",
            "severity": "critical",
            "at_ms": 26_500,
            "text": "The customer is angry: “I am really angry”",
            "utterances": [f"{call_id}/1/22000"],
        },
        {
            "kind": "category",
            "name": "refunds",
            "rule": "refunds",
            "severity": None,
            "at_ms": 37_000,
            "text": "",
            "utterances": [f"{call_id}/0/33000"],
        },
    ]
    return (
        call(call_id)
        | {
            "source": "billing-4711.wav",
            "metadata": {},
            "roles": ["agent", "customer"],
            "end_reason": "hangup",
            "missing_ms": 0,
            "not_speech_ms": 0,
            "versions": ["v1", "words"],
            "marks": marks,
        }
        | more
    )


def utterances(call_id: str = "billing-4711", shift: float = 0.0) -> list[dict[str, Any]]:
    """What was said, every word 300 ms; `shift` is added to the scores."""
    items = []
    for channel, start_ms, text, label, score, emotion in SAID:
        words = text.split()
        rest = {
            name: 0.04 for name in ("neutral", "happiness", "sadness", "anger", "fear", "surprise") if name != emotion
        }
        disagree = text.startswith("Great")
        alerts = (
            [
                {
                    "rule": "angry-customer",
                    "category": "angry-customer",
                    "severity": "critical",
                    "at_ms": 26_500,
                    "message": "The customer is angry",
                }
            ]
            if start_ms == 22_000
            else []
        )
        items.append(
            {
                "id": f"{call_id}/{channel}/{start_ms}",
                "channel": channel,
                "start_ms": start_ms,
                "end_ms": start_ms + 300 * len(words),
                "speaker": ("agent", "customer")[channel],
                "role": ("agent", "customer")[channel],
                "text": text,
                "language": "en",
                "words": [
                    {
                        "text": word,
                        "start_ms": start_ms + 300 * at,
                        "end_ms": start_ms + 300 * at + 280,
                        "confidence": 0.9,
                    }
                    for at, word in enumerate(words)
                ],
                "sentiment": label,
                "emotion": emotion,
                "emotions": {emotion: 0.8, **rest} if emotion else {},
                "emotion_uncertain": False,
                "complex_emotion": None,
                "emotion_skipped": None if emotion else "role_agent",
                "score": round(score + shift, 3),
                "text_score": 0.6 if disagree else score,
                "voice_score": -0.55 if disagree else score if emotion else None,
                "disagree": disagree,
                "confidence": 0.93,
                "speaker_confidence": 1.0,
                "overlap_ms": 0,
                "flags": [],
                "alerts": alerts,
            }
        )
    return items


def hit() -> dict[str, Any]:
    """Words that were found."""
    names = ("call_id", "tenant", "queue", "agent", "started_at", "pipeline_version")
    return {"call": {name: call()[name] for name in names}, "spoken_at": STARTED_AT, "utterance": utterances()[3]}


def metrics(call_id: str = "billing-4711") -> dict[str, Any]:
    """What is counted of a call."""
    party: dict[str, Any] = {
        "utterances": 4,
        "words": 42,
        "talk_ms": 13_000,
        "words_per_minute": 180.0,
        "negative": 0,
        "neutral": 2,
        "positive": 2,
        "change": None,
        "longest_monologue_ms": 3_600,
        "turns": 4,
        "interruptions": 0,
        "overtalk_ms": 0,
        "emotion_ms": {},
        "emotion_share": {},
        "responses": 3,
        "response_ms": 1_900,
        "interrupted": 0,
        "loudness_lufs": -23.0,
        "loudness_trend": None,
    }
    return {
        "call_id": call_id,
        "pipeline_version": "v1",
        "final": True,
        "at_ms": LENGTH_MS,
        "score": -0.04,
        "silences": 1,
        "silence_ms": 7_400,
        "longest_silence_ms": 7_400,
        "silence_now_ms": 0,
        "hold_ms": None,
        "dead_air": [{"start_ms": 14_600, "end_ms": 22_000}],
        "outlook": None,
        "parties": [
            party
            | {
                "role": "agent",
                "speaker": "agent",
                "talk_share": 0.52,
                "score": 0.23,
                "quarters": [2.1, 0.2, 1.7, 0.5],
            },
            party
            | {
                "role": "customer",
                "speaker": "customer",
                "talk_share": 0.48,
                "score": -0.12,
                "quarters": [-2.4, -4.1, None, 2.7],
            },
        ],
    }


def evidence(call_id: str, channel: int, start_ms: int) -> list[dict[str, Any]]:
    """The utterance that begins there, as what something rests on."""
    said = next(one for one in utterances(call_id) if (one["channel"], one["start_ms"]) == (channel, start_ms))
    names = ("channel", "start_ms", "end_ms", "speaker", "role", "text")
    return [{"identity": said["id"]} | {name: said[name] for name in names}]


def evaluation(call_id: str = "billing-4711") -> dict[str, Any]:
    """A form that was filled for a call."""
    item = {"points": 1, "evidence": []}
    greets = item | {"name": "greets", "earned": 1, "why": "agent at 0:00: “Thank you for calling”"}
    closing = item | {"name": "takes leave", "earned": 0, "why": "it was not said in the call by the agent"}
    empathy = item | {"name": "does not cut in", "earned": None, "why": "nobody can be heard to cut in"}
    return {
        "call_id": call_id,
        "pipeline_version": "v1",
        "language": "en",
        "form": "service",
        "form_version": "a4c66eb3bf9d",
        "state": "ok",
        "why": "",
        "score": 62.5,
        "judged": 0.8,
        "sections": [
            {"name": "greeting", "weight": 10, "score": 100, "items": [greets | {"evidence": evidence(call_id, 0, 0)}]},
            {"name": "empathy", "weight": 20, "score": None, "items": [empathy]},
            {"name": "closing", "weight": 15, "score": 0, "items": [closing]},
        ],
    }


def insights(call_id: str = "billing-4711") -> dict[str, Any]:
    """What a call was about."""

    def rests(channel: int, start_ms: int) -> list[dict[str, Any]]:
        return evidence(call_id, channel, start_ms)

    return {
        "call_id": call_id,
        "pipeline_version": "v1",
        "language": "en",
        "business": "b2c",
        "utterances": 9,
        "unread": 0,
        "engine": "extractive",
        "model": "",
        "state": "ok",
        "why": "",
        "summary": [{"text": "I was charged twice for the same order.", "evidence": rests(1, 5_000)}],
        "reason": {"text": "I was charged twice for the same order.", "evidence": rests(1, 5_000)},
        "topics": [{"path": ["billing", "charged twice"], "similarity": 0.71, "evidence": rests(1, 5_000)}],
        "glossary": "b2c",
        "objections": [],
        "issues": [{"name": "again", "text": "This is the third time I call about it.", "evidence": rests(1, 22_000)}],
        "outcome": {"text": "I will refund the second one today.", "evidence": rests(0, 33_000)},
        "action_items": [
            {"owner": "agent", "due": "today", "text": "I will refund the second one", "evidence": rests(0, 33_000)}
        ],
        "resolution": {"resolved": "yes", "evidence": rests(1, 53_000)},
        "coaching": [
            {"name": "dead_air", "text": "Say what you do while you look something up.", "evidence": rests(0, 11_000)}
        ],
        "quiz": [
            {
                "name": "reason",
                "question": "Why did the customer call?",
                "choices": ["A delivery was late", "An order was charged twice", "A password was lost"],
                "answer": 1,
                "evidence": rests(1, 5_000),
            }
        ],
        "uncited": 0,
        "prompts": "",
        "tokens_in": 0,
        "tokens_out": 0,
    }


def explanation(call_id: str, channel: int, start_ms: int) -> dict[str, Any]:
    """Why an utterance was scored so."""
    said = next(one for one in utterances(call_id) if (one["channel"], one["start_ms"]) == (channel, start_ms))
    words = said["text"].split()
    parts = [
        {
            "text": word,
            "start_ms": start_ms,
            "end_ms": start_ms,
            "contribution": 0.05 * (-1) ** at - 0.02 * at,
            "lime": 0.0,
            "attention": None,
        }
        for at, word in enumerate(words)
    ]
    explained = {
        "model": "minilm",
        "baseline": 0.0,
        "parts": parts,
        "method": "sampled",
        "questions": 150,
        "lime_fit": 0.8,
        "attention": [],
    }
    return {name: said[name] for name in ("channel", "start_ms", "end_ms", "speaker", "role", "text", "language")} | {
        "call_id": call_id,
        "tenant": "default",
        "pipeline_version": "v1",
        "emotion": said["emotions"] or None,
        "score": said["score"],
        "words": explained | {"label": said["sentiment"], "value": said["score"]},
        "voice": explained | {"label": "anger", "value": 0.8, "probabilities": {}, "contributions": {}, "unheard": ""},
        "differences": [
            {
                "feature": "pitch_mean_hz",
                "name": "pitch",
                "unit": "Hz",
                "value": 231.0,
                "usual": 180.0,
                "spread": 12.0,
                "deviations": 4.2,
            }
        ],
        "compared_with": 5,
        "missing": {},
        "notes": [],
        "audio_from": "kafka",
    }


def waveform() -> dict[str, Any]:
    """Peaks of both channels, where somebody speaks."""
    channels = [[0.0] * 400, [0.0] * 400]
    for one in utterances():
        for at in range(one["start_ms"] * 400 // LENGTH_MS, min(400, one["end_ms"] * 400 // LENGTH_MS)):
            channels[one["channel"]][at] = 0.3 + 0.5 * abs(np.sin(at * 1.7))
    return {"duration_ms": LENGTH_MS, "channels": channels}


def recording() -> bytes:
    """A WAV of the length of the call: a quiet tone."""
    tone = 0.05 * np.sin(np.arange(LENGTH_MS * 8) * 0.2)
    written = io.BytesIO()
    soundfile.write(written, np.stack([tone, tone], axis=1), 8_000, "PCM_16", format="WAV")
    return written.getvalue()


def task(state: str = "processing", **more: Any) -> dict[str, Any]:
    """A task."""
    return {
        "task_id": "5d1c2f0e9b7a4c6d8e0f1a2b3c4d5e6f",
        "state": state,
        "kind": "upload",
        "calls": ["billing-4711"],
        "version": "v1",
        "file": "billing-4711.wav",
        "bytes": 1_000,
        "duration_ms": LENGTH_MS,
        "progress": {"ingest": 1.0, "vad": 0.9, "asr": 0.42, "sentiment": 0.41},
        "chunks": [
            {"number": 0, "state": "completed", "start_ms": 0, "end_ms": 30_000},
            {"number": 1, "state": "processing", "start_ms": 30_000, "end_ms": 60_000},
        ],
        "error": None,
        "duplicate": False,
        "created_at": STARTED_AT,
        "updated_at": STARTED_AT,
    } | more


def counts(calls: int, score: float, **more: Any) -> dict[str, Any]:
    """Some calls, counted."""
    return {
        "calls": calls,
        "live": 1,
        "duration_ms": 210_000 * calls,
        "utterances": 92 * calls,
        "words": 900 * calls,
        "talk_ms": 180_000 * calls,
        "silence_ms": 9_000 * calls,
        "negative": 12 * calls,
        "neutral": 60 * calls,
        "positive": 20 * calls,
        "score": round(score, 3),
        "customer_score": round(score - 0.1, 3),
        "emotion_ms": {"neutral": 620, "happiness": 140, "anger": 110, "sadness": 80, "fear": 30, "surprise": 20},
    } | more


STATISTICS: dict[str, Any] = {
    "from": "2026-11-08T00:00:00.000Z",
    "to": "2026-11-22T09:00:00.000Z",
    "by": "day",
    "all": counts(412, 0.04),
    "times": [counts(20 + 7 * day % 31, 0.3 * np.sin(day), at=f"2026-11-{day:02}T00:00:00Z") for day in range(8, 22)],
    "queues": [counts(250, -0.08, name="billing"), counts(162, 0.21, name="sales")],
    "agents": [counts(200, 0.1, name="diane"), counts(212, -0.01, name="omar")],
    "categories": [{"name": "refunds", "calls": 44}, {"name": "cancellation", "calls": 12}],
    "alerts": [{"name": "angry-customer", "calls": 9}],
    "topics": [],
    "issues": [],
    "resolved": [],
    "forms": [{"name": "service", "calls": 380, "score": 71.6}],
}
STATUS = {
    "calltide": "0.1.0",
    "pipeline_version": "v1",
    "kafka": "ok",
    "clickhouse": "ok",
    "stages": [
        {"name": "vad", "lane": "live", "workers": 1, "lag": 0},
        {"name": "asr", "lane": "live", "workers": 2, "lag": 1_204},
        {"name": "asr", "lane": "batch", "workers": 0, "lag": None},
    ],
    "models": [{"stage": "asr", "model": "tiny.en"}],
    "versions": [{"name": "v1", "calls": 412, "first": STARTED_AT, "last": STARTED_AT, "promoted": True, "live": True}],
    "you": {"tenant": None, "role": "admin", "name": "local"},
}
RULES_TEXT = """rules:
  - name: refund-refused
    category: refunds
    alert: {severity: warning}
    when: {said: {by: customer, stem: [my money back]}}
"""
RULES = {
    "path": "my-rules.yaml",
    "version": "cafba2c5ee40",
    "editable": True,
    "faults": [],
    "files": [{"name": "my-rules.yaml", "text": RULES_TEXT}],
    "rules": [
        {
            "name": "refund-refused",
            "category": "refunds",
            "severity": "warning",
            "tenants": [],
            "description": "The customer does not get a refund",
        }
    ],
}
TRIED = {
    "calls": [
        {
            "call_id": "billing-4711",
            "source": "ClickHouse",
            "found": [
                {
                    "kind": "alert",
                    "rule": "refund-refused",
                    "category": "refunds",
                    "severity": "warning",
                    "at_ms": 26_500,
                    "message": "A customer does not get a refund",
                    "evidence": [
                        {
                            "identity": "billing-4711/1/22000",
                            "channel": 1,
                            "start_ms": 22_000,
                            "end_ms": 26_000,
                            "speaker": "customer",
                            "role": "customer",
                            "text": "my money back",
                        }
                    ],
                }
            ],
        }
    ]
}

Answer = Callable[[str, dict[str, list[str]]], Any]


class Refused(Exception):
    """An answer that is an error: status and the body of one."""

    def __init__(
        self, status: int, error: str = "not_found", message: str = "there is none; look elsewhere", **details: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": error, "message": message, "details": details}


class Api:
    """The API in front of a page: `answers` may be changed while it runs; `asked` says what was asked."""

    def __init__(self, page: Page) -> None:
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.answers: dict[str, Answer | Any] = {
            r"GET /calls": {
                "items": [call(), call("sales-12", queue="sales", agent="omar", alerts=0, score=0.31, categories=[])],
                "next": None,
            },
            r"GET /search": {"items": [hit()], "next": None},
            r"GET /statistics": STATISTICS,
            r"GET /status": STATUS,
            r"GET /rules": RULES,
            r"POST /rules/check": {"rules": RULES["rules"], "version": "cafba2c5ee40"},
            r"POST /rules/test": TRIED,
            r"GET /calls/[^/]+": lambda path, query: whole(
                path.split("/")[2], pipeline_version=query.get("version", ["v1"])[0]
            ),
            r"GET /calls/[^/]+/utterances": lambda path, query: {
                "items": utterances(path.split("/")[2], 0.2 if query.get("version") == ["words"] else 0.0),
                "next": None,
            },
            r"GET /calls/[^/]+/metrics": lambda path, _: metrics(path.split("/")[2]),
            r"GET /calls/[^/]+/insights": lambda path, _: insights(path.split("/")[2]),
            r"GET /calls/[^/]+/evaluations": lambda path, _: {"items": [evaluation(path.split("/")[2])], "next": None},
            r"GET /calls/[^/]+/waveform": lambda *_: waveform(),
            r"GET /calls/[^/]+/audio": lambda *_: recording(),
            r"GET /calls/[^/]+/explanations/.+": lambda path, _: explanation(
                path.split("/")[2], *map(int, path.split("/")[-1].split("-"))
            ),
            r"POST /calls": task("pending"),
            r"GET /calls/[^/]+/export": recording(),
            r"GET /tasks": {"items": [], "next": None},
            r"GET /tasks/.+": task(),
            r"DELETE /tasks/.+": task("cancelled"),
            r"POST /calls/[^/]+/(transcribe|analyze)": task("pending", kind="transcribe"),
            r"POST /session": {"seconds": 100},
        }
        page.route(re.compile(r".*/api/v1/.*"), self._answer)

    def _answer(self, route: Route) -> None:
        request = route.request
        split = urlsplit(request.url)
        path = unquote(split.path.partition("/api/v1")[2])
        self.asked.append((f"{request.method} {path}", split.query))
        self.headers.append(request.headers)
        self.bodies.append((request.post_data_buffer or b"").decode("utf-8", "replace"))
        for pattern, answer in reversed(self.answers.items()):
            if re.fullmatch(pattern, f"{request.method} {path}"):
                try:
                    content = answer(path, parse_qs(split.query)) if callable(answer) else answer
                    if isinstance(content, Exception):
                        raise content
                except Refused as refused:
                    route.fulfill(status=refused.status, content_type="application/json", body=json.dumps(refused.body))
                    return
                if isinstance(content, bytes):
                    route.fulfill(
                        status=200, content_type="audio/wav", body=content, headers={"Accept-Ranges": "bytes"}
                    )
                else:
                    route.fulfill(status=200, content_type="application/json", body=json.dumps(content))
                return
        route.fulfill(status=404, content_type="application/json", body=json.dumps(Refused(404).body))
