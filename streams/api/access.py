"""Who asks: API keys, JWTs and sessions made of them, each with a tenant, a role and a name; how often each may ask.

A changer must know: a caller without a tenant (None) sees all of them. Only a key of the settings can be so, and who
asks on loopback where there are neither keys nor JWTs; a token always names its tenant. Keys lie in the settings as
SHA-256: they are random and long (`calltide key` makes them), so nothing slower is needed, and all of them are compared
in constant time, every time. A session is a cookie, which a browser also sends where a page can set no header (what
`<audio>` plays, what a link downloads, a websocket), so it is good for reading only. The gateway asks here, too.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import jwt
import requests
from fastapi import APIRouter, Request, Response, Security
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from schemas.errors import CalltideError
from streams.api.problems import Fault, unavailable
from streams.settings import Api, Settings

log = logging.getLogger(__name__)

Role = Literal["viewer", "supervisor", "admin", "ingest"]
ALLOWED: Final[dict[Role, frozenset[Role]]] = {
    "viewer": frozenset({"viewer", "supervisor", "admin"}),
    "supervisor": frozenset({"supervisor", "admin"}),
    "admin": frozenset({"admin"}),
    "ingest": frozenset({"ingest", "supervisor", "admin"}),
}
"""What an endpoint asks for at least → who may."""
SECRET_NAMES: Final = frozenset(
    {"key", "api_key", "apikey", "api-key", "x-api-key", "token", "access_token", "jwt", "bearer", "authorization"}
)
"""Parameters of a URL that would be a secret. URLs are logged by every proxy on the way."""
FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers by which a reverse proxy shows that who asks is not on this machine."""
BUCKETS: Final = 10_000
"""Callers of whom it is known how often they ask."""
ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Of tokens: those with a public key. With the others (HS256) who can check a token could make one."""
LEEWAY_S: Final = 30
"""Judgement: as far clocks may be apart."""
JWKS_S: Final = (600.0, 30.0)
"""How long the keys of a JWKS are taken for good, and how soon they may be asked for again for a key that is not among
them (judgement: issuers publish a new key long before they use it)."""
JWKS_ANSWER_S: Final = 5
SESSION_S: Final = 8 * 3_600
"""Longest session. Judgement: a working day."""
COOKIE: Final = "calltide_session"
SECRET: Final = "sessions.key"
"""File in CALLTIDE_HOME: what sessions are signed with."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `tenant` None: all tenants."""

    tenant: str | None
    role: Role
    name: str


@dataclass(frozen=True, slots=True)
class Known:
    """Who asks, and until when that is so (Unix seconds; None: as long as the service runs)."""

    who: Caller
    until: float | None = None


