"""Who may ask what: keys, tokens, sessions, tenants, rates; and what is written down of it."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi.testclient import TestClient

from schemas.errors import CalltideError
from streams.api.access import COOKIE, JWKS_S, Access
from streams.settings import Settings
from tests.api.conftest import HOSTILE, client_of, with_section
from tests.api.test_problems import problem

READ = (
    "/calls", "/calls/{}", "/calls/{}/utterances", "/calls/{}/metrics", "/calls/{}/insights", "/calls/{}/audio",
    "/calls/{}/explanations/0-0", "/search?q=knows", "/statistics?from=2026-11-01T00:00:00Z", "/status", "/audit",
)  # fmt: skip
"""All that is read; {}: a call."""


@pytest.mark.parametrize("path", READ)
def test_nothing_is_told_to_who_has_no_key(api: TestClient, path: str) -> None:
    path = f"/api/v1{path.format('shared')}"
    answer = api.get(path)
    problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    for headers in ({"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}):
        assert api.get(path, headers=headers).status_code == 401
    # The digest that the settings hold is no key.
    digest = hashlib.sha256(b"acme-boss").hexdigest()
    assert api.get(path, headers={"X-API-Key": digest}).status_code == 401


# What is heard and explained needs Kafka: test_audio.py.
@pytest.mark.parametrize("path", [path for path in READ if not path.endswith(("audio", "0-0"))])
@pytest.mark.parametrize("key", ["beta-admin", "hostile-admin"])
def test_no_question_leaves_its_tenant(api: TestClient, path: str, key: str) -> None:
    """Of calls of one id each sees its own, whatever it asks for, and a tenant's name is data."""
    own = {"beta-admin": "beta", "hostile-admin": HOSTILE}[key]
    headers = {"X-API-Key": key}
    for call in ("shared", "acme-01"):
        for tenant in ("", "acme", "*", "' OR 1 --"):
            more = f"{'&' if '?' in path else '?'}tenant={quote(tenant)}" if tenant else ""
            answer = api.get(f"/api/v1{path.format(call)}{more}", headers=headers)
            assert answer.status_code in (200, 404, 422), answer.text
            told = {line for line in ("only acme knows", "charged", "acme-", "agent-") if line in answer.text}
            assert not told - ({"acme-"} if answer.status_code == 404 else set()), answer.text
            if answer.status_code == 200 and path == "/calls/{}/utterances":
                assert [one["text"] for one in answer.json()["items"]] == [f"only {own} knows 0"]


def test_roles(api: TestClient) -> None:
    may = {
        "acme-viewer": {"/calls", "/status", "/search?q=x"},
        "acme-boss": {"/calls", "/status", "/search?q=x", "/calls/none/audio"},
        "acme-ingest": set(),
        "beta-admin": {"/calls", "/status", "/search?q=x", "/calls/none/audio", "/audit"},
    }
    for key, paths in may.items():
        for path in ("/calls", "/status", "/search?q=x", "/calls/none/audio", "/audit"):
            answer = api.get(f"/api/v1{path}", headers={"X-API-Key": key})
            if path in paths:
                assert answer.status_code in (200, 404), (key, path)
            else:
                assert problem(answer, 403, "forbidden")["details"]["role"]


def test_a_key_in_a_url_is_refused_and_not_logged(api: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("api_key", "token", "access_token", "X-API-Key", "Authorization"):
        problem(api.get(f"/api/v1/calls?{name}=acme-boss"), 400, "key_in_url")
    assert api.get("/api/v1/calls?text=sekret", headers={"X-API-Key": "acme-boss"}).status_code == 200
    assert api.get("/api/v1/calls", headers={"Authorization": "Bearer acme-boss"}).status_code == 200
    api.get("/api/v1/calls", headers={"X-API-Key": "wrong-but-secret"})
    ours = [record for record in caplog.records if record.name.startswith("streams")]
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert "GET /api/v1/calls" in logged and "boss" in logged
    for secret in ("acme-boss", "wrong-but-secret", "sekret"):
        assert secret not in logged


def test_without_keys_only_this_machine_may_ask(api_settings: Settings) -> None:
    settings = with_section(api_settings, "api", keys={})
    with client_of(settings) as api:
        assert api.get("/api/v1/calls").status_code == 200
        assert api.get("/api/v1/status").json()["you"] == {"tenant": None, "role": "admin", "name": "local"}
        own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
        assert api.get("/api/v1/calls", headers=own).status_code == 200
        for elsewhere in (
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "evil.example"},  # whose address is 127.0.0.1
            {"X-Forwarded-For": "203.0.113.7"},
            {"Forwarded": "for=203.0.113.7"},
        ):
            problem(api.get("/api/v1/calls", headers=elsewhere), 401, "unauthorized")
    from_afar = TestClient(api.app, base_url="http://127.0.0.1:8000", client=("203.0.113.7", 5))
    problem(from_afar.get("/api/v1/calls"), 401, "unauthorized")
    with client_of(with_section(settings, "web", host="0.0.0.0")) as everywhere:
        problem(everywhere.get("/api/v1/calls"), 401, "unauthorized")


