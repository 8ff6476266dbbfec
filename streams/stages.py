"""A row of the table of stages and its processor, found by name: `processors.<name>.build`."""

import importlib
from collections.abc import Callable
from typing import Final, cast

from processors.base import Processor
from schemas.topics import Stage
from streams.settings import Settings

SECTIONS: Final = {"metrics": "call_metrics"}
"""Stage → section of the settings, where it is not the stage's name."""


def build(settings: Settings, row: Stage) -> Processor:
    """The stage's processor with its models loaded. Raises CalltideError when a model cannot be had."""
    module = importlib.import_module(f"processors.{row.name}")
    make = cast("Callable[[object, str], Processor]", module.build)
    section = getattr(settings, SECTIONS.get(row.name, row.name))
    if section is settings.call_metrics and not section.outlook:
        section = section.model_copy(update={"outlook": str(settings.outcome_model)})
    return make(section, settings.pipeline_version)
