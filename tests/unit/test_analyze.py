"""What `calltide analyze` prints: the public format, the table, the transcript and what a reader must be told."""

import csv
import io
import json
from datetime import UTC, datetime

from rich.console import Console

from processors.base import Record
from schemas.events import Correction, Score, encode
from streams.analyze import CSV_COLUMNS, Analysis, as_csv, as_json, document, notes, show
from tests.scripted import call, score

INFO = call("call-1", datetime(2026, 3, 1, tzinfo=UTC))


def heard() -> Analysis:
    analysis = Analysis(INFO)
    analysis.scores = [
        score(INFO, 2_000, 'it says "no", again', polarity=-0.6, emotion="anger", utterances=2),
        score(INFO, 500, "thank you", role="agent", polarity=0.4),
        score(INFO, 3_000, "", utterances=3),
    ]
    return analysis


def test_the_document_is_in_the_order_of_speech_and_says_what_was_heard_only() -> None:
    whole = document(heard())
    assert [one["text"] for one in whole["utterances"]] == ["thank you", 'it says "no", again', ""]
    assert whole["call"]["call_id"] == "call-1"
    assert {"channel", "speaker", "role", "start_ms", "end_ms", "words", "language", "emotion", "sentiment"} <= set(
        whole["utterances"][0]
    )
    assert not {"call", "kind", "codec", "rate", "captured_at"} & set(whole["utterances"][0])


def test_one_recording_gives_an_object_and_several_a_list() -> None:
    assert json.loads(as_json([heard()])) == document(heard())
    assert json.loads(as_json([heard(), heard()])) == [document(heard())] * 2


def test_the_table_has_one_line_an_utterance_whatever_was_said() -> None:
    first, *rows = csv.reader(io.StringIO(as_csv([heard()])))
    assert tuple(first) == CSV_COLUMNS
    by_column = [dict(zip(first, row, strict=True)) for row in rows]
    assert [row["text"] for row in by_column] == ["thank you", 'it says "no", again', ""]
    assert by_column[1]["emotion"] == "anger"
    assert by_column[2]["sentiment"] == "", "no words, no sentiment"


def test_the_transcript_shows_who_said_what_and_how() -> None:
    console = Console(file=io.StringIO(), width=200)
    show(console, heard())
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.index("thank you") < printed.index("it says")
    assert "anger" in printed
    assert "-0.60" in printed


def doubtful() -> Score:
    said = score(INFO, 500, "oh that is just great", polarity=0.5, emotion="anger")
    assert said.emotion
    assert said.sentiment
    return said.model_copy(
        update={
            "overlap_ms": 800,
            "emotion": said.emotion.model_copy(update={"uncertain": True, "complex": "bitterness"}),
            "sentiment": said.sentiment.model_copy(update={"voice_score": -0.25, "disagree": True}),
        }
    )


def test_what_is_uncertain_disagrees_or_overlaps_is_marked() -> None:
    analysis = Analysis(INFO)
    far = score(INFO, 900, "thank you").model_copy(update={"flags": ("cross_talk",)})
    analysis.scores = [doubtful(), far]
    console = Console(file=io.StringIO(), width=200)
    show(console, analysis)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "anger? 80%  [words +0.50 but voice -0.25; both speak for 0.8 s]" in printed
    assert "thank you  neutral +0.00  [cross-talk of the other channel]" in printed
    row, crossed = csv.DictReader(io.StringIO(as_csv([analysis])))
    assert (row["emotion_uncertain"], row["complex_emotion"], row["disagree"]) == ("True", "bitterness", "True")
    assert (row["overlap_ms"], row["role_confidence"], crossed["flags"]) == ("800", "", "cross_talk")
    (utterance, _) = document(analysis)["utterances"]
    assert utterance["emotion"]["uncertain"] is utterance["sentiment"]["disagree"] is True


def test_corrections_hold_for_the_whole_call_when_it_is_printed() -> None:
    analysis = Analysis(INFO)
    events = [
        *(score(INFO, 1_000 * at).model_copy(update={"speaker": f"speaker-{at}", "role": "unknown"}) for at in (1, 2)),
        Correction(call=INFO, speaker="speaker-2", same_as="speaker-1"),
        Correction(call=INFO, speaker="speaker-1", role="customer", role_confidence=0.97),
    ]
    for event in events:
        headers, value = encode(event)
        analysis.add([Record("call-1", event.kind, dict(headers), value, 0)])
    who = [(one["speaker"], one["role"], one["role_confidence"]) for one in document(analysis)["utterances"]]
    assert who == [("speaker-1", "customer", 0.97)] * 2
    assert [row["speaker"] for row in csv.DictReader(io.StringIO(as_csv([analysis])))] == ["speaker-1"] * 2
    assert any("found by what they said (97% sure)" in note for note in notes(analysis))


def test_a_reader_is_told_why_there_is_no_emotion_and_how_to_change_it() -> None:
    analysis = Analysis(INFO)
    reason = "role agent is not in emotion.roles (customer)"
    analysis.scores = [
        score(INFO, 500, "hi", role="agent").model_copy(update={"emotion": None, "emotion_skipped": reason})
    ]
    (note,) = notes(analysis)
    assert reason in note
    assert "--roles customer" in note
    assert "--emotion all" in note
    analysis.scores = [one.model_copy(update={"emotion_skipped": "shorter than 400 ms"}) for one in analysis.scores]
    assert notes(analysis) == ["no emotion for some utterances: shorter than 400 ms."], "roles would not help"
