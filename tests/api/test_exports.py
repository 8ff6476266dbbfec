"""Calls as files: what each form holds, whose calls they are, and what must not be made of what callers say."""

import csv
import io
import itertools
import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from matplotlib.figure import Figure

from streams.api.export_forms import Cue, Whole, as_pca, as_srt, as_vtt, csv_lines, cues
from streams.api.export_pdf import as_pdf, draw_sentiment
from tests.api.conftest import HOSTILE

VIEWER, BOSS = {"X-API-Key": "acme-viewer"}, {"X-API-Key": "acme-boss"}


def exported(api: TestClient, call_id: str, form: str, **headers: str) -> Any:
    path = f"/api/v1/calls/{quote(call_id, safe='')}/export"
    answer = api.get(path, params={"format": form}, headers=headers or VIEWER)
    assert answer.status_code == 200, answer.text
    return answer


def test_each_form_of_a_call(api: TestClient) -> None:
    whole = exported(api, "acme-01", "json").json()
    assert (whole["call"]["call_id"], len(whole["utterances"])) == ("acme-01", 3)
    assert whole["insights"]["summary"][0]["text"] == "it was charged twice 2"
    assert whole["evaluations"][0]["score"] == 50
    assert {mark["kind"] for mark in whole["call"]["marks"]} == {"alert", "category"}
    answer = exported(api, "acme-01", "csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="acme-01.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["text"] for row in rows] == [f"it was charged twice {n}" for n in range(3)]
    assert [row["alerts"] for row in rows] == ["", "", "angry"]
    subtitles = exported(api, "acme-01", "srt").text
    assert subtitles.startswith("1\n00:00:00,000 --> 00:00:0")
    assert "Agent: it was charged twice 0" in subtitles
    video = exported(api, "acme-01", "vtt")
    assert video.headers["content-type"].startswith("text/vtt")
    assert video.text.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert "<v Customer>it was charged twice 1" in video.text
    pdf = exported(api, "acme-01", "pdf")
    assert pdf.headers["content-type"] == "application/pdf"
    assert pdf.content.startswith(b"%PDF-")
    assert b"(Call acme-01)" in pdf.content
    assert pdf.content.count(b"/Subtype /Image") >= 1


def test_the_shape_of_post_call_analytics(api: TestClient) -> None:
    made = exported(api, "acme-01", "pca").json()
    assert set(made) == {"ConversationAnalytics", "SpeechSegments"}
    head, segments = made["ConversationAnalytics"], made["SpeechSegments"]
    assert (head["GUID"], head["Agent"], head["Duration"]) == ("acme-01", "agent-1", 60.0)
    assert [one["DisplayText"] for one in head["SpeakerLabels"]] == ["Agent", "Customer"]
    assert head["CategoriesDetected"][0]["Name"] == "complaint"
    trend = head["SentimentTrends"]["spk_1"]
    assert trend["SentimentScore"] == pytest.approx(-2.5)
    assert [one["SegmentSpeaker"] for one in segments] == ["spk_0", "spk_1", "spk_0"]
    assert segments[1]["SentimentScore"] == pytest.approx(-2.5)
    assert segments[2]["CategoriesDetected"] == ["complaint"]


def test_nobody_exports_another_s_calls(api: TestClient) -> None:
    beta = {"X-API-Key": "beta-admin"}
    assert api.get("/api/v1/calls/acme-01/export", headers=beta).status_code == 404
    for call_id, headers, word in (("shared", VIEWER, "acme"), ("shared", beta, "beta")):
        (said,) = exported(api, call_id, "json", **headers).json()["utterances"]
        assert said["text"].startswith(f"only {word} knows")
    assert api.get("/api/v1/export", headers=VIEWER).status_code == 403
    lines = api.get("/api/v1/export", headers=beta).text.splitlines()
    assert {json.loads(line)["call"]["tenant"] for line in lines} == {"beta"}  # tests of audio write more of them
    assert api.get("/api/v1/calls/acme-01/export", params={"format": "exe"}, headers=VIEWER).status_code == 422


def test_many_calls_are_streamed(api: TestClient) -> None:
    with api.stream(
        "GET", "/api/v1/export", params={"queue": "billing", "agent": "agent-1", "state": "ended"}, headers=BOSS
    ) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        calls = [json.loads(line)["call"]["call_id"] for line in answer.iter_lines()]
    assert calls == ["acme-19", "acme-13", "acme-07", "acme-01"]
    table = api.get("/api/v1/export", params={"format": "csv"}, headers=BOSS).text
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {row["tenant"] for row in rows} == {"acme"}
    assert sum(row["call_id"] == "acme-23" for row in rows) == 3
    assert api.get("/api/v1/export", params={"queue": "none"}, headers=BOSS).text == ""
    assert api.get("/api/v1/export", params={"format": "csv", "queue": "none"}, headers=BOSS).text.startswith("tenant,")
    audited = api.get("/api/v1/audit", headers={"X-API-Key": "operator"}).json()["items"]
    assert "export" in {one["action"] for one in audited}


