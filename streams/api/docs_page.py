"""`/api/v1/docs`: the OpenAPI document as a page, by Swagger UI 5.35.0 (streams/api/swagger/, as its makers publish it,
compressed).

A changer must know: it shows this project's own words and no call's, so its policy also lets in the pictures that
Swagger UI's style sheet carries in itself, and nothing else beyond what the web app's does.
"""

import gzip
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Header, Response

FILES: Final = Path(__file__).with_name("swagger")
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES: Final = {".js": "text/javascript", ".css": "text/css"}
_KEPT: Final = {"Cache-Control": "max-age=3600"}

router = APIRouter(include_in_schema=False)


@cache
def _content(name: str) -> bytes:
    return (FILES / name).read_bytes()


@router.get("/docs")
def docs() -> Response:
    """The page."""
    return Response(_content("index.html"), media_type="text/html", headers={"Content-Security-Policy": POLICY})


@router.get("/docs/docs.js")
def start() -> Response:
    """What begins it."""
    return Response(_content("docs.js"), media_type=_TYPES[".js"], headers=_KEPT)


@router.get("/docs/{name}")
def packed(
    name: Literal["swagger-ui-bundle.js", "swagger-ui.css"], accept_encoding: Annotated[str, Header()] = ""
) -> Response:
    """Swagger UI."""
    content, headers = _content(f"{name}.gz"), _KEPT | {"Vary": "Accept-Encoding"}
    if "gzip" in accept_encoding:
        headers["Content-Encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    return Response(content, media_type=_TYPES[Path(name).suffix], headers=headers)
