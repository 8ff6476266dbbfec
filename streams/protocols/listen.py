"""`/v1/listen`: the live API of Deepgram, spoken by this side. docs/ingestion-listen.md lists every parameter.

The handshake is `options` of the query; then one `Listen` a connection: `receive` takes what the client sends, `heard`
the events of its call as the chain finishes them. Both write answers into the outbox. A changer must know: clients are
Deepgram's own libraries, so a message may get more fields but must keep every one that `deepgram-sdk` requires
(tests/unit/test_listen_protocol.py validates them with its models).
"""

import hashlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from statistics import fmean
from typing import Any, Final, Literal

import numpy as np

from processors.audio import decode, encode
from schemas.audio import BYTES_PER_SAMPLE, Codec
from schemas.events import (
    CallEnded,
    CallEvent,
    Correction,
    Interim,
    Progress,
    Role,
    Score,
    Segment,
    Stretch,
    Word,
)
from streams.corrections import Corrections
from streams.protocols.base import Audio, Began, Ended, Event, Fault, Mark
from streams.protocols.messages import parse
from streams.protocols.query import Query, refused
from streams.protocols.unfinished import Unfinished

ENCODINGS: Final[Mapping[str, Codec]] = {"linear16": "pcm_s16le", "mulaw": "mulaw", "alaw": "alaw"}
RATES: Final = (8_000, 48_000)
"""Lowest and highest sample rate, Hz: what telephones and browsers have."""
MAXIMUM_CHANNELS: Final = 2
"""A call has one channel, or one for each party."""
IDLE: Final = (1011, "No audio data or text message came within the timeout window. NET-0001")
"""Close code and reason for a client that has gone silent, as Deepgram has it."""

_REFUSED: Final = {
    "callback": "results are sent over this connection only",
    "callback_method": "results are sent over this connection only",
    "redact": "nothing is taken out of the words here, and who asks for it must not be given them",
}
_IGNORED: Final = {
    "endpointing": "speech ends at the pause that is set for the whole installation (CALLTIDE_VAD__*)",
    "smart_format": "how numbers are written is set for the whole installation (CALLTIDE_ASR__NUMBERS)",
    "numerals": "how numbers are written is set for the whole installation (CALLTIDE_ASR__NUMBERS)",
    "model": "the model is set for the whole installation; model_info names the one that heard",
    "version": "the model is set for the whole installation; model_info names the one that heard",
    "keyterm": "names and terms are set for the whole installation (CALLTIDE_ASR__HOTWORDS)",
    "keywords": "names and terms are set for the whole installation (CALLTIDE_ASR__HOTWORDS)",
    "language_hint": "languages are set for the whole installation (CALLTIDE_ASR__LANGUAGE)",
    "profanity_filter": "words are not replaced here",
    "replace": "words are not replaced here",
    "dictation": "words are not replaced here",
    "filler_words": "the model leaves out most of them, whatever is asked for",
    "search": "words are not searched for here",
    "detect_entities": "entities are not marked here",
    "detect_language": "languages are set for the whole installation (CALLTIDE_ASR__LANGUAGE)",
}
"""What is known and has no effect, with the reason that the client is told; of other names: that they are not known."""
_HONOURED: Final = {
    *("encoding", "sample_rate", "channels", "multichannel", "language", "punctuate", "diarize", "diarize_model"),
    *("vad_events", "utterance_end_ms", "interim_results", "extra", "tag", "mip_opt_out"),
    *("call", "queue", "agent", "roles", "scores", "token"),
}
_CONTAINERS: Final = {
    b"OggS": "Ogg",
    b"\x1a\x45\xdf\xa3": "WebM",
    b"fLaC": "FLAC",
    b"ID3": "MP3",
}
"""How containers begin that are sent by mistake; the header of a WAV file is 44 bytes of noise and does no harm."""
_ERROR_CODES: Final = {401: "INVALID_AUTH", 429: "TOO_MANY_REQUESTS"}
"""Where Deepgram's word for a status is not the status's own."""
_PUNCTUATION: Final = '.,!?;:…¿¡"“”„«»()[]—–-'


