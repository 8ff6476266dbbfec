"""A real Grafana takes a push, and its ClickHouse plugin answers every query of the dashboards and alert rules.

Skipped without GRAFANA_HOME: the home directory of a Grafana (bin/grafana, conf/, public/) that has the plugin
grafana-clickhouse-datasource in data/plugins/ or plugins/. docs/grafana.md says with which it was run last.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from dashboards import files
from deploy.process import free_port
from schemas.errors import CalltideError
from streams.grafana import CLICKHOUSE, FOLDER, PLUGIN, PROMETHEUS, Bundle, Change, Push, committed, contains
from streams.settings import Settings
from tests.analytics.macros import ALL, Variable, View, backend, conditional_all, interpolate

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("GRAFANA_HOME", "/nowhere"))
PLUGINS = HOME / "data" / "plugins" if (HOME / "data" / "plugins").exists() else HOME / "plugins"
USER, PASSWORD = "admin", "of the test"

pytestmark = [
    pytest.mark.skipif(not HOME.exists(), reason="no Grafana: GRAFANA_HOME is not set to the home of one"),
    pytest.mark.timeout(600),
]
answering = pytest.mark.skipif(
    not any((PLUGINS / PLUGIN).rglob("gpx_*")),
    reason=f"the plugin {PLUGIN} in {PLUGINS} has no program for its queries",
)


@dataclass(frozen=True)
class Running:
    """A Grafana and a way to ask it as its administrator."""

    url: str

    def ask(self, method: str, path: str, body: Any = None, *, status: int | None = 200) -> Any:
        answer = requests.request(method, f"{self.url}/api{path}", json=body, auth=(USER, PASSWORD), timeout=60)
        assert status is None or answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()


@contextmanager
def grafana(directory: Path, **more: str) -> Iterator[Running]:
    """A Grafana of its own, without internet, until the end."""
    port = free_port()
    given = {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(directory / "data"),
        "GF_PATHS_LOGS": str(directory / "logs"),
        "GF_PATHS_PLUGINS": str(PLUGINS),
        "GF_PATHS_PROVISIONING": str(directory / "nothing"),
        "GF_PLUGINS_ALLOW_LOADING_UNSIGNED_PLUGINS": PLUGIN,
        "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        "GF_SECURITY_ADMIN_PASSWORD": PASSWORD,
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_LOG_MODE": "file",
    }
    directory.mkdir(parents=True, exist_ok=True)
    program = [str(HOME / "bin" / "grafana"), "server", "--homepath", str(HOME)]
    output = (directory / "output").open("w")
    process = subprocess.Popen(
        program, cwd=directory, env={**os.environ, **given, **more}, stdout=output, stderr=subprocess.STDOUT
    )
    running = Running(f"http://127.0.0.1:{port}")
    try:
        until = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{running.url}/api/health", timeout=5).ok:
                    break
            except requests.ConnectionError:
                assert process.poll() is None, (directory / "output").read_text()
                assert time.monotonic() < until, (directory / "output").read_text()
                time.sleep(0.2)
        yield running
    finally:
        process.terminate()
        process.wait(60)
        output.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with grafana(tmp_path_factory.mktemp("grafana")) as one:
        yield one


def service_account(running: Running, role: str) -> str:
    """A token, made as docs/grafana.md says."""
    account = running.ask("POST", "/serviceaccounts", {"name": f"calltide {role}", "role": role}, status=201)
    return str(running.ask("POST", f"/serviceaccounts/{account['id']}/tokens", {"name": f"push {role}"})["key"])


@pytest.fixture(scope="module")
def settings(running: Running, month: Any) -> Settings:
    """By token, with the month's ClickHouse."""
    chosen = {"url": running.url, "token": service_account(running, "Admin"), "clickhouse_url": month.url}
    return Settings(_env_file=None, grafana=chosen, clickhouse={"database": month.settings.clickhouse.database})


def push(settings: Settings, bundle: Bundle | None = None, **options: Any) -> list[Change]:
    one = Push(settings, bundle or committed(), **options)
    one.about()
    return list(one.run())


def fates(changes: list[Change]) -> dict[str, str]:
    return {f"{change.kind} {change.name}": change.fate for change in changes}


@pytest.fixture(scope="module")
def pushed(settings: Settings) -> list[Change]:
    return push(settings)


