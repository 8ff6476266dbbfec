"""The settings: where they come from, what is said of a wrong one, and that no name in the documents is made up."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from schemas.errors import CalltideError
from streams import settings
from streams.settings import Settings, load, names, table

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of this machine, no `.env`, and nothing remembered."""
    for variable in names():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    load.cache_clear()
    yield
    load.cache_clear()


def test_without_anything_set_the_defaults_hold() -> None:
    loaded = load()
    assert loaded.directory == Path("~/.calltide").expanduser()
    assert (loaded.bootstrap_servers, loaded.clickhouse_url) == ("127.0.0.1:9092", "http://127.0.0.1:8123")
    assert {topic.partitions for topic in loaded.topics} == {loaded.kafka.partitions}


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load()
    monkeypatch.setenv("CALLTIDE_ASR__MODEL", "other")
    assert load() is first


def test_a_variable_sets_one_setting_of_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTIDE_KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("CALLTIDE_KAFKA__PARTITIONS", "3")
    monkeypatch.setenv("CALLTIDE_KAFKA__RETENTION_HOURS", "2")
    monkeypatch.setenv("calltide_gateway__slow_clients", "conflate")
    loaded = load()
    assert loaded.bootstrap_servers == "a:1,b:2"
    assert loaded.gateway.slow_clients == "conflate"
    assert loaded.gateway.queue == Settings().gateway.queue, "the rest of the section keeps its defaults"
    frames = loaded.topics[0]
    assert (frames.partitions, frames.retention_ms) == (3, 7_200_000)


def test_tables_are_written_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTIDE_KAFKA__CLIENT", '{"security.protocol": "SASL_SSL", "sasl.username": "a \\"b\\""}')
    assert load().kafka.client == {"security.protocol": "SASL_SSL", "sasl.username": 'a "b"'}


