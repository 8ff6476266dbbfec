"""Who asks: API keys and JWTs, each with a tenant, a role and a name; and how often each may ask.

A changer must know: a caller without a tenant (None) sees all of them. Only a key of the settings can be so, and who
asks on loopback where there are neither keys nor JWTs; a token always names its tenant. Keys lie in the settings as
SHA-256: they are random and long (`calltide key` makes them), so nothing slower is needed, and all of them are compared
in constant time, every time.
"""

import hashlib
import hmac
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from streams.api.problems import Fault
from streams.settings import Settings

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


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `tenant` None: all tenants."""

    tenant: str | None
    role: Role
    name: str


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

    def __init__(self, settings: Settings) -> None:
        api = settings.api
        self._keys = [(bytes.fromhex(key.sha256), Caller(key.tenant, key.role, name)) for name, key in api.keys.items()]
        self.open = not self._keys and _is_loopback(settings.web.host)
        """Whether who is on this machine needs no key."""
        self._origins = frozenset(api.cors_origins)
        self.rates = Rates(api.requests_per_minute)

    def caller(self, request: Request, key: str | None, bearer: str | None) -> Caller:
        """Who asks. Raises Fault 400, 401, 429."""
        if shown := SECRET_NAMES.intersection(name.lower() for name in request.query_params):
            raise Fault(
                400,
                f"a key may not stand in a URL ({min(shown)}), where it is logged: send X-API-Key or Authorization, "
                "and take a new key in place of this one",
                "key_in_url",
            )
        presented = key or bearer
        try:
            if presented:
                found = self._known(presented)
            elif self.open and self._here(request):
                found = Caller(None, "admin", "local")
            else:
                raise Fault(401, "who asks? send a key as X-API-Key, or a token as Authorization: Bearer")
        except Fault as fault:
            # Who guesses is slowed down by address, before that is known who it would be.
            self.rates.take(f"address {request.client.host if request.client else ''}")
            fault.headers.setdefault("WWW-Authenticate", "Bearer")
            raise
        self.rates.take(f"name {found.name}")
        return found

    def _known(self, presented: str) -> Caller:
        digest = hashlib.sha256(presented.encode("utf-8", "replace")).digest()
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(digest, known):
                found = caller
        if found is None:
            raise Fault(401, "this key or token is not known here, or no more; ask the operator for one", "bad_key")
        return found

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


def caller(least_role: Role = "viewer") -> Callable[..., Caller]:
    """The dependency that says who asks, if he may: `who: Annotated[Caller, Depends(caller("supervisor"))]`."""

    def who(
        request: Request,
        key: Annotated[str | None, Security(_KEY)],
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    ) -> Caller:
        access: Access = request.app.state.access
        found = access.caller(request, key, bearer.credentials if bearer else None)
        request.state.caller = found
        if found.role not in ALLOWED[least_role]:
            raise Fault(
                403,
                f"the role {found.role} may not do this; {' or '.join(sorted(ALLOWED[least_role]))} may",
                details={"role": found.role},
            )
        return found

    return who
