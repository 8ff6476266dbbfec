"""All dashboards, from code to json/.

A changer must know: a new dashboard is a module with a `build()` and its name in BOARDS; then `python -m dashboards`.
"""

import json
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import floor
from dashboards.files import JSON

BOARDS: Final = {
    "floor": floor.build,
}
"""Name of the file → what builds the dashboard."""


def all_dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards as Grafana takes them, by the name of their file."""
    return {name: json.loads(JSONEncoder().encode(build())) for name, build in BOARDS.items()}


def text(dashboard: dict[str, Any]) -> str:
    """A dashboard as it is committed."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def write() -> list[str]:
    """Write every dashboard into json/ and remove what no code makes any more. Returns the names."""
    made = all_dashboards()
    JSON.mkdir(exist_ok=True)
    for old in JSON.glob("*.json"):
        if old.stem not in made:
            old.unlink()
    for name, dashboard in made.items():
        (JSON / f"{name}.json").write_text(text(dashboard), encoding="utf-8")
    return list(made)