def test_all_arrives_and_a_second_push_changes_nothing(running: Running, settings: Settings, pushed: Any) -> None:
    assert set(fates(pushed).values()) == {"created"}
    again = push(settings)
    assert set(fates(again).values()) == {"unchanged"}, fates(again)
    bundle = committed()
    found = running.ask("GET", f"/search?type=dash-db&folderUIDs={FOLDER}")
    assert {one["uid"] for one in found} == {dashboard["uid"] for dashboard in bundle.dashboards.values()}
    for dashboard in bundle.dashboards.values():
        theirs = running.ask("GET", f"/dashboards/uid/{dashboard['uid']}")["dashboard"]
        assert theirs["panels"] == dashboard["panels"]
    for group in bundle.alerts:
        rules = running.ask("GET", f"/v1/provisioning/folder/{FOLDER}/rule-groups/{group['title']}")["rules"]
        assert {rule["uid"] for rule in rules} == {rule["uid"] for rule in group["rules"]}
        for rule in rules:
            assert running.ask("GET", f"/v1/provisioning/alert-rules/{rule['uid']}")["provenance"] == "api"
    assert {source["uid"] for source in running.ask("GET", "/datasources")} == {CLICKHOUSE, PROMETHEUS}


@answering
def test_the_data_source_is_healthy(running: Running, pushed: Any) -> None:
    assert running.ask("GET", f"/datasources/uid/{CLICKHOUSE}/health")["status"] == "OK"


def test_changes_are_made_and_edits_by_people_kept(running: Running, settings: Settings, pushed: Any) -> None:
    bundle = Bundle(*json.loads(json.dumps([committed().dashboards, committed().alerts])))
    floor, rule = bundle.dashboards["floor"], bundle.alerts[0]["rules"][0]
    floor["description"], rule["for"] = "A later version.", "17m"
    bundle.alerts[1]["rules"].pop()
    changed = {name: fate for name, fate in fates(push(settings, bundle)).items() if fate != "unchanged"}
    assert set(changed.values()) == {"changed"}
    assert len(changed) == 3
    assert set(fates(push(settings, bundle)).values()) == {"unchanged"}
    assert set(fates(push(settings)).values()) == {"changed", "unchanged"}
    assert set(fates(push(settings)).values()) == {"unchanged"}

    mine = running.ask("GET", f"/dashboards/uid/{floor['uid']}")["dashboard"] | {"description": "Mine."}
    running.ask("POST", "/dashboards/db", {"dashboard": mine, "folderUid": FOLDER, "message": "tried something"})
    (kept,) = (change for change in push(settings) if change.fate != "unchanged")
    assert (kept.fate, kept.name) == ("kept", floor["title"])
    assert USER in kept.note
    assert '- description: "Mine."' in kept.diff
    assert running.ask("GET", f"/dashboards/uid/{floor['uid']}")["dashboard"]["description"] == "Mine."
    assert "changed" in fates(push(settings, force=True)).values()
    assert set(fates(push(settings)).values()) == {"unchanged"}


def test_who_lacks_a_right_is_told(running: Running, settings: Settings, pushed: Any) -> None:
    viewer = service_account(running, "Viewer")
    chosen = settings.grafana.model_copy(update={"token": viewer})
    with pytest.raises(CalltideError, match=r"role Admin|has no plugin"):
        push(settings.model_copy(update={"grafana": chosen}), force=True)
    wrong = settings.grafana.model_copy(update={"token": "glsa_wrong"})
    with pytest.raises(CalltideError, match="does not know who asks"):
        push(settings.model_copy(update={"grafana": wrong}))


def views(month: Any) -> dict[str, Any]:
    """What every dashboard's variables are set to: all of the month."""
    client = month.client

    def column(sql: str) -> list[str]:
        return [str(row[0]) for row in client.query(sql).result_rows]

    call = column("SELECT call_id FROM calls FINAL WHERE ended_at IS NOT NULL ORDER BY started_at DESC LIMIT 1")[0]
    choices = {
        name: Variable(ALL, options=column(f"SELECT DISTINCT {name} FROM calls ORDER BY 1"))
        for name in ("tenant", "queue", "agent")
    }
    return choices | {
        "role": Variable(["customer", "unknown"], options=["agent", "customer", "unknown"]),
        "version": Variable("v1"),
        "a": Variable("v1"),
        "b": Variable("v2"),
        "minimum": Variable("20"),
        "call": Variable(call),
        "search": Variable("refund"),
        "datasource": Variable(CLICKHOUSE),
        "prometheus": Variable(PROMETHEUS),
    }


