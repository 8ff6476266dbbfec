"""Stub: configuration only; the stage follows."""

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="compute emotion from voice at all")
    roles: tuple[str, ...] = Field(("customer",), description="parties whose emotion is computed; all: every party")
