"""Deepgram's live API: the decoder alone, then read by Deepgram's own library."""

import asyncio
import hashlib
import inspect
import json
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType
from deepgram.listen.v1.client import V1Client
from deepgram.listen.v1.types import (
    ListenV1ConfigureFailure,
    ListenV1Error,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request

from processors.asr import Config
from processors.audio import decode, encode
from schemas.events import CallEnded, Correction, Interim, Progress, RunningScore, Score
from streams.protocols.base import Audio, Began, Ended, Event, Fault, Mark
from streams.protocols.listen import Listen, options, refusal
from tests.unit.stage_records import STARTED_AT, call, interim, utterance

REQUEST = "0c6e9f6a-1f0e-4b43-9a52-2f4c3f8f7a10"
RAW = {"encoding": "linear16", "sample_rate": "16000"}
STEREO = {**RAW, "channels": "2", "multichannel": "true"}
MODELS: dict[str, type[BaseModel]] = {
    "Results": ListenV1Results,
    "Metadata": ListenV1Metadata,
    "SpeechStarted": ListenV1SpeechStarted,
    "UtteranceEnd": ListenV1UtteranceEnd,
    "Error": ListenV1Error,
    "ConfigureFailure": ListenV1ConfigureFailure,
}


def listen(**asked: str) -> Listen:
    return Listen(options(urlencode(RAW | asked)), REQUEST, datetime(2026, 11, 21, 9, tzinfo=UTC))


def score(start_ms: int, length_ms: int = 1_000, text: str = "Well, then.", **fields: Any) -> Score:
    words = text.split()
    step = length_ms // max(len(words), 1)
    spoken = [
        {"text": word, "start_ms": start_ms + at * step, "end_ms": start_ms + (at + 1) * step, "confidence": 0.8}
        for at, word in enumerate(words)
    ]
    fields = {"running": RunningScore(score=0, party_score=0, utterances=1), "pipeline_version": "v1"} | fields
    return utterance(Score, call(("unknown",)), start_ms, length_ms, text=text, words=spoken, **fields)


def ended(duration_ms: int = 60_000) -> CallEnded:
    return CallEnded(call=call(("unknown",)), duration_ms=duration_ms, ended_at=STARTED_AT, reason="hangup")


def so_far(start_ms: int, length_ms: int, text: str = "Well then", stable: int = 0, channel: int = 0) -> Interim:
    return interim(call(("unknown",)), start_ms, length_ms, text, stable, channel)


def progress(at_ms: int) -> Progress:
    return Progress(call=call(("unknown",)), at_ms=at_ms)


def answers(decoder: Listen) -> list[dict[str, Any]]:
    """What is in the outbox, emptied. What Deepgram's API has, its library's models must take as it is."""
    messages = [json.loads(text) for text in decoder.outbox]
    decoder.outbox.clear()
    for message in messages:
        if message["type"] in MODELS:
            MODELS[message["type"]].model_validate(message, strict=True)
    return messages


def kinds(decoder: Listen) -> list[str]:
    return [message["type"] for message in answers(decoder)]


def samples(events: Sequence[Event], channel: int = 0) -> bytes:
    return b"".join(event.samples for event in events if isinstance(event, Audio) and event.channel == channel)


def test_the_first_audio_begins_the_call_with_what_the_query_says() -> None:
    asked = {**RAW, "encoding": "mulaw", "sample_rate": "8000", "channels": "2", "multichannel": "true"}
    asked |= {"roles": "customer,agent", "call": "c-1", "queue": "sales", "agent": "diane"}
    query = urlencode([*asked.items(), ("extra", "ticket:4711:b"), ("extra", "lang:en"), ("tag", "x"), ("tag", "y")])
    decoder = Listen(options(query), REQUEST, STARTED_AT)
    assert decoder.receive('{"type": "KeepAlive"}') == ()
    began, *audio = decoder.receive(b"\x01\x02\x03\x04")
    assert began == Began(
        "c-1",
        ("customer", "agent"),
        "mulaw",
        8_000,
        queue="sales",
        agent="diane",
        metadata={"ticket": "4711:b", "lang": "en", "tag": "x,y"},
    )
    assert audio == [Audio(0, b"\x01\x03"), Audio(1, b"\x02\x04")]
    assert listen().receive(b"\0\0")[0] == Began(REQUEST, ("unknown",), "pcm_s16le", 16_000)


@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(0, 200)), channels=st.sampled_from([1, 2]))
def test_messages_may_end_anywhere_in_a_sample(data: bytes, cuts: list[int], channels: int) -> None:
    decoder = listen(channels=str(channels), multichannel="true")
    data = b"\x7f" + data
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    events = [event for a, b in pairwise(places) for event in decoder.receive(data[a:b])]
    whole = data[: len(data) // (2 * channels) * 2 * channels]
    wanted = np.frombuffer(whole, "<i2").reshape(-1, channels)
    for channel in range(channels):
        assert samples(events, channel) == wanted[:, channel].tobytes()
    assert sum(isinstance(event, Began) for event in events) == 1


@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw"])
def test_channels_that_are_not_told_apart_are_mixed_as_files_are(encoding: str) -> None:
    codec = {"linear16": "pcm_s16le"}.get(encoding, encoding)
    left, right = np.linspace(-0.5, 0.5, 50, dtype=np.float32), np.full(50, 0.25, np.float32)
    stereo = encode(np.column_stack([left, right]).ravel(), codec)  # type: ignore[arg-type]
    began, audio = listen(encoding=encoding, channels="2").receive(stereo)
    assert isinstance(began, Began) and isinstance(audio, Audio)
    assert (began.codec, began.roles) == ("pcm_s16le", ("unknown",))
    # Half a step of G.711 at 0.5 and at 0.25, on average.
    assert np.abs(decode(audio.samples, "pcm_s16le") - (left + right) / 2).max() <= (1 / 64 + 1 / 128) / 2


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"callback": "https://example.com"}, "callback"),
        ({"redact": "pci"}, "redact"),
        ({"encoding": "opus"}, "encoding"),
        ({"encoding": ""}, "encoding"),
        ({"sample_rate": ""}, "sample_rate"),
        ({"sample_rate": "4000"}, "sample_rate"),
        ({"sample_rate": "16000.5"}, "sample_rate"),
        ({"sample_rate": "9" * 5_000}, "sample_rate"),
        ({"sample_rate": "١٦٠٠٠"}, "sample_rate"),
        ({"channels": "3"}, "channels"),
        ({"multichannel": "maybe", "channels": "2"}, "multichannel"),
        ({"roles": "agent,customer"}, "roles"),
        ({"roles": "boss"}, "roles"),
        ({"language": "fr"}, "language"),
        ({"language": "multi"}, "language"),
        ({"extra": "no-colon"}, "extra"),
        ({"call": "a\nb"}, "call"),
        ({"call": "x" * 300}, "call"),
        ({"utterance_end_ms": "soon"}, "utterance_end_ms"),
        ({f"p{number}": "1" for number in range(100)}, "100 parameters"),
    ],
)
def test_what_cannot_be_granted_is_refused_at_the_handshake(asked: dict[str, str], what: str) -> None:
    with pytest.raises(Fault, match=what) as fault:
        options(urlencode(RAW | asked), languages=["en"])
    headers, body = refusal(400, str(fault.value), REQUEST)
    assert json.loads(body) == {"err_code": "Bad Request", "err_msg": str(fault.value), "request_id": REQUEST}
    assert headers["dg-request-id"] == REQUEST and headers["dg-error"].isascii() and headers["dg-error"].isprintable()


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(Fault, match="2 times"):
        options(urlencode([*RAW.items(), ("encoding", "mulaw")]))


