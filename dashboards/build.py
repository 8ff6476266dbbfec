"""All dashboards and alert rules, from code to JSON.

A changer must know: a new dashboard is a module with a `build()` and its name in BOARDS; then `python -m dashboards`.
"""

import json
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import alerts, call, coaching, emotions, floor, models, operations, provisioning, sentiment, words
from dashboards.files import ALERTS, JSON

BOARDS: Final = {
    "floor": floor.build,
    "sentiment": sentiment.build,
    "call": call.build,
    "emotions": emotions.build,
    "words": words.build,
    "coaching": coaching.build,
    "models": models.build,
    "operations": operations.build,
}
"""Name of the file → what builds the dashboard."""


def all_dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards as Grafana takes them, by the name of their file."""
    return {name: json.loads(JSONEncoder().encode(build())) for name, build in BOARDS.items()}


def text(made: dict[str, Any] | list[dict[str, Any]]) -> str:
    """A dashboard, or the alert rules, as committed."""
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def write() -> list[str]:
    """Write every dashboard into json/, remove what no code makes any more, and write the alert rules.

    Returns the dashboards' names.
    """
    made = all_dashboards()
    JSON.mkdir(exist_ok=True)
    for old in JSON.glob("*.json"):
        if old.stem not in made:
            old.unlink()
    for name, dashboard in made.items():
        (JSON / f"{name}.json").write_text(text(dashboard), encoding="utf-8")
    ALERTS.write_text(text(alerts.groups(made)), encoding="utf-8")
    provisioning.FILE.parent.mkdir(parents=True, exist_ok=True)
    provisioning.FILE.write_text(provisioning.text(), encoding="utf-8")
    return list(made)