class Tokens:
    """JWTs, by the keys that their issuer publishes. Raises CalltideError for settings that let in tokens meant for
    others."""

    def __init__(self, api: Api) -> None:
        if not api.jwt_issuer or not api.jwt_audience:
            raise CalltideError(
                "CALLTIDE_API__JWKS_URL wants CALLTIDE_API__JWT_ISSUER and CALLTIDE_API__JWT_AUDIENCE, too: without "
                "them a token for another service of the same issuer would be good here"
            )
        self._api = api
        self._lock = threading.Lock()
        self._keys: jwt.PyJWKSet | None = None
        self._asked = -JWKS_S[0]

    def known(self, token: str) -> Known:
        """Whose token it is. Raises Fault 401, and 503 when its issuer's keys cannot be had."""
        try:
            claims = jwt.decode(
                token,
                self._key(jwt.get_unverified_header(token).get("kid")),
                algorithms=ALGORITHMS,
                audience=self._api.jwt_audience,
                issuer=self._api.jwt_issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Fault(401, "the token has expired; get a new one and ask again", "token_expired") from None
        except jwt.PyJWTError as error:
            raise Fault(
                401,
                f"the token is not good here ({type(error).__name__}); get one from this service's issuer",
                "bad_token",
            ) from None
        tenant, role = claims.get(self._api.jwt_tenant_claim), self._role(claims.get(self._api.jwt_role_claim))
        if not isinstance(tenant, str) or not tenant or role is None:
            raise Fault(
                401,
                f"the token names no tenant ({self._api.jwt_tenant_claim}) or no role ({self._api.jwt_role_claim}); "
                "its issuer has to",
                "bad_token",
            )
        return Known(Caller(tenant, role, str(claims["sub"])), float(claims["exp"]))

    @staticmethod
    def _role(claim: Any) -> Role | None:
        """The role of a claim that is one, or a list with others among it; of several the one that may most."""
        named = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
        return next((role for role in ("admin", "supervisor", "viewer", "ingest") if role in named), None)

    def _key(self, kid: str | None) -> jwt.PyJWK:
        with self._lock:
            since = time.monotonic() - self._asked
            found = self._named(kid)
            if since >= JWKS_S[0] or (found is None and since >= JWKS_S[1]):
                self._ask()
                found = self._named(kid)
        if found is None:
            raise jwt.InvalidKeyError("no such key")
        return found

    def _named(self, kid: str | None) -> jwt.PyJWK | None:
        keys = [key for key in self._keys or () if key.key_id == kid and key.public_key_use in (None, "sig")]
        return keys[0] if keys else None

    def _ask(self) -> None:
        self._asked = time.monotonic()
        try:
            answer = requests.get(self._api.jwks_url, timeout=JWKS_ANSWER_S)
            answer.raise_for_status()
            self._keys = jwt.PyJWKSet.from_dict(answer.json())
        except (requests.RequestException, jwt.PyJWTError, ValueError) as error:
            log.warning("no keys from %s: %s", self._api.jwks_url, error)
            if self._keys is None:
                self._asked -= JWKS_S[0]  # it is asked again at once
                raise unavailable("jwks", "the keys of the tokens' issuer cannot be had now; try again") from None


class Rates:
    """So many requests a minute for each name, and as many at once; 0: any number."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Name → how many are left, and when that was (monotonic seconds)."""

    def take(self, name: str) -> None:
        """One request more. Raises Fault 429."""
        if not self.per_minute:
            return
        now = time.monotonic()
        with self._lock:
            left, at = self._left.pop(name, (float(self.per_minute), now))
            left = min(left + (now - at) * self.per_minute / 60, self.per_minute)
            taken = left >= 1
            self._left[name] = (left - taken, now)
            while len(self._left) > BUCKETS:
                self._left.popitem(last=False)
        if not taken:
            wait = max(1, round((1 - left) * 60 / self.per_minute))
            raise Fault(
                429,
                f"more than {self.per_minute} requests a minute; wait {wait} s",
                details={"requests_per_minute": self.per_minute},
                headers={"Retry-After": str(wait)},
            )


class Access:
    """The keys of the settings."""

    def __init__(self, settings: Settings, host: str | None = None) -> None:
        """`host`: the address at which is asked, if not that of the API."""
        api, host = settings.api, settings.web.host if host is None else host
        self._settings = settings
        self._keys = [(bytes.fromhex(key.sha256), Caller(key.tenant, key.role, name)) for name, key in api.keys.items()]
        self._tokens = Tokens(api) if api.jwks_url else None
        self.open = not self._keys and self._tokens is None and _is_loopback(host)
        """Whether who is on this machine needs no key."""
        if not (self._keys or self._tokens or self.open):
            log.warning("nobody is answered: %r is no loopback, and there are no CALLTIDE_API__KEYS", host)
        self._origins = frozenset(api.cors_origins)
        self.rates = Rates(api.requests_per_minute)

    def caller(self, request: Request, presented: str | None, cookie: str | None) -> Known:
        """Who makes this request. Raises Fault 400, 401, 429, 503."""
        try:
            found = self.known(request, presented, cookie)
        except Fault:
            self.guessed(request)
            raise
        self.rates.take(f"name {found.who.tenant} {found.who.name}")
        return found

    def known(self, request: Request, presented: str | None, cookie: str | None) -> Known:
        """Who asks, by a key or token and else by a session. May ask the tokens' issuer and wait for it. Raises Fault
        400, 401, 503."""
        if shown := SECRET_NAMES.intersection(name.lower() for name in request.query_params):
            raise Fault(
                400,
                f"a key may not stand in a URL ({min(shown)}), where it is logged: send X-API-Key or Authorization, "
                "and take a new key in place of this one",
                "key_in_url",
            )
        session = self._session(cookie) if cookie and request.method in ("GET", "HEAD") else None
        try:
            if presented:
                return self.of(presented)
            if session:
                return session
            if self.open and self._here(request):
                return Known(Caller(None, "admin", "local"))
            raise Fault(401, "who asks? send a key as X-API-Key, or a token as Authorization: Bearer")
        except Fault as fault:
            fault.headers.setdefault("WWW-Authenticate", "Bearer")
            raise

    def guessed(self, request: Request) -> None:
        """One more of whom it is not known who it is, at this address: who guesses is slowed down. Raises Fault 429."""
        self.rates.take(f"address {request.client.host if request.client else ''}")

    def session_of(self, known: Known) -> tuple[str, int]:
        """The cookie of a session, and how many seconds it is good for."""
        until = min(known.until or float("inf"), time.time() + SESSION_S)
        content = base64.urlsafe_b64encode(json.dumps(asdict(known.who) | {"until": until}).encode()).decode()
        return f"{content}.{self._signature(content)}", max(0, int(until - time.time()))

    @cached_property
    def _secret(self) -> bytes:
        """What sessions are signed with: one for all processes of this CALLTIDE_HOME, another when keys or the tokens'
        issuer are others, so that who has lost his key has lost his session."""
        path = self._settings.directory / SECRET
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        api = self._settings.api
        entitled = json.dumps([api.model_dump(mode="json")[name] for name in ("keys", "jwks_url", "jwt_issuer")])
        return hmac.new(path.read_bytes(), entitled.encode(), hashlib.sha256).digest()

    def _signature(self, content: str) -> str:
        return hmac.new(self._secret, content.encode(), hashlib.sha256).hexdigest()

    def _session(self, cookie: str) -> Known | None:
        content, _, signature = cookie.partition(".")
        if not hmac.compare_digest(self._signature(content).encode(), signature.encode("utf-8", "replace")):
            return None
        held = json.loads(base64.urlsafe_b64decode(content))
        until = held.pop("until")
        return Known(Caller(**held), until) if time.time() < until else None

    def of(self, presented: str) -> Known:
        """Whose key or token it is. May ask the tokens' issuer and wait for it. Raises Fault 401, 503."""
        digest = hashlib.sha256(presented.encode("utf-8", "replace")).digest()
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(digest, known):
                found = caller
        if found is None and self._tokens is not None and presented.count(".") == 2:
            return self._tokens.known(presented)
        if found is None:
            raise Fault(401, "this key or token is not known here, or no more; ask the operator for one", "bad_key")
        return Known(found)

    def _here(self, request: Request) -> bool:
        """Whether a program on this machine asks, or the page of this very server: no other web page, by whatever name
        it reaches this address, and nobody behind a proxy."""
        client = request.client.host if request.client else ""
        headers = request.headers
        if not _is_loopback(client) or not _is_loopback(request.url.hostname or ""):
            return False
        if any(name in headers for name in FORWARDED):
            return False
        origin = headers.get("origin")
        own = f"{request.url.scheme}://{headers.get('host', '')}"
        if origin is not None and origin != own and origin not in self._origins:
            return False
        return origin is not None or headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _make(path: Path) -> None:
    """A new secret, whole at once; that of another process, if it was first."""
    own = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    own.touch(mode=0o600)
    own.write_bytes(secrets.token_bytes(32))
    try:
        path.hardlink_to(own)
    except FileExistsError:
        pass
    finally:
        own.unlink()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="a key of CALLTIDE_API__KEYS")
