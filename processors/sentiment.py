"""Stub: configuration only; the stage follows."""

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    voice_weight: float = Field(0.3, ge=0, le=1, description="share of the voice in the fused score")
