"""Settings: from defaults, .env and the environment; what is unknown or wrong is said in one line."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.errors import CalltideError
from schemas.topics import STAGES
from streams import settings as module
from streams.settings import PREFIX, Settings, load, names

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variable of the caller, no .env of the checkout, nothing remembered."""
    for variable in names():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    load.cache_clear()
    yield
    load.cache_clear()


def test_the_defaults_serve_one_machine() -> None:
    settings = load()
    assert settings.bootstrap_servers == "127.0.0.1:9092"
    assert settings.clickhouse_url == "http://127.0.0.1:8123"
    assert settings.directory == Path.home() / ".calltide"
    assert settings.emotion.roles == ("customer",)


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("CALLTIDE_ASR__MODEL=base\nCALLTIDE_ASR__BEAM_SIZE=3\nOTHER=1\n")
    monkeypatch.setenv("CALLTIDE_ASR__MODEL", "small.en")
    assert (load().asr.model, load().asr.beam_size) == ("small.en", 3)


def test_lists_and_tables_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTIDE_EMOTION__ROLES", '["customer", "unknown"]')
    monkeypatch.setenv("CALLTIDE_KAFKA__CLIENT", '{"security.protocol": "SASL_SSL"}')
    assert load().emotion.roles == ("customer", "unknown")
    assert load().kafka.client == {"security.protocol": "SASL_SSL"}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CALLTIDE_ASR__MODLE", "base", "unknown setting CALLTIDE_ASR__MODLE; did you mean CALLTIDE_ASR__MODEL?"),
        (
            "CALLTIDE_COFFEE_MACHINE_TEMPERATURE",
            "1",
            "unknown setting CALLTIDE_COFFEE_MACHINE_TEMPERATURE; `calltide settings` lists all names",
        ),
        ("CALLTIDE_ASR__BEAM_SIZE", "wide", "CALLTIDE_ASR__BEAM_SIZE"),
        ("CALLTIDE_ASR__BEAM_SIZE", "0", "CALLTIDE_ASR__BEAM_SIZE"),
        ("CALLTIDE_GATEWAY__SLOW_CLIENTS", "ignore", "CALLTIDE_GATEWAY__SLOW_CLIENTS"),
        ("CALLTIDE_CLICKHOUSE__DATABASE", "a; DROP", "CALLTIDE_CLICKHOUSE__DATABASE"),
        ("CALLTIDE_EMOTION__ROLES", "customer", "lists and tables are written as JSON"),
    ],
)
def test_what_is_unknown_or_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CalltideError, match=re.escape(words)) as raised:
        load()
    assert "\n" not in str(raised.value)


def test_an_unknown_name_in_the_file_is_said_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLTIDE_ASR__MODLE=base\n")
    with pytest.raises(CalltideError, match="did you mean CALLTIDE_ASR__MODEL"):
        load()


def test_settings_do_not_change_while_a_process_runs() -> None:
    with pytest.raises(ValidationError):
        load().asr.model = "base"  # type: ignore[misc]


def test_every_stage_has_its_section_and_every_setting_is_described() -> None:
    assert {row.name for row in STAGES} <= set(Settings.model_fields)
    for variable, (_, _, description) in names().items():
        assert variable.startswith(PREFIX)
        assert description, f"{variable} has no description"


def test_the_topics_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTIDE_KAFKA__PARTITIONS", "3")
    monkeypatch.setenv("CALLTIDE_KAFKA__RETENTION_HOURS", "1")
    table = {topic.name: topic for topic in load().topics}
    assert {topic.partitions for topic in table.values()} == {3}
    assert table["audio.frames"].retention_ms == 3_600_000


def test_the_table_in_the_readme_is_that_of_the_class() -> None:
    readme = (ROOT / "README.md").read_text()
    between = readme.split("<!-- settings: made by `calltide settings --markdown` -->\n")[1].split(
        "<!-- /settings -->"
    )[0]
    assert between.strip() == module.table().strip(), "put `calltide settings --markdown` between the marks"