def test_so_many_requests_a_minute_and_no_more(api_settings: Settings) -> None:
    with client_of(with_section(api_settings, "api", requests_per_minute=30), "acme-boss") as api:
        answers = [api.get("/api/v1/calls/none") for _ in range(40)]
        assert [answer.status_code for answer in answers[:30]] == [404] * 30
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and int(refused[0].headers["Retry-After"]) >= 1
        problem(refused[0], 429, "too_many_requests")
        # Another key is another matter; and who guesses is slowed down by address.
        assert api.get("/api/v1/calls/none", headers={"X-API-Key": "beta-admin"}).status_code == 404
        guesses = [api.get("/api/v1/calls", headers={"X-API-Key": f"guess-{at}"}).status_code for at in range(40)]
        assert guesses[0] == 401 and guesses[-1] == 429


class Issuer:
    """Who makes tokens, and publishes the keys for them."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65_537, 2_048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.published: dict[str, Any] = {"rsa": self.rsa, "ec": self.ec}
        self.asked = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                keys = []
                for kid, key in issuer.published.items():
                    algorithm: Any = (
                        jwt.algorithms.RSAAlgorithm if kid.startswith("rsa") else jwt.algorithms.ECAlgorithm
                    )
                    keys.append(json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid})
                content = json.dumps({"keys": keys}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"
        threading.Thread(target=self.server.serve_forever, name="issuer", daemon=True).start()

    def token(self, kid: str = "rsa", **claims: Any) -> str:
        """A token that is good but for what `claims` say; None leaves one out."""
        content = {
            "iss": "https://id.example", "aud": "calltide", "sub": "ann", "exp": time.time() + 60, "tenant": "acme",
            "role": "supervisor",
        } | claims  # fmt: skip
        content = {name: value for name, value in content.items() if value is not None}
        key, algorithm = (self.rsa, "RS256") if kid.startswith("rsa") else (self.ec, "ES256")
        return jwt.encode(content, key, algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()


@pytest.fixture
def by_token(api_settings: Settings, issuer: Issuer) -> Iterator[TestClient]:
    """The application that takes tokens, and no keys."""
    settings = with_section(
        api_settings, "api", keys={}, jwks_url=issuer.url, jwt_issuer="https://id.example", jwt_audience="calltide"
    )
    with client_of(settings) as api:
        yield api


def ask(api: TestClient, token: str, path: str = "/status") -> Any:
    return api.get(f"/api/v1{path}", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    ("kid", "claims", "you"),
    [
        ("rsa", {}, {"tenant": "acme", "role": "supervisor", "name": "ann"}),
        ("ec", {"role": ["offline", "viewer"]}, {"tenant": "acme", "role": "viewer", "name": "ann"}),
        ("rsa", {"tenant": HOSTILE, "role": ["viewer", "admin"]}, {"tenant": HOSTILE, "role": "admin", "name": "ann"}),
        ("rsa", {"tenant": "*", "aud": ["calltide", "x"]}, {"tenant": "*", "role": "supervisor", "name": "ann"}),
        ("rsa", {"exp": time.time() - 5}, {"tenant": "acme", "role": "supervisor", "name": "ann"}),  # clocks differ
    ],
)
def test_a_token_says_who_asks(
    by_token: TestClient, issuer: Issuer, kid: str, claims: dict[str, Any], you: dict[str, str]
) -> None:
    if "exp" in claims:
        claims["exp"] = time.time() - 5
    status = ask(by_token, issuer.token(kid, **claims)).json()
    assert status["you"] == you
    if you["tenant"] == "*":  # a name as any other
        assert status["versions"] == []


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": 1_700_000_000}, "token_expired"),
        ({"exp": None}, "bad_token"),
        ({"sub": None}, "bad_token"),
        ({"nbf": 4_000_000_000}, "bad_token"),
        ({"iss": "https://other.example"}, "bad_token"),
        ({"aud": "another service"}, "bad_token"),
        ({"aud": None}, "bad_token"),
        ({"tenant": None}, "bad_token"),
        ({"tenant": ""}, "bad_token"),
        ({"tenant": ["acme", "beta"]}, "bad_token"),
        ({"role": "root"}, "bad_token"),
        ({"role": [["admin"]]}, "bad_token"),
        ({"role": None}, "bad_token"),
    ],
)
def test_a_token_that_is_not_good(by_token: TestClient, issuer: Issuer, claims: dict[str, Any], error: str) -> None:
    problem(ask(by_token, issuer.token(**claims)), 401, error)


def test_a_token_must_be_signed_by_the_issuer(by_token: TestClient, issuer: Issuer) -> None:
    good = issuer.token()
    header, content, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    public = issuer.rsa.public_key()
    other = rsa.generate_private_key(65_537, 2_048)
    unsigned = jwt.encode(claims, "", "none", headers={"kid": "rsa"})
    forged = [
        unsigned,
        f"{header}.{content}.",
        f"{header}.{content}.{signature[:-4]}AAAA",
        jwt.encode(claims, other, "RS256", headers={"kid": "rsa"}),
        # With the public key as the secret, which everybody has.
        jwt.encode(
            claims, hashlib.sha256(str(public.public_numbers().n).encode()).digest(), "HS256", headers={"kid": "rsa"}
        ),
        jwt.encode(claims, other, "RS256", headers={"kid": "nobody's"}),
        jwt.encode(claims, other, "RS256", headers={"jku": "https://evil.example", "kid": "rsa"}),
        "a.b.c",
        "..",
    ]
    for token in forged:
        problem(ask(by_token, token), 401, "bad_token")
    assert ask(by_token, good).status_code == 200


def test_new_keys_are_asked_for_and_not_by_every_stranger(
    by_token: TestClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(by_token, issuer.token()).status_code == 200
    before = issuer.asked
    for number in range(5):
        assert ask(by_token, issuer.token(kid=f"rsa-{number}")).status_code == 401
    assert issuer.asked == before
    monkeypatch.setattr("streams.api.access.JWKS_S", (JWKS_S[0], 0.0))
    issuer.published["rsa-new"] = issuer.rsa
    assert ask(by_token, issuer.token(kid="rsa-new")).status_code == 200
    assert issuer.asked == before + 1


def test_an_issuer_that_is_away_is_503(api_settings: Settings, issuer: Issuer) -> None:
    settings = with_section(
        api_settings, "api", keys={}, jwks_url="http://127.0.0.1:9/", jwt_issuer="i", jwt_audience="a"
    )
    with client_of(settings) as api:
        problem(ask(api, issuer.token()), 503, "unavailable")
        problem(api.get("/api/v1/calls"), 401, "unauthorized")  # not open because tokens cannot be checked
    with pytest.raises(CalltideError, match="JWT_AUDIENCE"):
        Access(with_section(api_settings, "api", jwks_url=issuer.url))


def test_a_session_reads_and_nothing_else(api_settings: Settings) -> None:
    with client_of(api_settings) as api:
        problem(api.post("/api/v1/session"), 401, "unauthorized")
        begun = api.post("/api/v1/session", headers={"X-API-Key": "acme-boss"})
        assert begun.json()["tenant"] == "acme" and begun.json()["seconds"] > 28_000
        cookie = begun.headers["Set-Cookie"]
        for part in ("HttpOnly", "SameSite=strict", "Path=/;"):
            assert part in cookie
        assert "acme-boss" not in cookie
        assert api.get("/api/v1/status").json()["you"]["name"] == "boss"
        problem(api.post("/api/v1/session"), 401, "unauthorized")  # a cookie writes nothing
        held = api.cookies[COOKIE]
        assert api.delete("/api/v1/session").status_code == 204
        problem(api.get("/api/v1/status"), 401, "unauthorized")
        content, _, signature = held.partition(".")
        for forged in (f"{content}x.{signature}", f"{content}.{signature[:-1]}", content, ".", "é"):
            problem(
                api.get("/api/v1/status", headers=[(b"Cookie", f"{COOKIE}={forged}".encode("latin-1"))]),
                401,
                "unauthorized",
            )
    with client_of(api_settings) as another:  # after a restart
        assert another.get("/api/v1/status", headers={"Cookie": f"{COOKIE}={held}"}).status_code == 200
    fewer = {name: key for name, key in api_settings.api.keys.items() if name != "boss"}
    with client_of(with_section(api_settings, "api", keys=fewer)) as another:  # whose key was taken away
        problem(another.get("/api/v1/status", headers={"Cookie": f"{COOKIE}={held}"}), 401, "unauthorized")


def test_a_session_of_a_token_ends_with_it(
    by_token: TestClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = by_token.post("/api/v1/session", headers={"Authorization": f"Bearer {issuer.token()}"})
    assert 50 < begun.json()["seconds"] <= 60
    assert by_token.get("/api/v1/status").status_code == 200
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    by_token.cookies.set(COOKIE, begun.cookies[COOKIE], path="/")  # a client that keeps it all the same
    problem(by_token.get("/api/v1/status"), 401, "unauthorized")