def test_the_language_is_one_that_can_be_heard() -> None:
    assert options(urlencode(RAW | {"language": "en-GB"}), ["en"]).language == "en-GB"
    assert options(urlencode(RAW | {"language": "fr"})).language == "fr"
    assert options(urlencode(RAW | {"language": "multi"}), ["en", "es"]).language == "multi"


@pytest.mark.parametrize(
    ("asr", "languages"),
    [
        ({}, ("en",)),
        ({"model": "Systran/faster-whisper-base.en"}, ("en",)),
        ({"model": "large-v3"}, None),
        ({"model": "large-v3", "language": "en, es"}, ("en", "es")),
        ({"engine": "onnx-asr", "model": "some.en"}, None),
    ],
)
def test_what_can_be_heard_is_what_the_settings_tell(asr: dict[str, Any], languages: tuple[str, ...] | None) -> None:
    assert Config(**asr).languages == languages


def test_a_result_is_what_deepgram_sends() -> None:
    decoder = listen(diarize="true")
    decoder.heard(score(1_500, 1_000, "Well, “then.”", speaker="speaker-2"))
    (result,) = answers(decoder)
    model = {"name": "some-asr", "version": "v1", "arch": "calltide"}
    assert uuid.UUID(result["metadata"].pop("model_uuid"))
    assert result == {
        "type": "Results",
        "channel_index": [0, 1],
        "start": 1.5,
        "duration": 1.0,
        "is_final": True,
        "speech_final": True,
        "from_finalize": False,
        "channel": {
            "alternatives": [
                {
                    "transcript": "Well, “then.”",
                    "confidence": 0.9,
                    "words": [
                        {
                            "word": "well",
                            "start": 1.5,
                            "end": 2.0,
                            "confidence": 0.8,
                            "punctuated_word": "Well,",
                            "speaker": 0,
                        },
                        {
                            "word": "then",
                            "start": 2.0,
                            "end": 2.5,
                            "confidence": 0.8,
                            "punctuated_word": "“then.”",
                            "speaker": 0,
                        },
                    ],
                }
            ]
        },
        "metadata": {"request_id": REQUEST, "model_info": model},
    }


