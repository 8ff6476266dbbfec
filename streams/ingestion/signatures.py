"""Whether a websocket's handshake was signed by who holds a secret: Genesys' and Twilio's ways.

Genesys signs with HTTP message signatures (RFC 9421, HMAC-SHA-256), Twilio with its own header. A changer must know:
both sign the host the client called, so a proxy in front must hand on `Host` as it came.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    InvalidSignature,
    MappingKeyResolver,
    algorithms,
)

from schemas.errors import CalltideError

SIGNED: Final = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
"""What AudioHook's signature covers (its documentation); one that covers less is refused."""
OLDEST: Final = timedelta(seconds=10)
"""Age at which a signature is refused: as Genesys' reference implementation. The library allows 5 s of clock skew."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """A websocket's opening request. `target`: path and query as they came; `headers`: by any case of their names."""

    target: str
    headers: Mapping[str, str]
    method: Literal["GET"] = "GET"

    @property
    def request_target(self) -> str:
        """`target`, under the name the library of signatures asks for."""
        return self.target

    @property
    def url(self) -> str:
        """Where the client thinks it is; Genesys and Twilio both call by TLS only."""
        return f"https://{header(self.headers, 'host')}{self.target}"


def header(headers: Mapping[str, str], wanted: str) -> str:
    """A header's value whatever the case of its name; empty when absent."""
    return next((value for name, value in headers.items() if name.lower() == wanted), "")


def client_secret(encoded: str) -> bytes:
    """The bytes of a client secret, which Genesys writes in base64. Raises CalltideError for what is none."""
    try:
        secret = base64.b64decode(encoded, validate=True)
    except ValueError:
        secret = b""
    if not secret:
        raise CalltideError(
            "an AudioHook client secret that is not base64; give it as the integration in Genesys has it"
        )
    return secret


def signed_by_genesys(handshake: Handshake, secrets: Mapping[str, bytes], oldest: timedelta | None = OLDEST) -> bool:
    """Whether the handshake carries a fresh signature over `SIGNED`, by the client secret of its X-API-KEY.

    `secrets`: API key → client secret, of those keys that have one. `oldest`: None for any age. Whoever has a secret
    must sign: a handshake without a signature is not signed.
    """
    verifier = HTTPMessageVerifier(
        signature_algorithm=algorithms.HMAC_SHA256,
        key_resolver=MappingKeyResolver(public_keys=secrets, private_keys={}),
    )
    try:
        (result,) = verifier.verify(handshake, max_age=oldest, require_components=SIGNED)
    except (InvalidSignature, HTTPMessageSignaturesException):
        return False
    return result.parameters["keyid"] == header(handshake.headers, "x-api-key")


def signed_by_twilio(handshake: Handshake, auth_token: str) -> bool:
    """Whether X-Twilio-Signature is that of the account's auth token: HMAC-SHA-1, in base64, over the `<Stream>`'s URL.

    Source: twilio.com/docs/usage/security, which holds for the handshake of a stream too. Twilio signs no time, so a
    signature is good as long as the token is.
    """
    url = handshake.url.replace("https:", "wss:", 1)
    expected = base64.b64encode(hmac.digest(auth_token.encode(), url.encode(), hashlib.sha1))
    return hmac.compare_digest(expected, header(handshake.headers, "x-twilio-signature").encode())
