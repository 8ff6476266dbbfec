"""As much of Grafana's HTTP API as a push uses, with a memory, for tests of what is sent and when.

What it takes and answers is held to Grafana's published models by test_push.py; tests/grafana/ asks a real one. Like
the real one it adds fields of its own to what it is given.
"""

import json
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Json = dict[str, Any]

TOKEN = "glsa_of-the-test"
USER, PASSWORD = "admin", "pass:word"
CREDENTIALS = (f"Bearer {TOKEN}", "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode())


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    """Below /api."""
    body: Any
    answer: Any
    status: int


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Grafana:
    """What it has, and what was asked of it."""

    url: str = ""
    version: str = "13.2.3"
    plugins: list[str] = field(default_factory=lambda: ["prometheus", "grafana-clickhouse-datasource"])
    forbidden: str = ""
    """A path below /api for which the right is missing."""
    elsewhere: str = ""
    """Where all requests are sent on to."""
    unwell: dict[str, str] = field(default_factory=dict)
    """uid of a data source → what its health check says."""
    rewrites: bool = False
    """Stores dashboards otherwise than they came, as newer versions do."""
    folders: dict[str, Json] = field(default_factory=dict)
    sources: dict[str, Json] = field(default_factory=dict)
    secrets: dict[str, Json] = field(default_factory=dict)
    dashboards: dict[str, Json] = field(default_factory=dict)
    versions: dict[str, list[Json]] = field(default_factory=dict)
    groups: dict[str, Json] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def writes(self) -> list[Request]:
        return [request for request in self.requests if request.method != "GET"]

    def edit(self, uid: str, change: Callable[[Json], Any]) -> None:
        """As a person does on the page."""
        dashboard = json.loads(json.dumps(self.dashboards[uid]["dashboard"]))
        change(dashboard)
        self._save(
            {"dashboard": dashboard, "message": "", "folderUid": self.dashboards[uid]["meta"]["folderUid"]}, "ann"
        )

    def _save(self, command: Json, who: str) -> Json:
        dashboard = command["dashboard"]
        uid = dashboard["uid"]
        version = len(self.versions.get(uid, ())) + 1
        stored = dashboard | {"id": 7, "version": version}
        if self.rewrites:
            stored["schemaVersion"] = 99
        folder = command["folderUid"]
        self.dashboards[uid] = {
            "dashboard": stored,
            "meta": {"folderUid": folder, "version": version, "isFolder": False},
        }
        record = {
            "version": version,
            "message": command["message"],
            "created": "2026-11-22T09:00:00Z",
            "createdBy": who,
        }
        self.versions.setdefault(uid, []).insert(0, record)
        return {"uid": uid, "status": "success", "version": version, "id": 7, "slug": "x", "url": f"/d/{uid}/x"}

    def answer(self, method: str, path: str, body: Any) -> Any:
        """What Grafana answers. Raises Refused."""
        match (method, *path.strip("/").split("/")):
            case ("GET", "org"):
                return {"id": 1, "name": "Main Org.", "address": {}}
            case ("GET", "plugins"):
                return [{"id": plugin, "name": plugin, "type": "datasource"} for plugin in self.plugins]
            case ("GET", "folders", uid):
                return self.folders.get(uid) or self._missing("folder not found")
            case ("POST", "folders"):
                self.folders[body["uid"]] = body | {"id": 3, "version": 1}
                return self.folders[body["uid"]]
            case ("GET", "datasources", "uid", uid):
                return self.sources.get(uid) or self._missing("Data source not found")
            case ("POST", "datasources"):
                if body["name"] in {source["name"] for source in self.sources.values()}:
                    raise Refused(409, "data source with the same name already exists")
                return {"datasource": self._source(body), "id": 5, "message": "Datasource added", "name": body["name"]}
            case ("PUT", "datasources", "uid", uid) if uid in self.sources:
                return {
                    "datasource": self._source(body),
                    "id": 5,
                    "message": "Datasource updated",
                    "name": body["name"],
                }
            case ("GET", "datasources", "uid", uid, "health"):
                if uid in self.unwell:
                    raise Refused(400, self.unwell[uid])
                return {"message": "Data source is working", "status": "OK"}
            case ("GET", "dashboards", "uid", uid):
                return self.dashboards.get(uid) or self._missing("Dashboard not found")
            case ("GET", "dashboards", "uid", uid, "versions"):
                return {"continueToken": "", "versions": self.versions.get(uid, [])}
            case ("POST", "dashboards", "db"):
                return self._save(body, "calltide")
            case ("GET", "v1", "provisioning", "folder", _, "rule-groups", title):
                return self.groups.get(unquote(title)) or self._missing("rule group not found")
            case ("GET", "v1", "provisioning", "alert-rules", uid):
                return self._rule(uid) or self._missing("could not find alert rule")
            case ("POST", "v1", "provisioning", "alert-rules") if body["folderUID"] in self.folders:
                empty = {"title": body["ruleGroup"], "folderUid": body["folderUID"], "interval": 60, "rules": []}
                group = self.groups.setdefault(body["ruleGroup"], empty)
                group["rules"].append(self._stored(body))
                return group["rules"][-1]
            case ("PUT", "v1", "provisioning", "folder", folder, "rule-groups", title) if folder in self.folders:
                for rule in body["rules"]:
                    if self._rule(rule["uid"]) is None:
                        raise Refused(500, f"failed to update rule with UID {rule['uid']}")
                # In another order than it came: Grafana promises none.
                self.groups[unquote(title)] = body | {"rules": [self._stored(rule) for rule in body["rules"]][::-1]}
                return self.groups[unquote(title)]
        raise Refused(404, "Not found")

    def _missing(self, message: str) -> Any:
        raise Refused(404, message)

    def _source(self, body: Json) -> Json:
        secrets = body.get("secureJsonData", {})
        self.secrets[body["uid"]] = self.secrets.get(body["uid"], {}) | secrets
        public = {name: value for name, value in body.items() if name != "secureJsonData"}
        fields = {"id": 5, "orgId": 1, "readOnly": False, "isDefault": False, "version": 1}
        stored = fields | public | {"secureJsonFields": dict.fromkeys(self.secrets[body["uid"]], True)}
        self.sources[body["uid"]] = stored
        return stored

    def _rule(self, uid: str) -> Json | None:
        return next((rule for group in self.groups.values() for rule in group["rules"] if rule["uid"] == uid), None)

    def _stored(self, rule: Json) -> Json:
        added = {"updated": "2026-11-22T09:00:00Z", "provenance": "api", "id": 9}
        return rule | added | {"data": [self._query(query) for query in rule["data"]]}

    def _query(self, query: Json) -> Json:
        model = {"intervalMs": 1000, "maxDataPoints": 43200} | query["model"]
        return {"queryType": "", "relativeTimeRange": {"from": 0, "to": 0}} | query | {"model": model}


@contextmanager
def imitation() -> Iterator[Grafana]:
    """A running one."""
    grafana = Grafana()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/api")
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length and self.command != "GET" else None
            answer: Any
            try:
                if path == "/health":
                    answer, status = {"database": "ok", "version": grafana.version}, 200
                elif self.headers.get("Authorization") not in CREDENTIALS:
                    raise Refused(401, "Invalid API key")
                elif grafana.forbidden and re.fullmatch(grafana.forbidden, path):
                    raise Refused(403, "You'll need additional permissions to perform this action.")
                else:
                    answer, status = grafana.answer(self.command, path, body), 200
            except Refused as refused:
                answer, status = {"message": str(refused)}, refused.status
            grafana.requests.append(Request(self.command, path, body, answer, status))
            content = json.dumps(answer).encode()
            self.send_response(302 if grafana.elsewhere else status)
            if grafana.elsewhere:
                self.send_header("Location", grafana.elsewhere + self.path)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _serve

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: the requests are kept."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    grafana.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield grafana
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