def test_without_punctuation_the_words_are_plain() -> None:
    decoder = listen(punctuate="false")
    decoder.heard(score(0, text="It's $5, — Bob's."))
    (result,) = answers(decoder)
    alternative = result["channel"]["alternatives"][0]
    assert alternative["transcript"] == "it's $5 — bob's"
    assert not any({"punctuated_word", "speaker"} & word.keys() for word in alternative["words"])


def test_speech_that_was_cut_at_its_longest_is_not_finished() -> None:
    decoder = listen(vad_events="true", utterance_end_ms="1000")
    decoder.heard(score(0, 15_000, cut="max_length"))
    decoder.heard(score(15_000, 1_000))
    started, first, second = answers(decoder)
    assert (started["type"], started["timestamp"], started["channel"]) == ("SpeechStarted", 0, [0, 1])
    assert [first["speech_final"], second["speech_final"]] == [False, True]


def test_events_of_speech_come_in_their_order() -> None:
    decoder = Listen(
        options(urlencode(STEREO | {"vad_events": "true", "utterance_end_ms": "1000"})), REQUEST, STARTED_AT
    )
    decoder.heard(score(1_000, channel=0))
    decoder.heard(score(1_500, channel=1))
    assert kinds(decoder) == ["SpeechStarted", "Results", "SpeechStarted", "Results"]
    decoder.heard(progress(2_999))
    assert kinds(decoder) == []
    decoder.heard(progress(3_000))
    (over,) = answers(decoder)
    assert (over["type"], over["channel"], over["last_word_end"]) == ("UtteranceEnd", [0, 2], 2.0)
    decoder.heard(score(4_000, channel=1))
    assert kinds(decoder) == ["UtteranceEnd", "SpeechStarted", "Results"]
    decoder.heard(progress(4_500))
    decoder.heard(ended(6_000))
    assert kinds(decoder) == ["UtteranceEnd", "Metadata"]


def test_the_open_segment_tells_speech_and_only_once() -> None:
    decoder = listen(vad_events="true", interim_results="true")
    decoder.heard(so_far(500, 300, ""))
    started, nothing = answers(decoder)
    assert (started["type"], started["timestamp"]) == ("SpeechStarted", 0.5)
    assert (nothing["is_final"], nothing["channel"]["alternatives"][0]["transcript"]) == (False, "")
    decoder.heard(so_far(500, 1_200))
    decoder.heard(score(500, 1_500))
    decoder.heard(score(2_000, 500))
    assert kinds(decoder) == ["Results"] * 3
    decoder.heard(so_far(3_000, 400))
    assert kinds(decoder) == ["SpeechStarted", "Results"]


def test_an_interim_result_has_the_words_so_far_and_which_are_stable() -> None:
    decoder = listen(interim_results="true", diarize="true")
    assert decoder.receive(b"\0\0")[0] == Began(REQUEST, ("unknown",), "pcm_s16le", 16_000, interim=True)
    decoder.heard(so_far(1_500, 1_000, "Well, then", stable=1))
    (result,) = answers(decoder)
    times = {"start": 1.5, "end": 2.0, "confidence": 0.5}
    assert (result["start"], result["duration"], result["channel_index"]) == (1.5, 1.0, [0, 1])
    assert (result["is_final"], result["speech_final"], result["from_finalize"]) == (False, False, False)
    # Who speaks is known at the end.
    assert result["channel"]["alternatives"] == [
        {
            "transcript": "Well, then",
            "confidence": 0.5,
            "words": [
                {"word": "well", "punctuated_word": "Well,", **times, "stable": True},
                {"word": "then", "punctuated_word": "then", **times, "start": 2.0, "end": 2.5, "stable": False},
            ],
        }
    ]
    decoder = listen(interim_results="true", punctuate="false")
    decoder.heard(so_far(1_500, 1_000, "Well, then"))
    (result,) = answers(decoder)
    assert result["channel"]["alternatives"][0]["transcript"] == "well then"


