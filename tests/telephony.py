"""A real recording as the messages of phone systems, and what the chain hears in the records that come of them."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import soundfile
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver, algorithms
from numpy.typing import NDArray

from processors.audio import encode
from processors.base import Record
from schemas.events import Role, Score
from streams.analyze import Analysis, Analyzer
from streams.ingestion.signatures import SIGNED

SECONDS: Final = 20
RATE: Final = 8_000


class Recording:
    """The beginning of a made call, two channels, 8 kHz mu-law: the file, its bytes and what `analyze` hears in it."""

    def __init__(self, analyzer: Analyzer, test_data: Path, folder: Path, roles: tuple[Role, ...]) -> None:
        name = "made-02-stereo"
        sound, rate = soundfile.read(
            test_data / "calls" / "made" / f"{name}.wav", SECONDS * RATE, dtype="float32", always_2d=True
        )
        assert (rate, sound.shape[1]) == (RATE, 2)
        self.path = folder / f"{name}.wav"
        soundfile.write(self.path, sound, RATE, subtype="ULAW")
        self.channels: list[NDArray[np.uint8]] = [
            np.frombuffer(encode(np.ascontiguousarray(one), "mulaw"), np.uint8) for one in sound.T
        ]
        self.analyzer = analyzer
        analysis, damage = self.analyzer.hear(self.path, roles=roles)
        assert damage is None
        self.expected = utterances(analysis)
        assert len(self.expected) >= 3
        assert {said["channel"] for said in self.expected} == {0, 1}

    def heard(self, records: Iterable[Record]) -> list[dict[str, Any]]:
        """What the chain hears in a call's records of `audio.frames`."""
        analysis = Analysis(call=None)  # type: ignore[arg-type]
        analysis.add(self.analyzer.chain.push(list(records)))
        return utterances(analysis)

    def blocks(self, ms: int) -> Iterator[tuple[int, list[bytes]]]:
        """(where it begins, ms, the samples of each channel) of every so many milliseconds."""
        size = ms * RATE // 1_000
        for start in range(0, len(self.channels[0]), size):
            yield start * 1_000 // RATE, [channel[start : start + size].tobytes() for channel in self.channels]


def utterances(analysis: Analysis) -> list[dict[str, Any]]:
    """What was said, by whom, when and how: all of each score that does not tell which call it is of."""
    return [said(score) for score in analysis.in_order]


def said(score: Score) -> dict[str, Any]:
    """One utterance."""
    return score.model_dump(mode="json", exclude={"call", "captured_at"})


def twilio(recording: Recording, call_sid: str, stream_sid: str = "MZ1") -> Iterator[str]:
    """What Twilio sends: both tracks, a message of 20 ms for each in turn."""
    number = 0

    def message(event: str, body: dict[str, Any]) -> str:
        nonlocal number
        number += 1
        return json.dumps({"event": event, "sequenceNumber": str(number), event: body, "streamSid": stream_sid})

    yield json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})
    form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    named = {"accountSid": "AC1", "callSid": call_sid}
    yield message(
        "start",
        {**named, "streamSid": stream_sid, "tracks": ["inbound", "outbound"], "mediaFormat": form}
        | {"customParameters": {"queue": "billing"}},
    )
    for at_ms, channels in recording.blocks(20):
        for track, samples in zip(("inbound", "outbound"), channels, strict=True):
            payload = base64.b64encode(samples).decode()
            chunk = {"track": track, "chunk": str(at_ms // 20 + 1), "timestamp": str(at_ms), "payload": payload}
            yield message("media", chunk)
    yield message("stop", named)


class Genesys:
    """What Genesys sends, numbered as it goes: what is to be sent depends on how many answers have come."""

    def __init__(self, session: str, organization: str) -> None:
        self.session = session
        self.organization = organization
        self.seq = 0
        self.answers = 0

    def message(self, kind: str, parameters: dict[str, Any], at_ms: int = 0) -> str:
        """The next text message, at a position."""
        self.seq += 1
        head = {"version": "2", "id": self.session, "type": kind, "seq": self.seq, "serverseq": self.answers}
        return json.dumps(head | {"position": f"PT{at_ms / 1_000}S", "parameters": parameters})

    def open(self, conversation: str) -> str:
        """Both parties on offer, and each alone."""
        offered: Sequence[list[str]] = (["external", "internal"], ["external"], ["internal"])
        media = [{"type": "audio", "format": "PCMU", "channels": one, "rate": RATE} for one in offered]
        who = {"id": self.session, "ani": "+1-555-555-1234", "aniName": "", "dnis": "+1-800-555-6789"}
        return self.message(
            "open",
            {"organizationId": self.organization, "conversationId": conversation, "participant": who, "media": media},
        )


def signed(
    url: str,
    headers: dict[str, str],
    keyid: str,
    secret: bytes,
    components: Sequence[str] = SIGNED,
    age: timedelta = timedelta(),
) -> dict[str, str]:
    """The headers of a handshake, signed as Genesys does, so long ago."""
    headers = dict(headers)
    signer = HTTPMessageSigner(
        signature_algorithm=algorithms.HMAC_SHA256,
        key_resolver=MappingKeyResolver(public_keys={}, private_keys={keyid: secret}),
    )
    signer.sign(
        SimpleNamespace(method="GET", url=url, headers=headers),
        key_id=keyid,
        created=datetime.now(UTC) - age,
        nonce="n",
        covered_component_ids=tuple(components),
    )
    return headers


def interleaved(channels: Sequence[bytes]) -> bytes:
    """One sample of each channel in turn."""
    return np.stack([np.frombuffer(one, np.uint8) for one in channels], 1).tobytes()
