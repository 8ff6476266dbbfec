"""Stub: configuration only; the stage follows."""

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float | None = Field(None, ge=0, le=1, description="cosine similarity from which two segments are one speaker; none: 0.55 wide band, 0.62 telephone")
    maximum_speakers: int = Field(2, ge=1, le=10, description="speakers looked for on one mono channel")