_BEARER = HTTPBearer(auto_error=False, description="a JWT, or a key of CALLTIDE_API__KEYS")
_COOKIE = APIKeyCookie(name=COOKIE, auto_error=False, description="of POST /session; for GET only")


def _known(
    request: Request,
    key: Annotated[str | None, Security(_KEY)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    cookie: Annotated[str | None, Security(_COOKIE)],
) -> Known:
    access: Access = request.app.state.access
    found = access.caller(request, key or (bearer.credentials if bearer else None), cookie)
    request.state.caller = found.who
    return found


def caller(least_role: Role = "viewer", *others: Role) -> Callable[..., Caller]:
    """The dependency that says who asks, if he may: `who: Annotated[Caller, Depends(caller("supervisor"))]`. `others`:
    whoever may do what asks for one of these, too."""
    allowed = ALLOWED[least_role].union(*(ALLOWED[other] for other in others))

    def who(known: Annotated[Known, Security(_known)]) -> Caller:
        if known.who.role not in allowed:
            raise Fault(
                403,
                f"the role {known.who.role} may not do this; {' or '.join(sorted(allowed))} may",
                details={"role": known.who.role},
            )
        return known.who

    return who


router = APIRouter(tags=["access"])


class Session(BaseModel):
    """Who asks."""

    tenant: str | None = Field(description="null: all tenants", examples=["acme"])
    role: Role
    name: str = Field(examples=["floor"])
    seconds: int = Field(description="how long the cookie is good for", examples=[28_800])


@router.post("/session", response_model=Session)
def begin_session(request: Request, response: Response, known: Annotated[Known, Security(_known)]) -> dict[str, Any]:
    """Make a cookie of a key or token, for what a browser asks without headers: what is played, what is downloaded. It
    is good for GET and for the websocket gateway, for eight hours at most, and no longer than the token or the keys."""
    access: Access = request.app.state.access
    content, seconds = access.session_of(known)
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, content, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")
    response.headers["Cache-Control"] = "no-store"
    return asdict(known.who) | {"seconds": seconds}


@router.delete("/session", status_code=204)
def end_session(response: Response) -> None:
    """Forget the cookie."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
