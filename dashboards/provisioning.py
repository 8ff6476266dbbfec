"""The alert rules as Grafana's file provisioning takes them, for docker-compose.yml.

`calltide dashboards push` sends the same rules by the API.

A changer must know: JSON is YAML, so Grafana reads the file as it reads those beside it; tests hold it to alerts.json.
"""

import json
from pathlib import Path
from typing import Any, Final

from dashboards.files import ALERTS

FILE: Final = Path(__file__).parents[1] / "deploy" / "grafana" / "provisioning" / "alerting" / "calltide.json"

FOLDER: Final = "Calltide"
"""The folder's title, as the dashboards' provider and the push have it."""


def alerting(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The file for these rule groups, given in the form of Grafana's provisioning API."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group["title"],
                "folder": FOLDER,
                "interval": f"{group['interval']}s",
                "rules": [_rule(rule) for rule in group["rules"]],
            }
            for group in groups
        ],
    }


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    """The API knows the panel of a rule by two annotations; a file has two fields beside them, too."""
    annotations = rule.get("annotations", {})
    dashboard, panel = annotations.get("__dashboardUid__"), annotations.get("__panelId__")
    shown = {} if dashboard is None or panel is None else {"dashboardUid": dashboard, "panelId": int(panel)}
    # Here, and not in queries and annotations, Grafana puts the environment's variables for $NAME; $$ is a dollar.
    title = rule["title"].replace("$", "$$")
    labels = {name: value.replace("$", "$$") for name, value in rule.get("labels", {}).items()}
    return rule | shown | {"title": title, "labels": labels}


def text() -> str:
    """The file for the committed rules, as it is committed."""
    return json.dumps(alerting(json.loads(ALERTS.read_text(encoding="utf-8"))), indent=2, ensure_ascii=False) + "\n"