def test_interim_results_come_to_nobody_who_did_not_ask() -> None:
    decoder = listen(vad_events="true")
    assert decoder.receive(b"\0\0")[0] == Began(REQUEST, ("unknown",), "pcm_s16le", 16_000)
    decoder.heard(so_far(500, 300))
    decoder.heard(progress(5_000))
    assert kinds(decoder) == []


def test_an_interim_result_that_is_overtaken_is_dropped() -> None:
    decoder = Listen(options(urlencode(STEREO | {"interim_results": "true"})), REQUEST, STARTED_AT)

    def told(event: Any) -> list[str]:
        decoder.heard(event)
        return [result["channel"]["alternatives"][0]["transcript"] for result in answers(decoder)]

    assert told(so_far(1_000, 900, "Well then")) == ["Well then"]
    assert told(so_far(1_000, 600, "Well")) == []  # an older revision
    assert told(so_far(1_000, 900, "Well then")) == []  # the same again
    assert told(score(1_000, 1_000)) == ["Well, then."]
    assert told(so_far(1_000, 1_000, "Well then")) == []
    # Another channel, and what is said later on this one.
    assert told(so_far(900, 900, "Yes", channel=1)) == ["Yes"]
    assert told(so_far(2_500, 300, "But")) == ["But"]
    # An utterance that is finished later than the next one began.
    assert told(score(2_100, 300, "So.")) == ["So."]
    assert told(so_far(2_100, 300, "So")) == []
    assert told(so_far(2_500, 600, "But you")) == ["But you"]
    # Diarization may cut what is the open segment; its last turn may begin later than it.
    assert told(score(2_700, 600, "But you")) == ["But you"]
    assert told(so_far(2_500, 900, "But you and")) == []


def test_interim_words_that_come_to_nothing_are_taken_back() -> None:
    decoder = listen(interim_results="true")
    decoder.heard(so_far(1_000, 900, "Tata"))
    decoder.heard(progress(1_000))
    assert len(answers(decoder)) == 1
    decoder.heard(progress(2_500))
    (result,) = answers(decoder)
    assert (result["is_final"], result["start"], result["duration"]) == (True, 1.0, 0.9)
    assert result["channel"]["alternatives"][0] == {"transcript": "", "confidence": 0.0, "words": []}
    decoder.heard(so_far(1_000, 1_200, "Tata ta"))
    decoder.heard(progress(3_500))
    assert kinds(decoder) == []
    decoder.heard(so_far(4_000, 400, "Yes"))
    decoder.heard(ended(4_500))
    assert [result.get("is_final") for result in answers(decoder)] == [False, True, None]


def test_what_is_said_next_does_not_end_an_utterance_whose_result_is_to_come() -> None:
    decoder = listen(interim_results="true", utterance_end_ms="1000")
    decoder.heard(score(0, 1_000))
    decoder.heard(so_far(3_500, 300))
    assert kinds(decoder) == ["Results", "Results"]
    decoder.heard(score(1_500, 1_500))
    assert kinds(decoder) == ["Results"]
    decoder.heard(progress(3_500))
    assert kinds(decoder) == []
    decoder.heard(score(4_100, 300))
    assert kinds(decoder) == ["UtteranceEnd", "Results"]


def test_speakers_are_numbers_by_channel_and_merge_when_they_turn_out_to_be_one() -> None:
    decoder = listen(diarize="true", scores="true")

    def number(name: str) -> int:
        decoder.heard(score(0, speaker=name))
        return int(answers(decoder)[0]["channel"]["alternatives"][0]["words"][0]["speaker"])

    assert [number(name) for name in ("speaker-1", "speaker-2", "speaker-1")] == [0, 1, 0]
    decoder.heard(Correction(call=call(("unknown",)), speaker="speaker-2", same_as="speaker-1"))
    assert kinds(decoder) == ["Correction"]
    assert number("speaker-2") == 0