def test_names_that_are_odd_stay_names(api: TestClient) -> None:
    for form in ("json", "csv", "srt", "vtt", "pca", "pdf"):
        answer = exported(api, HOSTILE, form)
        assert "\n" not in answer.headers["content-disposition"]
    assert (
        'filename="dir-sub-call.wav.json"' in exported(api, "dir/sub call.wav", "json").headers["content-disposition"]
    )


def said(text: str, start_ms: int = 0, end_ms: int = 1_000, words: int | None = None, **more: Any) -> dict[str, Any]:
    tokens = text.split()[:words]
    step = (end_ms - start_ms) // max(len(tokens), 1)
    return {
        "id": f"c/0/{start_ms}", "channel": 0, "start_ms": start_ms, "end_ms": end_ms, "speaker": "speaker-1",
        "role": "unknown", "text": text, "language": "en", "confidence": 0.9, "sentiment": None, "score": None,
        "text_score": None, "voice_score": None, "disagree": False, "emotion": None, "alerts": [],
        "words": [
            {"text": token, "start_ms": start_ms + n * step, "end_ms": start_ms + (n + 1) * step, "confidence": 1.0}
            for n, token in enumerate(tokens)
        ],
    } | more  # fmt: skip


def test_long_utterances_become_subtitles_that_can_be_read() -> None:
    text = " ".join(f"word{n}" for n in range(60))
    found = [*cues([said(text, 10_000, 40_000)])]
    assert " ".join(cue.text for cue in found) == text
    assert all(len(cue.text) <= 84 and cue.end_ms - cue.start_ms <= 7_000 for cue in found)
    assert (found[0].start_ms, found[-1].end_ms) == (10_000, 40_000)
    assert all(one.end_ms <= other.start_ms for one, other in itertools.pairwise(found))
    # Where words are not those of the text, by its length.
    parted = [*cues([said("it costs 25 dollars " * 12, 0, 24_000, words=20)])]
    assert (parted[0].start_ms, parted[-1].end_ms) == (0, 24_000)
    assert [*cues([said("")])] == []
    assert [*cues([said("oh", 5, 5)])] == [Cue(5, 6, "Speaker-1", "oh")]


def test_what_callers_say_is_no_formula_and_no_markup() -> None:
    call = {"tenant": "t", "call_id": "c", "pipeline_version": "v", "queue": "", "agent": "@x", "started_at": ""}
    text = "=HYPERLINK(1) <b>--> x</b> & {y}"
    lines = "".join(csv_lines(iter([(call, said(text))])))
    assert "'=HYPERLINK" in lines
    assert "'@x" in lines
    assert as_srt([said(text)]).count("-->") == 1
    assert "<b>" not in as_srt([said(text)])
    assert "&lt;b&gt;--&gt; x&lt;/b&gt; &amp; {y}" in as_vtt([said(text)])


def test_a_call_of_which_nothing_is_known_is_a_document_all_the_same() -> None:
    call: dict[str, Any] = {
        "call_id": "<b>&", "tenant": "t", "pipeline_version": "v1", "queue": "", "agent": "", "language": "",
        "started_at": "2026-11-22T08:00:00.000Z", "ended_at": None, "duration_ms": None, "score": None,
        "categories": [], "marks": [], "source": "", "channels": 1,
    }  # fmt: skip
    figures = {"parties": [], "silences": 0, "silence_ms": 0, "longest_silence_ms": 0, "dead_air": []}
    empty = Whole(call, [], figures, None, [])
    assert as_pdf(empty) == as_pdf(empty)
    assert as_pca(empty)["SpeechSegments"] == []
    long = Whole(call, [said("every word counts " * 9, n * 1_000) for n in range(200)], figures, None, [])
    assert as_pdf(long).count(b"/Type /Page\n") > 4


@pytest.mark.parametrize(("length_ms", "expected"), [(60_000, 11.0), (3_600_000, 11_000 / 60_000)])
def test_an_alert_stands_in_the_chart_where_it_was(length_ms: int, expected: float) -> None:
    alert = {"kind": "alert", "at_ms": 11_000, "severity": "critical"}
    call = {"duration_ms": length_ms, "marks": [alert, alert | {"kind": "category"}]}
    axes = Figure().add_subplot()
    draw_sentiment(axes, Whole(call, [said("no", score=-0.5)], {"parties": []}, None, []))
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in dashed] == [expected]