@dataclass(frozen=True, slots=True)
class Options:
    """What a client asks for. `channels`: as they come; `roles`: as they go on, one where channels are mixed."""

    codec: Codec
    rate: int
    channels: int
    roles: tuple[Role, ...]
    language: str = "en"
    punctuate: bool = True
    diarize: bool = False
    vad_events: bool = False
    interim: bool = False
    utterance_end_ms: int | None = None
    scores: Literal["no", "messages", "inline"] = "no"
    """Whether everything known of an utterance comes, too: in messages of its own, or in its `Results`."""
    call_id: str = ""
    queue: str = ""
    agent: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    """Parameters without effect, each with the reason."""

    @property
    def mixed(self) -> bool:
        """Whether the channels are added up to one."""
        return len(self.roles) < self.channels


def options(query: str, languages: Sequence[str] | None = None) -> Options:
    """What the query of the handshake asks for; `languages` are the codes that can be heard, None: any.

    Raises Fault for what Deepgram would answer with HTTP 400, too, and for what it is not safe to ignore.
    """
    asked = Query(query)
    for name, reason in _REFUSED.items():
        if name in asked.values:
            raise refused(f"The parameter {name!r} is not supported: {reason}.")
    encoding = asked.text("encoding")
    if encoding not in ENCODINGS:
        raise refused(
            f"The parameter 'encoding' is one of {', '.join(ENCODINGS)} and sample_rate must be given with it: raw "
            f"audio is taken, no containers (given: {encoding!r})."
        )
    rate = asked.number("sample_rate", *RATES)
    channels = asked.number("channels", 1, MAXIMUM_CHANNELS, default=1)
    both = channels == MAXIMUM_CHANNELS and asked.flag("multichannel")
    language = asked.name("language") or "en"
    code = language.split("-")[0].lower()
    if languages is not None and (len(languages) < 2 if code == "multi" else code not in languages):
        raise refused(f"No such model/language combination found: {', '.join(languages)} can be heard here.")
    metadata = dict(_pair(text) for text in asked.values.get("extra", ()))
    if "tag" in asked.values:
        metadata["tag"] = ",".join(asked.values["tag"])
    return Options(
        codec=ENCODINGS[encoding],
        rate=rate,
        channels=channels,
        roles=asked.roles(("agent", "customer") if both else ("unknown",)),
        language=language,
        punctuate=asked.flag("punctuate", default=True),
        diarize=asked.flag("diarize") or bool(asked.text("diarize_model")),
        vad_events=asked.flag("vad_events"),
        interim=asked.flag("interim_results"),
        utterance_end_ms=asked.number("utterance_end_ms", 1, 60_000) if asked.text("utterance_end_ms") else None,
        scores="inline" if asked.text("scores") == "inline" else "messages" if asked.flag("scores") else "no",
        call_id=asked.name("call"),
        queue=asked.name("queue"),
        agent=asked.name("agent"),
        metadata=tuple(metadata.items()),
        ignored=tuple((name, _IGNORED.get(name, "not known here")) for name in asked.values if name not in _HONOURED),
    )


def _pair(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name and colon):
        raise refused(f"The parameter 'extra' is a name and a value with a colon between them, not {text!r}.")
    return name, value


def grant(request_id: str) -> dict[str, str]:
    """Headers of the answer to a handshake that is granted."""
    return {"dg-request-id": request_id}