def test_scores_come_when_asked_for() -> None:
    decoder = listen(scores="true")
    spoken = score(0)
    decoder.heard(spoken)
    _result, told = answers(decoder)
    assert (told["type"], told["channel_index"]) == ("Score", [0, 1])
    assert Score.model_validate(told["event"]) == spoken
    decoder = listen(scores="inline")
    decoder.heard(spoken)
    (result,) = answers(decoder)
    assert Score.model_validate(result["score"]) == spoken


def test_close_stream_waits_for_the_results_and_ends_with_metadata() -> None:
    decoder = listen(interim_results="true", model="nova-3", unheard_of="1")
    events = [*decoder.receive(b"\0\0" * 24_000), *decoder.receive(b"\1"), *decoder.receive('{"type": "CloseStream"}')]
    assert events[-1] == Ended() and (decoder.finished, decoder.outbox) == (False, [])
    assert not decoder.receive(b"late") and not decoder.receive('{"type": "CloseStream"}')
    decoder.heard(score(0))
    decoder.heard(ended(1_500))
    _result, told = answers(decoder)
    assert decoder.finished
    assert (told["type"], told["request_id"], told["duration"], told["channels"]) == ("Metadata", REQUEST, 1.5, 1)
    assert told["created"] == "2026-11-21T09:00:00.000Z"
    assert told["sha256"] == hashlib.sha256(b"\0\0" * 24_000 + b"\1").hexdigest()
    assert [model["name"] for model in told["model_info"].values()] == ["some-asr"]
    warned = {warning["parameter"]: warning["message"] for warning in told["warnings"]}
    assert warned.keys() == {"model", "unheard_of", "CloseStream", "sample_rate"}
    assert "4 bytes" in warned["CloseStream"]
    decoder.heard(score(0))
    assert not decoder.outbox


@pytest.mark.parametrize("goodbye", [b"", '{"type": "CloseStream"}'])
def test_a_stream_without_audio_leaves_no_call(goodbye: bytes | str) -> None:
    decoder = listen()
    assert not decoder.receive('{"type": "Finalize"}') and not decoder.receive(goodbye)
    (told,) = answers(decoder)
    assert (told["type"], told["duration"], told["channels"]) == ("Metadata", 0, 0) and decoder.finished


def test_finalize_is_answered_when_all_before_it_is() -> None:
    decoder = Listen(options(urlencode(STEREO)), REQUEST, STARTED_AT)
    decoder.receive(b"\0\0\0\0" * 16_000)
    assert decoder.receive('{"type": "Finalize", "channel": 1}') == (Mark("Finalize"),)
    decoder.heard(progress(999))
    decoder.heard(score(200, 700, channel=1))
    decoder.heard(progress(1_000))
    result, done = answers(decoder)
    assert [result["from_finalize"], done["from_finalize"]] == [False, True]
    assert (done["channel_index"], done["start"], done["duration"]) == ([1, 2], 1.0, 0)
    decoder.receive('{"type": "Finalize"}')
    decoder.heard(ended(1_000))
    assert kinds(decoder) == ["Results", "Results", "Metadata"]


def test_configure_is_declined_and_the_stream_goes_on() -> None:
    decoder = listen()
    assert not decoder.receive('{"type": "Configure", "keyterms": ["Calltide"]}')
    assert kinds(decoder) == ["ConfigureFailure"] and not decoder.finished


@pytest.mark.parametrize("text", ["", "KeepAlive", "[]", "{}", '{"type": "Finalize", "channel": 1}', "[" * 60_000])
def test_text_that_is_no_message_is_answered_with_an_error_and_closed(text: str) -> None:
    decoder = listen()
    with pytest.raises(Fault):
        decoder.receive(text)
    assert kinds(decoder) == ["Error"] and decoder.finished


@pytest.mark.parametrize("start", [b"OggS", b"\x1a\x45\xdf\xa3", b"fLaC", b"ID3"])
def test_a_container_is_no_raw_audio(start: bytes) -> None:
    with pytest.raises(Fault, match="DATA-0000") as fault:
        listen().receive(start + bytes(100))
    assert (fault.value.close_code, fault.value.counted_as) == (1008, "not_audio")


