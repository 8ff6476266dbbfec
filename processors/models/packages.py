"""Where the weights that come as pip packages lie. The packages are never imported: most of them want torch."""

import importlib.metadata
from pathlib import Path

from schemas.errors import CalltideError


def packaged_file(package: str, path: str) -> Path:
    """The path of a file of an installed package. Raises CalltideError when the package or the file is not there."""
    try:
        file = Path(str(importlib.metadata.distribution(package).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        raise CalltideError(f"the weights package {package} is not installed; run `make install`") from None
    if not file.exists():
        raise CalltideError(f"the package {package} has no {path}; run `make install` to get the version that has")
    return file
