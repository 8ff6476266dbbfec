"""The outline of a call's sound: how loud it is when, for a picture of it, and nothing that could be listened to.

A changer must know: no line of the audit log is written for it, since nobody hears anything; so it must stay too coarse
to be made into sound (POINTS at most, whatever is asked for).
"""

from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from streams.api import audio, queries
from streams.api.access import Caller, caller
from streams.api.calls import Kept
from streams.api.parameters import LONGEST, CallId
from streams.api.problems import documented

router = APIRouter(tags=["calls"])

Supervisor = Annotated[Caller, Depends(caller("supervisor"))]
POINTS: Final = 4_000
"""Judgement: more than a screen is wide."""


class WaveformAsked(BaseModel):
    """What `GET /calls/{call_id}/waveform` takes."""

    model_config = ConfigDict(extra="forbid")

    points: int = Field(1_000, ge=1, le=POINTS, description="for each channel")
    tenant: str | None = Field(None, max_length=LONGEST, description="of this tenant")


class Waveform(BaseModel):
    """How loud a call is."""

    duration_ms: int
    channels: list[list[float]] = Field(
        description="for each channel the loudest sample of each stretch, 0 to 1", examples=[[[0.0, 0.41, 0.2]]]
    )


@router.get("/calls/{call_id}/waveform", response_model=Waveform, responses=documented(404, 409, 410))
def get_waveform(request: Request, who: Supervisor, call_id: CallId, asked: Annotated[WaveformAsked, Query()]) -> Any:
    """The outline of what was spoken; what was taken out of the words is silent here, too."""
    state = request.app.state
    call = queries.find(state.store, who, call_id, tenant=asked.tenant)
    sounds: audio.Sounds = state.sounds
    kept: Kept = state.kept
    return kept.answer(call, ("waveform", asked.points), lambda: outline(sounds.wav(state.store, call), asked.points))


def outline(wav: audio.Wav, points: int) -> dict[str, Any]:
    """Peaks of a recording, of so many stretches of equal length (fewer where there are fewer samples)."""
    frames = (wav.size - audio.HEADER) // (wav.channels * audio.WIDTH)
    points = max(1, min(points, frames))
    edges = np.linspace(0, frames, points + 1).astype(np.int64)
    peaks = np.zeros((points, wav.channels))
    first, rest = 0, b""
    for piece in wav.read(audio.HEADER, wav.size):
        piece = rest + piece
        whole = len(piece) - len(piece) % (wav.channels * audio.WIDTH)
        samples = np.abs(np.frombuffer(piece[:whole], "<i2").astype(np.float32)).reshape(-1, wav.channels)
        rest = piece[whole:]
        if not len(samples):
            continue
        # The stretches that this piece has a part of, each from where it begins here.
        low, high = np.searchsorted(edges, [first, first + len(samples) - 1], "right") - 1
        begins = np.maximum(edges[low : high + 1] - first, 0)
        peaks[low : high + 1] = np.maximum(peaks[low : high + 1], np.maximum.reduceat(samples, begins, axis=0))
        first += len(samples)
    return {
        "duration_ms": round(frames * 1_000 / wav.rate),
        "channels": [[round(float(peak) / 32_768, 4) for peak in channel] for channel in peaks.T],
    }
