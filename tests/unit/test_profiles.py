"""Profiles lie between the defaults and everything that somebody sets, field by field."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from streams.profiles import PROFILES, Profile
from streams.settings import Settings, names

FIELDS = [
    (profile, section, field)
    for profile, sections in PROFILES.items()
    for section, values in sections.items()
    for field in values
]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for variable in names():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    yield


def test_there_are_the_profiles_that_can_be_named() -> None:
    assert tuple(PROFILES) == get_args(Profile)


def test_without_a_profile_the_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    without = Settings()
    assert without.asr == type(without.asr)()
    assert without.profile == "embedded"
    monkeypatch.setenv("CALLTIDE_PROFILE", "embedded")
    assert Settings() == without


@pytest.mark.parametrize(("profile", "section", "field"), FIELDS)
def test_a_profile_sets_its_fields_and_no_other(
    profile: str, section: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = getattr(Settings(), section)
    monkeypatch.setenv("CALLTIDE_PROFILE", profile)
    loaded = getattr(Settings(), section)
    assert getattr(loaded, field) == PROFILES[profile][section][field]
    untouched = set(type(loaded).model_fields) - set(PROFILES[profile][section])
    assert all(getattr(loaded, name) == getattr(defaults, name) for name in untouched)


def test_any_field_of_a_profile_can_be_set_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALLTIDE_PROFILE", "gpu")
    monkeypatch.setenv("CALLTIDE_ASR__MODEL", "medium")
    (tmp_path / ".env").write_text("CALLTIDE_ASR__BEAM_SIZE=2\nCALLTIDE_ASR__MODEL=small\n")
    asr = Settings().asr
    assert (asr.model, asr.beam_size) == ("medium", 2)
    assert asr.device == "cuda", "the rest of the section is the profile's"


def test_a_default_can_be_had_back(monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings().asr.model
    monkeypatch.setenv("CALLTIDE_PROFILE", "gpu")
    monkeypatch.setenv("CALLTIDE_ASR__MODEL", default)
    assert Settings().asr.model == default


def test_a_profile_may_be_named_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLTIDE_PROFILE=gpu\n")
    assert Settings().asr.model == "large-v3"


def test_another_name_is_an_error_that_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTIDE_PROFILE", "cloud")
    with pytest.raises(ValidationError, match="'embedded', 'gpu' or 'quality'"):
        Settings()


def test_no_profile_gives_up_bit_exactness() -> None:
    assert not [field for field in FIELDS if field[2] == "batch"]


def test_loading_leaves_the_table_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTIDE_PROFILE", "gpu")
    monkeypatch.setenv("CALLTIDE_ASR__MODEL", "medium")
    Settings()
    assert PROFILES["gpu"]["asr"]["model"] == "large-v3"