def refusal(status: int, message: str, request_id: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of the answer to a handshake that is not granted, in Deepgram's form."""
    body = {
        "err_code": _ERROR_CODES.get(status, HTTPStatus(status).phrase),
        "err_msg": message,
        "request_id": request_id,
    }
    # A header is Latin-1 and of one line.
    headers = {"Content-Type": "application/json", **grant(request_id), "dg-error": ascii(message)[1:-1]}
    return headers, json.dumps(body).encode()


class Listen:
    """One connection. `request_id`: a UUID, and the call's name unless the client gives one; `created`: when it began.

    `finished` is set once the call's last event was `heard`: a client that closed the stream still gets all results.
    """

    def __init__(self, options: Options, request_id: str, created: datetime) -> None:
        self.options = options
        self.request_id = request_id
        self.outbox: list[bytes | str] = []
        self.finished = False
        self._created = created
        self._frame = BYTES_PER_SAMPLE[options.codec] * options.channels
        self._rest = b""
        """The beginning of a sample whose end is in the next message."""
        self._heard_bytes = 0
        self._late_bytes = 0
        self._hash = hashlib.sha256()
        self._closing = False
        self._finalize: dict[int, int] = {}
        """Where in the call each channel was when the client asked for all results up to there, ms."""
        self._speakers: dict[tuple[int, str], int] = {}
        self._corrections = Corrections()
        self._unfinished = Unfinished()
        self._spoken_ms: dict[int, int] = {}
        """End of the last speech of each channel."""
        self._open_ms: dict[int, int] = {}
        """End of the last word of each channel whose `UtteranceEnd` is still to be told."""
        self._model: dict[str, str] | None = None

    def receive(self, message: bytes | str) -> Sequence[Event]:
        """What a websocket message means. Raises Fault for audio in a container and for text that is no message."""
        if self.finished:
            return ()
        if isinstance(message, str):
            return self._told(message)
        if not message:
            # Before there was `CloseStream`, an empty message closed the stream.
            return self._close()
        if self._closing:
            self._late_bytes += len(message)
            return ()
        events: list[Event] = []
        if not self._heard_bytes:
            container = next((name for magic, name in _CONTAINERS.items() if message.startswith(magic)), None)
            if container:
                self.finished = True
                raise Fault(f"DATA-0000: {container} cannot be decoded as raw audio", "not_audio")
            events.append(self._began())
        self._heard_bytes += len(message)
        self._hash.update(message)
        data = self._rest + message
        whole = len(data) - len(data) % self._frame
        self._rest = data[whole:]
        if whole:
            events += self._channels(data[:whole])
        return events

    def lost(self) -> Sequence[Event]:
        """A call that has no name of the client's cannot be continued."""
        if self._closing or not self._heard_bytes or self.options.call_id:
            return ()
        self._closing = True
        return (Ended("hangup", "the connection was lost"),)

    def heard(self, event: CallEvent) -> None:
        """Answer with what the chain made of the call; events as they come from it, in their order.

        An `Interim`, whose topic is another one, may come at any time.
        """
        if self.finished:
            return
        if isinstance(event, Score):
            self._unfinished.finished(event)
            self._speech(event)
            self._result(event)
        elif isinstance(event, Interim):
            if self.options.interim and self._unfinished.is_news(event):
                self._started(event)
                self._interim(event)
        elif isinstance(event, Progress):
            self._passed(event.at_ms)
        elif isinstance(event, Correction):
            self._corrections.add(event)
            if self.options.scores != "no":
                self._answer("Correction", event=event.model_dump(mode="json"))
        elif isinstance(event, CallEnded):
            self._passed(event.duration_ms, at_end=True)
            self._goodbye()

    def _told(self, text: str) -> Sequence[Event]:
        try:
            message = parse(text)
        except Fault as fault:
            self._not_understood(text, str(fault))
            raise
        kind = message.get("type")
        if kind == "KeepAlive":
            return ()
        if kind == "CloseStream":
            return self._close()
        if kind == "Finalize":
            channel = message.get("channel")
            channels = range(len(self.options.roles))
            if channel is not None and channel not in channels:
                self._not_understood(text, "a Finalize of a channel that is not there")
                raise Fault("a Finalize of a channel that is not there", "malformed")
            position = self._heard_bytes // self._frame * 1_000 // self.options.rate
            if position and not self._closing:
                self._finalize |= dict.fromkeys(channels if channel is None else [int(channel)], position)
                return (Mark("Finalize"),)
            return ()
        if kind == "Configure":
            self._answer(
                "ConfigureFailure",
                request_id=self.request_id,
                code="CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                description="Names, terms and formatting are set for the whole installation, not for one stream.",
            )
            return ()
        what = "a message that is no KeepAlive, Finalize, CloseStream or Configure"
        self._not_understood(text, what)
        raise Fault(what, "unknown_message")

    def _not_understood(self, text: str, what: str) -> None:
        self._answer("Error", variant="SchemaError", description=what, message=text[:200])
        self.finished = True

    def _close(self) -> Sequence[Event]:
        if self._closing:
            return ()
        self._closing = True
        if self._heard_bytes:
            return (Ended(),)
        # Without audio there is no call, so no end of it to wait for.
        self._goodbye()
        return ()

    def _began(self) -> Began:
        asked = self.options
        return Began(
            call_id=asked.call_id or self.request_id,
            roles=asked.roles,
            codec="pcm_s16le" if asked.mixed else asked.codec,
            rate=asked.rate,
            queue=asked.queue,
            agent=asked.agent,
            metadata=dict(asked.metadata),
            interim=asked.interim,
        )

    def _channels(self, data: bytes) -> list[Event]:
        """`data`: whole samples, the channels in turn."""
        count = self.options.channels
        if count == 1:
            return [Audio(0, data)]
        if self.options.mixed:
            mean = decode(data, self.options.codec).reshape(-1, count).mean(axis=1)
            return [Audio(0, encode(mean, "pcm_s16le"))]
        kind = "<i2" if self.options.codec == "pcm_s16le" else np.uint8
        samples = np.frombuffer(data, kind).reshape(-1, count)
        return [Audio(channel, samples[:, channel].tobytes()) for channel in range(count)]

    def _answer(self, kind: str, **fields: Any) -> None:
        self.outbox.append(json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":")))

    def _place(self, channel: int) -> list[int]:
        return [channel, len(self.options.roles)]

    def _speech(self, segment: Segment) -> None:
        """There was speech: whatever was finished before it is over, if it was long ago."""
        last_ms = self._open_ms.get(segment.channel)
        if last_ms is not None and self._is_over(last_ms, segment.start_ms):
            self._utterance_end(segment.channel)
        self._started(segment)

    def _started(self, stretch: Stretch) -> None:
        """There is speech: a new utterance, unless it goes on where the last one ended or was told already."""
        channel, spoken_ms = stretch.channel, self._spoken_ms.get(stretch.channel, -1)
        if stretch.start_ms > spoken_ms and self.options.vad_events:
            self._answer("SpeechStarted", channel=self._place(channel), timestamp=_seconds(stretch.start_ms))
        self._spoken_ms[channel] = max(spoken_ms, stretch.end_ms)

    def _interim(self, event: Interim) -> None:
        words = [{**self._word(word), "stable": word.stable} for word in event.words]
        self._results(
            event.channel,
            event.start_ms,
            event.end_ms,
            {
                "transcript": event.text if self.options.punctuate else " ".join(word["word"] for word in words),
                # Of the words so far: how sure the model is of the whole is known at the end.
                "confidence": fmean(word.confidence for word in event.words) if words else 0.0,
                "words": words,
            },
            is_final=False,
            speech_final=False,
        )

    def _nothing(self, channel: int, start_ms: int, end_ms: int, *, from_finalize: bool = False) -> None:
        """A final result without words."""
        nothing = {"transcript": "", "confidence": 0.0, "words": []}
        self._results(channel, start_ms, end_ms, nothing, speech_final=True, from_finalize=from_finalize)

    def _result(self, score: Score) -> None:
        self._model = {"name": score.asr_model, "version": score.pipeline_version, "arch": "calltide"}
        words = [self._word(word, score) for word in score.words]
        plain = " ".join(word["word"] for word in words) or score.text
        alternative: dict[str, Any] = {
            "transcript": score.text if self.options.punctuate else plain,
            "confidence": score.asr_confidence,
        }
        if self.options.language == "multi":
            alternative["languages"] = [score.language]
        self._results(
            score.channel,
            score.start_ms,
            score.end_ms,
            {**alternative, "words": words},
            score if self.options.scores == "inline" else None,
            # What is cut at its longest length goes on; a change of speaker is a pause for everything after it.
            speech_final=score.cut != "max_length",
        )
        if self.options.scores == "messages":
            self._answer("Score", channel_index=self._place(score.channel), event=score.model_dump(mode="json"))
        if score.words:
            self._open_ms[score.channel] = score.words[-1].end_ms

    def _word(self, word: Word, score: Score | None = None) -> dict[str, Any]:
        """`score`: of which it is a word; None: it is interim, and nobody knows yet who speaks."""
        text = word.text.strip()
        told: dict[str, Any] = {
            "word": text.strip(_PUNCTUATION).lower() or text,
            "start": _seconds(word.start_ms),
            "end": _seconds(word.end_ms),
            "confidence": word.confidence,
        }
        if self.options.punctuate:
            told["punctuated_word"] = text
        if self.options.diarize and score is not None:
            told["speaker"] = self._speaker(score.channel, score.speaker)
        return told

    def _speaker(self, channel: int, name: str) -> int:
        """Speakers are numbers from 0 on each channel, by first appearance."""
        name = self._corrections.name(name)
        others = sum(known[0] == channel for known in self._speakers)
        return self._speakers.setdefault((channel, name), others)

    def _results(
        self,
        channel: int,
        start_ms: int,
        end_ms: int,
        alternative: dict[str, Any],
        score: Score | None = None,
        *,
        speech_final: bool,
        is_final: bool = True,
        from_finalize: bool = False,
    ) -> None:
        model = self._model or {"name": "", "version": "", "arch": "calltide"}
        self._answer(
            "Results",
            channel_index=self._place(channel),
            start=_seconds(start_ms),
            duration=_seconds(end_ms - start_ms),
            is_final=is_final,
            speech_final=speech_final,
            from_finalize=from_finalize,
            channel={"alternatives": [alternative]},
            metadata={"request_id": self.request_id, "model_info": model, "model_uuid": _uuid(model)},
            **({} if score is None else {"score": score.model_dump(mode="json")}),
        )

    def _is_over(self, last_ms: int, now_ms: int) -> bool:
        return self.options.utterance_end_ms is not None and now_ms - last_ms >= self.options.utterance_end_ms

    def _utterance_end(self, channel: int) -> None:
        last_ms = self._open_ms.pop(channel)
        self._answer("UtteranceEnd", channel=self._place(channel), last_word_end=_seconds(last_ms))

    def _passed(self, at_ms: int, *, at_end: bool = False) -> None:
        """All that was said before `at_ms` is answered."""
        for event in self._unfinished.passed(math.inf if at_end else at_ms):
            # What seemed to be speech was none.
            self._nothing(event.channel, event.start_ms, event.end_ms)
        for channel, last_ms in sorted(self._open_ms.items()):
            if self._is_over(last_ms, at_ms):
                self._utterance_end(channel)
        for channel, asked_ms in sorted(self._finalize.items()):
            if at_end or at_ms >= asked_ms:
                del self._finalize[channel]
                self._nothing(channel, asked_ms, asked_ms, from_finalize=True)

    def _goodbye(self) -> None:
        """The last message: what was received, and what of the request had no effect."""
        ignored = list(self.options.ignored)
        if self._late_bytes:
            ignored.append(("CloseStream", f"{self._late_bytes} bytes of audio came after it and were not taken"))
        if self._rest:
            ignored.append(("sample_rate", f"the audio ended inside a sample: {len(self._rest)} bytes were not taken"))
        models = {} if self._model is None else {_uuid(self._model): self._model}
        self._answer(
            "Metadata",
            transaction_key="deprecated",
            request_id=self.request_id,
            sha256=self._hash.hexdigest(),
            created=self._created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            duration=round(self._heard_bytes // self._frame / self.options.rate, 3),
            channels=len(self.options.roles) if self._heard_bytes else 0,
            models=list(models),
            model_info=models,
            warnings=[{"parameter": name, "type": "ignored", "message": reason} for name, reason in ignored],
        )
        self.finished = True


def _seconds(milliseconds: int) -> float:
    return milliseconds / 1_000


def _uuid(model: Mapping[str, str]) -> str:
    """Deepgram names models by UUID: this one is always the same for a model of this name and version."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{model['name']} {model['version']}"))