def test_dotenv_lies_between_the_defaults_and_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLTIDE_WEB__PORT=1\nCALLTIDE_GATEWAY__PORT=2\nOTHER=x\n")
    monkeypatch.setenv("CALLTIDE_GATEWAY__PORT", "3")
    assert (load().web.port, load().gateway.port) == (1, 3)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("CALLTIDE_ASR__MODLE", r"^unknown setting CALLTIDE_ASR__MODLE; did you mean CALLTIDE_ASR__MODEL\?$"),
        ("CALLTIDE_ASR_MODEL", r"did you mean CALLTIDE_ASR__MODEL\?$"),
        ("calltide_homes", r"^unknown setting calltide_homes; did you mean CALLTIDE_HOME\?$"),
        ("CALLTIDE_Q9Q9Q9Q9Q9Q9", r"^unknown setting CALLTIDE_Q9Q9Q9Q9Q9Q9; `calltide settings` lists all names$"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_one(
    variable: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(CalltideError, match=said):
        load()


@pytest.mark.parametrize("variable", ["CALLTIDE_ASR__MODLE", "CALLTIDE_HOMES", "CALLTIDE_NOTHING__OF_THE_KIND"])
def test_an_unknown_name_in_dotenv_is_an_error_too(variable: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{variable}=base\n")
    with pytest.raises(CalltideError, match=f"unknown setting {variable}.*"):
        load()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CALLTIDE_GATEWAY__PORT", "70000", r"^wrong setting CALLTIDE_GATEWAY__PORT: .*65535.*`calltide settings`"),
        ("CALLTIDE_GATEWAY__PORT", "eight", r"CALLTIDE_GATEWAY__PORT: .*integer"),
        ("CALLTIDE_GATEWAY__SLOW_CLIENTS", "drop", r"CALLTIDE_GATEWAY__SLOW_CLIENTS: .*'conflate' or 'close'"),
        ("CALLTIDE_CLICKHOUSE__DATABASE", "a; DROP", r"CALLTIDE_CLICKHOUSE__DATABASE: "),
        ("CALLTIDE_LOG_LEVEL", "loud", r"CALLTIDE_LOG_LEVEL: "),
        ("CALLTIDE_PIPELINE_VERSION", "", r"CALLTIDE_PIPELINE_VERSION: .*at least 1"),
        ("CALLTIDE_KAFKA__CLIENT", "sasl=x", r"^unreadable setting: CALLTIDE_KAFKA__CLIENT; lists .* as JSON"),
        ("CALLTIDE_EMOTION__ROLES", "agent", r"^unreadable setting: CALLTIDE_EMOTION__ROLES; lists .* as JSON"),
        ("CALLTIDE_EMOTION__MEANT_AS", '{"a": "b"}', r"^wrong setting CALLTIDE_EMOTION__MEANT_AS__A: .*'left_out'; "),
        ("CALLTIDE_KAFKA__CLIENT", "[1]", r"CALLTIDE_KAFKA__CLIENT: .*dictionary"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CalltideError, match=said) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTIDE_GATEWAY__PORT", "-1")
    monkeypatch.setenv("CALLTIDE_SINK__BATCH_ROWS", "0")
    with pytest.raises(CalltideError, match=r"CALLTIDE_SINK__BATCH_ROWS.*CALLTIDE_GATEWAY__PORT"):
        load()


def test_settings_cannot_be_changed() -> None:
    loaded = load()
    with pytest.raises(ValidationError, match="frozen"):
        loaded.log_level = "debug"  # type: ignore[misc]
    for name in Settings.model_fields:
        section = getattr(loaded, name)
        if isinstance(section, BaseModel):
            with pytest.raises(ValidationError, match="frozen"):
                setattr(section, next(iter(type(section).model_fields)), None)


def leaves(model: type[BaseModel], prefix: str = "CALLTIDE_") -> Iterator[tuple[str, object]]:
    """Every setting's variable and default, found without the function that is tested."""
    for name, value in model():
        if isinstance(value, BaseModel):
            yield from leaves(type(value), f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), value


def test_the_list_of_names_is_whole_and_says_what_each_is() -> None:
    listed = names()
    found = dict(leaves(Settings))
    assert listed.keys() == found.keys()
    assert len(found) > 30
    for variable, (kind, default, description) in listed.items():
        assert kind and description, f"{variable} has no description"
        # As it would be written: a list or a table as JSON.
        expected = found[variable]
        shown = (
            json.dumps(expected) if isinstance(expected, tuple | dict) else "" if expected is None else str(expected)
        )
        assert default == shown, variable


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(names())
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}, "a cell must not be cut in two"


def test_the_readme_has_the_table() -> None:
    (shown,) = re.findall(
        r"<!-- settings: made by `calltide settings --markdown` -->\n(.*)<!-- /settings -->",
        (ROOT / "README.md").read_text(),
        re.S,
    )
    assert shown == table()


def sections() -> set[str]:
    """`CALLTIDE_ASR__` and its like, which a document may name as a group."""
    return {
        f"CALLTIDE_{name.upper()}__"
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type)
        and get_origin(field.annotation) is None
        and not get_args(field.annotation)
        and issubclass(field.annotation, BaseModel)
    }


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "NOTICE", "Makefile", "docker-compose.yml"]
FOLDERS = ["docs", "deploy", "examples", "streams", "processors", "schemas", "dashboards", "benchmarks", "training"]
TEXTS = {".md", ".py", ".yml", ".yaml", ".js", ".html", ".sql", ".toml", ".sh", ""}


def texts() -> list[Path]:
    found = [ROOT / name for name in DOCUMENTS]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def test_every_name_in_documents_and_messages_is_a_setting() -> None:
    known = names()
    wrong, seen = [], set()
    for path in texts():
        for name in re.findall(r"CALLTIDE_[A-Z][A-Z0-9_]*", path.read_text(errors="replace")):
            seen.add(name)
            if name not in known and name not in sections():
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert wrong == []
    assert {"CALLTIDE_HOME", "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS"} <= seen
    assert settings.PREFIX == "CALLTIDE_"
