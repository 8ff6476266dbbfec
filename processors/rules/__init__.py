"""Rules: what people want to be told of calls, written in YAML and held against every call while it goes on.

`language` says what a rule may say, `files` reads it, `words` finds texts, `stage` is the stage. docs/rules.md is the
reference for people. A changer must know: settings read `Config` here, so nothing heavy is imported before `build`.
"""

from pydantic import BaseModel, ConfigDict, Field

from processors.base import Processor


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        "packaged",
        min_length=1,
        description="packaged: the rules that come with Calltide; a YAML file or a directory of such; none: no rules",
    )


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its rules read. Raises CalltideError when they are wrong (`language.RuleError`)."""
    from processors.rules.files import RuleFiles
    from processors.rules.stage import Rules
    from processors.rules.words import Embedder

    def embedder() -> Embedder:
        from processors.models.embedding import Embedder as MiniLm

        return MiniLm()

    files = RuleFiles(config.path)
    return Rules(files.read, files.changed, pipeline_version, embedder)
