"""Stub: configuration only; the stage follows."""

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(0.5, gt=0, lt=1, description="speech probability at which speech starts")
    release: float = Field(0.35, gt=0, lt=1, description="probability below which it pauses")
    hangover_ms: int = Field(384, ge=64, le=5000, description="pause that ends a segment")
    minimum_speech_ms: int = Field(96, ge=32, description="shorter bursts are not speech")
    pre_roll_ms: int = Field(160, ge=0, le=320, description="audio kept before speech starts")
    maximum_ms: int = Field(15000, ge=1000, le=28000, description="longest segment")
    idle_timeout_ms: int = Field(30000, ge=1000, description="a call without frames for so long is ended")
