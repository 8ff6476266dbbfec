"""Who may bring calls: a key of the source's, however its phone system can present one.

A changer must know: keys are compared in constant time, all of a source's every time, so that neither how long it takes
nor what is answered tells anything about them.
"""

import hmac
import ipaddress
from collections.abc import Mapping, Sequence

from websockets.typing import Subprotocol

from schemas.errors import CalltideError
from streams.ingestion.signatures import Handshake, client_secret, header, signed_by_genesys, signed_by_twilio

SUBPROTOCOLS = ("token", "bearer")
"""A browser's websocket can send no header but this: `Sec-WebSocket-Protocol: token, KEY`."""


def subprotocol(_connection: object, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """A browser that brings its key as a subprotocol has to be given the name beside it."""
    return next((name for name in offered if name.lower() in SUBPROTOCOLS), None)


class Keys:
    """The keys of all sources: source → tenant → key; nobody has the key of a source with no tenants.

    Raises CalltideError for an empty key.
    """

    def __init__(self, keys: Mapping[str, Mapping[str, str]]) -> None:
        for source, tenants in keys.items():
            for tenant, key in tenants.items():
                if not key or not tenant:
                    raise CalltideError(f"an empty key or tenant of {source}; set CALLTIDE_SERVE__KEYS anew")
        self._keys = {source: {tenant: key.encode() for tenant, key in of.items()} for source, of in keys.items()}

    def guards(self, source: str) -> bool:
        """Whether the source is closed to those without a key."""
        return source in self._keys

    def tenant(self, source: str, presented: Sequence[str]) -> str | None:
        """Whose key was presented; None: nobody's. "" when the source has no keys and is open to anyone."""
        if not self.guards(source):
            return ""
        found = None
        for candidate in presented:
            given = candidate.encode("utf-8", "replace")
            for tenant, key in self._keys[source].items():
                if hmac.compare_digest(given, key):
                    found = tenant
        return found


def presented(headers: Mapping[str, str], query: Mapping[str, str], path_rest: str) -> list[str]:
    """What may be a key in a request (header names in lower case): `Authorization: Bearer` or `Token`, `X-API-KEY`, the
    second subprotocol of a browser, the query's `token`, and what follows the route in the path, as Twilio can send
    nothing else."""
    found = []
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() in SUBPROTOCOLS:
        found.append(credentials.strip())
    if key := headers.get("x-api-key"):
        found.append(key)
    offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    if len(offered) == 2 and offered[0].lower() in SUBPROTOCOLS:
        found.append(offered[1])
    if token := query.get("token"):
        found.append(token)
    if path_rest:
        found.append(path_rest)
    return found


class Signatures:
    """Handshakes that have to be signed (streams/ingestion/signatures.py). Raises CalltideError for a secret that is
    none."""

    def __init__(self, audiohook_secrets: Mapping[str, str], twilio_auth_token: str) -> None:
        self._genesys = {key: client_secret(secret) for key, secret in audiohook_secrets.items()}
        self._twilio = twilio_auth_token

    def hold(self, source: str, handshake: Handshake) -> bool:
        """Whether the handshake is signed, or need not be: an AudioHook key without a secret, no token of Twilio's."""
        if source == "audiohook" and header(handshake.headers, "x-api-key") in self._genesys:
            return signed_by_genesys(handshake, self._genesys)
        if source == "twilio" and self._twilio:
            return signed_by_twilio(handshake, self._twilio)
        return True


class Networks:
    """Addresses that may connect. Raises CalltideError for what is no network."""

    def __init__(self, networks: Sequence[str]) -> None:
        try:
            self._networks = [ipaddress.ip_network(one, strict=False) for one in networks]
        except ValueError as error:
            raise CalltideError(f"{error}; write networks such as 10.0.0.0/8 or 2001:db8::/32") from None

    def __contains__(self, host: object) -> bool:
        try:
            address = ipaddress.ip_address(str(host))
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)