def test_a_lost_connection_ends_a_call_that_nobody_can_continue() -> None:
    decoder, named, silent = listen(), listen(call="c-1"), listen()
    decoder.receive(b"\0\0")
    named.receive(b"\0\0")
    assert [type(event) for event in decoder.lost()] == [Ended]
    assert not decoder.lost() and not named.lost() and not silent.lost()


TEXTS = st.one_of(
    st.text(max_size=50),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["KeepAlive", "Finalize", "CloseStream", "Configure", 3, None])},
        optional={"channel": st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.lists(st.integers()))},
    ).map(json.dumps),
)
NAMES = st.sampled_from(
    ["encoding", "sample_rate", "channels", "multichannel", "language", "punctuate", "extra", "tag", "call", "roles"]
)
VALUES = st.one_of(st.sampled_from(["linear16", "mulaw", "16000", "2", "true", "multi", "a:b"]), st.text(max_size=20))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.text(max_size=60))
def test_no_query_does_anything_but_be_granted_or_refused(pairs: list[tuple[str, str]], raw: str) -> None:
    for query in (urlencode(pairs), raw):
        try:
            granted = options(query)
        except Fault as fault:
            refusal(400, str(fault), REQUEST)[0]["dg-error"].encode("ascii")
        else:
            for event in Listen(granted, REQUEST, STARTED_AT).receive(b"\0" * 8):
                assert isinstance(event, Began | Audio)


EVENTS = st.one_of(
    st.builds(score, st.integers(0, 9_000), st.integers(1, 3_000), st.text(max_size=20), channel=st.integers(0, 1)),
    st.builds(so_far, st.integers(0, 9_000), st.integers(1, 3_000), st.text(max_size=20), channel=st.integers(0, 1)),
    st.builds(progress, st.integers(0, 20_000)),
    st.just(ended(9_000)),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(TEXTS, st.binary(max_size=40), EVENTS), max_size=20))
def test_no_message_does_anything_but_events_answers_and_faults(messages: list[Any]) -> None:
    asked = STEREO | {"vad_events": "true", "utterance_end_ms": "500", "diarize": "true", "scores": "true"}
    asked |= {"interim_results": "true"}
    decoder = Listen(options(urlencode(asked)), REQUEST, STARTED_AT)
    events: list[Event] = []
    for message in messages:
        if not isinstance(message, str | bytes):
            decoder.heard(message)
            continue
        try:
            events += decoder.receive(message)
        except Fault:
            assert decoder.finished
            break
    events += decoder.lost()
    order = [type(event) for event in events if not isinstance(event, Audio | Mark)]
    # A call that began is either ended or was broken off by a fault, after which the shell asks for `lost`.
    assert order in ([], [Began, Ended])
    assert not events or isinstance(events[0], Began)
    said = kinds(decoder)
    assert said.count("Metadata") <= 1
    assert "Metadata" not in said[:-1]


@asynccontextmanager
async def served(heard: Sequence[Any]) -> AsyncIterator[tuple[AsyncDeepgramClient, list[Event]]]:
    """A server of nothing but the decoder, and Deepgram's client for it. `heard` is what the chain makes of a call."""
    events: list[Event] = []

    def handshake(connection: ServerConnection, request: Request) -> None:
        assert urlsplit(request.path).path == "/v1/listen"
        assert request.headers["Authorization"] == "Token some-key"
        connection.asked = options(urlsplit(request.path).query, ["en"])  # type: ignore[attr-defined]

    async def talk(connection: ServerConnection) -> None:
        decoder = Listen(connection.asked, REQUEST, datetime.now(UTC))  # type: ignore[attr-defined]
        async for message in connection:
            try:
                events.extend(decoder.receive(message))
            except Fault as fault:
                await connection.send(decoder.outbox)
                await connection.close(fault.close_code, str(fault))
                return
            if events and isinstance(events[-1], Ended):
                for event in heard:
                    decoder.heard(event)
            for answer in decoder.outbox:
                await connection.send(answer)
            decoder.outbox.clear()
            if decoder.finished:
                return

    async with serve(talk, "127.0.0.1", 0, process_request=handshake) as server:
        address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        environment = DeepgramClientEnvironment(base=address, production=address, agent=address, agent_rest=address)
        yield AsyncDeepgramClient(api_key="some-key", environment=environment), events


