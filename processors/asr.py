"""Stub: configuration only; the stage follows."""

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("tiny.en", description="packaged tiny.en, a faster-whisper size or hub id, or a directory")
    beam_size: int = Field(1, ge=1, le=10, description="decoding beam")
    language: str | None = Field(None, description="language code; none: detect (multilingual models)")
    threads: int = Field(1, ge=1, description="CPU threads of the model")
