"""Signatures of handshakes: the examples of those who sign, another implementation's, and what must not pass."""

from datetime import timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import CalltideError
from streams.ingestion.signatures import SIGNED, Handshake, client_secret, signed_by_genesys, signed_by_twilio
from tests.telephony import signed

KEY: Final = "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh"
SECRETS: Final = {KEY: client_secret("TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=")}
COMPONENTS: Final = " ".join(f'"{component}"' for component in SIGNED)
DOCUMENTED: Final = {
    "Host": "audiohook.example.com",
    "Audiohook-Organization-Id": "d7934305-0972-4844-938e-9060eef73d05",
    "Audiohook-Session-Id": "30b0e395-84d3-4570-ac13-9a62d8f514c0",
    "Audiohook-Correlation-Id": "e160e428-53e2-487c-977d-96989bf5c99d",
    "X-API-KEY": KEY,
    "Signature": "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:",
    "Signature-Input": f'sig1=({COMPONENTS});keyid="{KEY}";nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256"'
    ";created=1641013200;expires=3282026430",
}
"""The example of AudioHook's documentation; its signature was made there."""
TARGET: Final = "/api/v1/voicebiometrics/ws"


def fresh(components: tuple[str, ...] = SIGNED, keyid: str = KEY, age: timedelta = timedelta()) -> Handshake:
    """A handshake signed just now."""
    headers = {name: value for name, value in DOCUMENTED.items() if not name.startswith("Signature")}
    url = f"https://audiohook.example.com{TARGET}"
    return Handshake(TARGET, signed(url, headers, keyid, SECRETS[KEY], components, age))


def test_the_documented_example() -> None:
    handshake = Handshake(TARGET, DOCUMENTED)
    assert signed_by_genesys(handshake, SECRETS, oldest=None)
    assert not signed_by_genesys(handshake, SECRETS), "it is years old"


@pytest.mark.parametrize("name", ["Host", "Audiohook-Session-Id", "X-API-KEY", "Signature", "Signature-Input"])
def test_nothing_signed_may_change(name: str) -> None:
    for value in ("x" + DOCUMENTED[name][1:], DOCUMENTED[name][:-1], "", "é"):
        assert not signed_by_genesys(Handshake(TARGET, DOCUMENTED | {name: value}), SECRETS, oldest=None)
    without = {key: value for key, value in DOCUMENTED.items() if key != name}
    assert not signed_by_genesys(Handshake(TARGET, without), SECRETS, oldest=None)


def test_the_path_is_signed() -> None:
    assert not signed_by_genesys(Handshake("/other", DOCUMENTED), SECRETS, oldest=None)
    assert not signed_by_genesys(Handshake(TARGET + "?a=1", DOCUMENTED), SECRETS, oldest=None)


def test_another_secret_or_none_does_not_pass() -> None:
    handshake = Handshake(TARGET, DOCUMENTED)
    assert not signed_by_genesys(handshake, {KEY: b"another"}, oldest=None)
    assert not signed_by_genesys(handshake, {}, oldest=None)


def test_a_signature_must_be_fresh_and_cover_all() -> None:
    assert signed_by_genesys(fresh(), SECRETS)
    assert signed_by_genesys(fresh(age=timedelta(seconds=8)), SECRETS)
    assert not signed_by_genesys(fresh(age=timedelta(seconds=60)), SECRETS)
    assert not signed_by_genesys(fresh(age=-timedelta(seconds=60)), SECRETS)
    for component in SIGNED:
        less = tuple(one for one in SIGNED if one != component)
        assert not signed_by_genesys(fresh(less), SECRETS)


def test_the_key_that_signs_is_the_key_that_calls() -> None:
    assert not signed_by_genesys(fresh(keyid="other"), SECRETS | {"other": SECRETS[KEY]})


@given(st.text(max_size=200), st.text(max_size=200))
def test_whatever_is_sent_is_an_answer(made_input: str, made: str) -> None:
    headers = DOCUMENTED | {"Signature-Input": made_input, "Signature": made}
    assert not signed_by_genesys(Handshake(TARGET, headers), SECRETS)
    assert not signed_by_twilio(Handshake(TARGET, {"x-twilio-signature": made, "host": made_input}), "12345")


@pytest.mark.parametrize("secret", ["", "not base64!", "é", "AAA"])
def test_a_secret_is_base64(secret: str) -> None:
    with pytest.raises(CalltideError, match="base64"):
        client_secret(secret)


@pytest.mark.parametrize(
    ("target", "signature"),
    [("/twilio", "KYJx6UwE4CTkBArlqaZlEvivWvM="), ("/twilio?a=1", "b+1eeGYdmH353D3dBkDNiP9cClk=")],
)
def test_twilio_signs_the_address_of_the_stream(target: str, signature: str) -> None:
    """The signatures were made by Twilio's own library (twilio 9, RequestValidator) with the token 12345."""
    headers = {"host": "calls.example.com", "X-Twilio-Signature": signature}
    assert signed_by_twilio(Handshake(target, headers), "12345")
    assert not signed_by_twilio(Handshake(target, headers), "12346")
    assert not signed_by_twilio(Handshake("/other", headers), "12345")
    assert not signed_by_twilio(Handshake(target, {"host": "calls.example.com"}), "12345")