async def _with_the_library(scores: str) -> None:
    spoken = score(500, text="Hello there.")
    said = [so_far(500, 600, "Hello", 1), spoken, score(3_000, text="Bye.", cut="end"), ended(4_500)]
    sound = np.arange(24_000, dtype="<i2").tobytes()
    async with served(said) as (client, events):
        asked: dict[str, Any] = {"model": "nova-3", **RAW, "punctuate": True, "vad_events": True, "diarize": True}
        asked |= {"interim_results": True}
        asked |= {"utterance_end_ms": 1_000, "request_options": {"additional_query_parameters": {"scores": scores}}}
        messages: list[Any] = []
        async with client.listen.v1.connect(**asked) as connection:
            connection.on(EventType.MESSAGE, messages.append)
            listening = asyncio.create_task(connection.start_listening())
            await connection.send_keep_alive()
            for at in range(0, len(sound), 3_200):
                await connection.send_media(sound[at : at + 3_200])
            await connection.send_finalize()
            await connection.send_close_stream()
            await asyncio.wait_for(listening, 10)
        assert samples(events) == sound
        so_far_told, *results = [message for message in messages if isinstance(message, ListenV1Results)]
        assert (so_far_told.is_final, so_far_told.speech_final) == (False, False)
        (hello,) = so_far_told.channel.alternatives[0].words
        assert (hello.punctuated_word, hello.start, hello.model_dump()["stable"]) == ("Hello", 0.5, True)
        texts = [result.channel.alternatives[0].transcript for result in results]
        assert texts == ["Hello there.", "Bye.", ""]
        word = results[0].channel.alternatives[0].words[1]
        assert (word.word, word.punctuated_word, word.start, word.end, word.speaker) == ("there", "there.", 1.0, 1.5, 0)
        assert results[2].from_finalize
        own = [None] if scores == "true" else []
        assert [message and type(message) for message in messages] == [
            *(ListenV1SpeechStarted, ListenV1Results, ListenV1Results, *own),
            *(ListenV1UtteranceEnd, ListenV1SpeechStarted, ListenV1Results, *own),
            *(ListenV1Results, ListenV1Metadata),
        ]
        if scores == "inline":
            assert Score.model_validate(results[0].model_dump()["score"]) == spoken
        assert messages[-1].duration == 1.5


async def _with_the_blocking_client() -> None:
    said = [score(500, text="Hello there."), ended(1_500)]
    async with served(said) as (client, events):
        environment = client._client_wrapper.get_environment()
        messages: list[Any] = []

        def talk() -> None:
            blocking = DeepgramClient(api_key="some-key", environment=environment)
            with blocking.listen.v1.connect(model="nova-3", **RAW) as connection:
                connection.on(EventType.MESSAGE, messages.append)
                connection.send_media(bytes(48_000))
                connection.send_close_stream()
                connection.start_listening()

        await asyncio.to_thread(talk)
        assert len(samples(events)) == 48_000
    assert [type(message) for message in messages] == [ListenV1Results, ListenV1Metadata]
    assert messages[0].channel.alternatives[0].transcript == "Hello there."


@pytest.mark.timeout(30)
@pytest.mark.parametrize("scores", ["true", "inline"])
def test_deepgrams_own_library_understands_the_answers(scores: str) -> None:
    """What is not Deepgram's is None to the library; more fields of what is are passed on."""
    asyncio.run(_with_the_library(scores))


@pytest.mark.timeout(30)
def test_deepgrams_blocking_client_understands_the_answers() -> None:
    asyncio.run(_with_the_blocking_client())


PAGE = Path(__file__).parent.parent.parent / "docs" / "ingestion-listen.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \| (honoured|ignored|refused) \|", PAGE.read_text(), re.M))
VALID = STEREO | {
    "language": "en",
    "diarize_model": "latest",
    "utterance_end_ms": "1000",
    "extra": "a:b",
}


def test_the_page_lists_every_parameter_of_the_library_and_its_version() -> None:
    known = set(inspect.signature(V1Client.connect).parameters) - {"self", "authorization", "request_options"}
    assert known <= ROWS.keys()
    assert f"deepgram-sdk {version('deepgram-sdk')}" in PAGE.read_text()


@pytest.mark.parametrize(("name", "said"), ROWS.items())
def test_the_page_says_of_each_parameter_what_becomes_of_it(name: str, said: str) -> None:
    query = urlencode(RAW | {name: VALID.get(name, "true")})
    if said == "refused":
        with pytest.raises(Fault, match=name):
            options(query)
    else:
        ignored = dict(options(query).ignored)
        assert (name in ignored) == (said == "ignored")
        assert "not known" not in ignored.get(name, "")
