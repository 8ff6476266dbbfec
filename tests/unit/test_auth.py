"""Who may bring calls: no protocol is open to other machines unless that was said."""

import hmac

import pytest

from schemas.errors import CalltideError
from streams.ingestion.auth import Keys
from streams.ingestion.routes import ROUTES, check_open
from streams.settings import Serve

SOURCES = [route.name for route in ROUTES.values()]
KEYS = {name: {"acme": "a-key"} for name in SOURCES}


def checked(**fields: object) -> None:
    check_open(Serve.model_validate(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "127.0.0.2"},
        {"host": "0.0.0.0", "keys": KEYS},
        {"host": "0.0.0.0", "open": SOURCES},
        {"host": "0.0.0.0", "keys": {name: {} for name in SOURCES}},
        {"host": "0.0.0.0", "keys": KEYS | {"twilio": {}}, "open": ["twilio"]},
        {
            "host": "0.0.0.0",
            "keys": {name: {"acme": "a-key"} for name in SOURCES if name != "twilio"},
            "twilio_auth_token": "a-token",
        },
    ],
)
def test_what_may_start(fields: dict[str, object]) -> None:
    checked(**fields)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "calls.example.com"])
def test_no_protocol_is_open_to_other_machines_by_accident(host: str) -> None:
    with pytest.raises(CalltideError) as refused:
        checked(host=host, keys={"twilio": {"acme": "a-key"}, "listen": {}}, open=["microphone"])
    (line,) = str(refused.value).splitlines()
    assert line.startswith("audiohook would take calls from anyone who reaches")
    assert "CALLTIDE_SERVE__KEYS" in line and "CALLTIDE_SERVE__OPEN='[\"audiohook\"]'" in line


@pytest.mark.parametrize("setting", ["keys", "open"])
def test_a_name_that_is_no_protocol_is_refused(setting: str) -> None:
    value = {"audiosocket": {"acme": "a-key"}} if setting == "keys" else ["audiosocket"]
    with pytest.raises(CalltideError, match=f"'audiosocket' in CALLTIDE_SERVE__{setting.upper()}"):
        checked(**{setting: value})


@pytest.mark.parametrize("presented", ["first", "second", "third", "another"])
def test_how_long_a_key_takes_tells_nothing(presented: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    keys = Keys({"twilio": {name: name for name in ("first", "second", "third")}})
    assert keys.tenant("twilio", [presented]) == (presented if presented != "another" else None)
    assert compared == [(presented.encode(), key) for key in (b"first", b"second", b"third")]


def test_nobody_has_a_key_of_a_protocol_with_no_tenants() -> None:
    keys = Keys({"twilio": {}})
    assert keys.guards("twilio")
    assert keys.tenant("twilio", [""]) is None
    assert keys.tenant("twilio", ["a-key"]) is None
    assert keys.tenant("listen", []) == ""
