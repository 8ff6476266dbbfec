"""The command `calltide key`: a new key of the API, shown once.

A changer must know: the key is random and long, so the SHA-256 that the settings hold tells nothing of it.
"""

import hashlib
import json
import secrets
import shlex
from typing import Annotated

import typer

from schemas.errors import CalltideError


def key(
    name: Annotated[str, typer.Argument(help="whose key it is, as the log and the audit log name it")],
    role: Annotated[str, typer.Option(help="viewer, supervisor, admin or ingest (docs/api.md)")] = "viewer",
    tenant: Annotated[str, typer.Option(help="of this tenant only (default: of all)")] = "",
) -> None:
    """Make a key of the API, and the setting that lets it in beside those that are set."""
    from pydantic import ValidationError

    from streams.settings import Api, load

    made = secrets.token_urlsafe(32)
    given = {"sha256": hashlib.sha256(made.encode()).hexdigest(), "tenant": tenant or None, "role": role}
    try:
        keys = load().api.keys | Api.model_validate({"keys": {name: given}}).keys
    except ValidationError as error:
        raise CalltideError(f"no such key can be made: {error.errors()[0]['msg']}; give another name or role") from None
    shown = {one: of.model_dump(exclude_none=True) for one, of in keys.items()}
    typer.echo(f"key: {made}\n(it is shown now and never again; send it as X-API-Key)")
    typer.echo(f"CALLTIDE_API__KEYS={shlex.quote(json.dumps(shown, ensure_ascii=False))}")