QUERIES = [query for query in files.queries() if query.source == PLUGIN]


@pytest.fixture(scope="module")
def view(month: Any) -> View:
    return View(month.until - timedelta(days=7), month.until, views(month), timedelta(minutes=5))


@answering
@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.id)
def test_the_plugin_answers_what_clickhouse_does(
    running: Running, pushed: Any, month: Any, view: View, query: files.Query
) -> None:
    sent = interpolate(conditional_all(query.text, view.variables), view)
    panel = {
        "refId": query.ref_id,
        "datasource": {"type": PLUGIN, "uid": CLICKHOUSE},
        "editorType": "sql",
        "queryType": query.format,
        "format": 0 if query.format == "timeseries" else 1,
        "rawSql": sent,
        "intervalMs": int(view.interval.total_seconds() * 1000),
        "maxDataPoints": 2_000,
    }
    between = {"from": str(int(view.start.timestamp() * 1000)), "to": str(int(view.end.timestamp() * 1000))}
    result = running.ask("POST", "/ds/query", {"queries": [panel], **between})["results"][query.ref_id]
    assert "error" not in result, result["error"]
    rows = month.client.query(backend(sent, view)).result_rows
    frames = result["frames"]
    got = max((len(frame["data"]["values"][0]) for frame in frames if frame["data"]["values"]), default=0)
    if query.format == "table":
        assert got == len(rows)
        assert rows == [] or len(frames[0]["schema"]["fields"]) == len(rows[0])
    else:
        # One frame with a column for each series, or one for each series: as many points in time either way.
        assert got == len({row[0] for row in rows})


@answering
def test_alert_rules_are_evaluated(running: Running, pushed: Any, month: Any) -> None:
    for group in committed().alerts:
        for rule in group["rules"]:
            if rule["data"][0]["datasourceUid"] != CLICKHOUSE:
                continue
            asked = {"data": rule["data"], "now": month.until.isoformat().replace("+00:00", "Z")}
            results = running.ask("POST", "/v1/eval", asked)["results"]
            assert not [result["error"] for result in results.values() if result.get("error")], rule["title"]
            assert results[rule["condition"]]["frames"], rule["title"]


def test_the_provisioning_files_make_the_same(tmp_path: Path) -> None:
    provisioning = tmp_path / "provisioning"
    shutil.copytree(ROOT / "deploy" / "grafana" / "provisioning", provisioning)
    provider = provisioning / "dashboards" / "calltide.yml"
    provider.write_text(provider.read_text().replace("/etc/grafana/dashboards", str(files.JSON)))
    environment = {"GF_PATHS_PROVISIONING": str(provisioning), "GRAFANA_CLICKHOUSE_PASSWORD": "of-the-reader"}
    bundle = committed()
    uids = {dashboard["uid"] for dashboard in bundle.dashboards.values()}
    with grafana(tmp_path / "grafana", **environment) as one:
        until = time.monotonic() + 60
        while {found["uid"] for found in one.ask("GET", "/search?type=dash-db")} != uids:
            assert time.monotonic() < until
            time.sleep(0.5)
        sources = {source["uid"]: source for source in one.ask("GET", "/datasources")}
        assert sources.keys() == {CLICKHOUSE, PROMETHEUS}
        assert one.ask("GET", f"/datasources/uid/{CLICKHOUSE}")["secureJsonFields"] == {"password": True}
        for group in bundle.alerts:
            for rule in group["rules"]:
                theirs = one.ask("GET", f"/v1/provisioning/alert-rules/{rule['uid']}")
                expected = {key: value for key, value in rule.items() if key != "data"}
                assert contains(theirs, expected), rule["title"]
                assert contains(
                    [query["model"] for query in theirs["data"]], [query["model"] for query in rule["data"]]
                )
        chosen = {"url": one.url, "user": USER, "password": PASSWORD}
        using = Settings(_env_file=None, grafana=chosen)
        kept = fates(push(using, dry_run=True))
        assert kept.pop("folder Calltide") == "created", "it has no uid of ours there"
        assert set(kept.values()) == {"kept"}
