"""`calltide dashboards export` and `push`: what is sent to Grafana, when, and what people are told.

Every request is held to Grafana's published models, the typed ones of its Go client (grafana_models/); a real Grafana
is asked in tests/grafana/.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from typer.testing import CliRunner

from deploy.process import free_port
from schemas.errors import CalltideError
from streams import grafana as pushing
from streams.cli import app
from streams.grafana import CLICKHOUSE, FOLDER, PROMETHEUS, Bundle, Change, Push, committed
from streams.settings import Settings
from tests.analytics.grafana_imitation import PASSWORD, TOKEN, USER, Grafana, Request, imitation

MODELS = Path(__file__).with_name("grafana_models")


def settings(there: Grafana, **more: Any) -> Settings:
    chosen = {"url": there.url, "token": TOKEN} | more.pop("grafana", {})
    return Settings(_env_file=None, grafana=chosen, **more)


def push(
    grafana: Grafana, bundle: Bundle | None = None, *, using: Settings | None = None, **options: Any
) -> list[Change]:
    one = Push(using or settings(grafana), bundle or committed(), **options)
    one.about()
    return list(one.run())


def fates(changes: list[Change]) -> set[str]:
    return {change.fate for change in changes}


def copy(bundle: Bundle) -> Bundle:
    return Bundle(*json.loads(json.dumps([bundle.dashboards, bundle.alerts])))


def of(changes: list[Change], kind: str) -> list[Change]:
    return [change for change in changes if change.kind == kind]


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    with imitation() as running:
        yield running


def test_everything_is_created_and_a_second_push_sends_nothing(grafana: Grafana) -> None:
    bundle = committed()
    first = push(grafana)
    assert fates(first) == {"created"}
    assert set(grafana.folders) == {FOLDER}
    assert set(grafana.sources) == {CLICKHOUSE, PROMETHEUS}
    assert set(grafana.dashboards) == {dashboard["uid"] for dashboard in bundle.dashboards.values()}
    assert {found["meta"]["folderUid"] for found in grafana.dashboards.values()} == {FOLDER}
    assert {rule["uid"] for group in grafana.groups.values() for rule in group["rules"]} == {
        rule["uid"] for group in bundle.alerts for rule in group["rules"]
    }
    sent = len(grafana.writes())
    assert fates(push(grafana)) == {"unchanged"}
    assert len(grafana.writes()) == sent


def test_what_differs_is_changed_and_shown(grafana: Grafana) -> None:
    push(grafana)
    bundle = copy(committed())
    dashboard = next(iter(bundle.dashboards.values()))
    panel = next(panel for panel in dashboard["panels"] if panel["type"] != "row")
    was, panel["description"] = panel["description"], "Another description."
    rule = bundle.alerts[0]["rules"][0]
    rule["for"] = "17m"
    sent = len(grafana.writes())

    would = push(grafana, bundle, dry_run=True)
    assert len(grafana.writes()) == sent
    shown = [change for change in would if change.fate != "unchanged"]
    assert [(change.kind, change.name) for change in shown] == [
        ("dashboard", dashboard["title"]),
        ("alert rules", bundle.alerts[0]["title"]),
    ]
    place = f"panels[{panel['title']}].description"
    assert shown[0].diff == (f"- {place}: {json.dumps(was)}", f'+ {place}: "Another description."')
    assert shown[1].diff[1] == f'+ rules[{rule["title"]}].for: "17m"'
    assert len(shown[1].diff) == 2

    done = push(grafana, bundle)
    assert [change for change in done if change.fate != "unchanged"] == shown
    assert grafana.dashboards[dashboard["uid"]]["dashboard"]["panels"] == dashboard["panels"]
    assert fates(push(grafana, bundle)) == {"unchanged"}


def test_a_dashboard_that_grafana_rewrites_is_unchanged_still(grafana: Grafana) -> None:
    grafana.rewrites = True
    push(grafana)
    assert fates(push(grafana)) == {"unchanged"}


def test_what_people_edited_is_kept_unless_forced(grafana: Grafana) -> None:
    push(grafana)
    uid = committed().dashboards["floor"]["uid"]
    grafana.edit(uid, lambda dashboard: dashboard.update(description="Ours now."))
    (kept,) = (change for change in push(grafana) if change.fate != "unchanged")
    assert kept.fate == "kept"
    assert "ann" in kept.note
    assert '- description: "Ours now."' in kept.diff
    assert grafana.dashboards[uid]["dashboard"]["description"] == "Ours now."
    (replaced,) = (change for change in push(grafana, force=True) if change.fate != "unchanged")
    assert replaced.fate == "changed"
    assert grafana.dashboards[uid]["dashboard"]["description"] != "Ours now."


def test_a_dashboard_stays_in_the_folder_that_people_moved_it_to(grafana: Grafana) -> None:
    push(grafana)
    uid = committed().dashboards["floor"]["uid"]
    grafana.dashboards[uid]["meta"]["folderUid"] = "team"
    bundle = copy(committed())
    bundle.dashboards["floor"]["description"] = "A later version."
    push(grafana, bundle)
    assert grafana.dashboards[uid]["meta"]["folderUid"] == "team"


def test_what_came_from_files_is_left_to_them(grafana: Grafana) -> None:
    push(grafana)
    uid = committed().dashboards["floor"]["uid"]
    grafana.dashboards[uid]["meta"]["provisioned"] = True
    grafana.sources[CLICKHOUSE]["readOnly"] = True
    title = committed().alerts[0]["title"]
    grafana.groups["of files"] = grafana.groups.pop(title)
    for rule in grafana.groups["of files"]["rules"]:
        rule["provenance"] = "file"
    sent = len(grafana.writes())
    kept = [change for change in push(grafana) if change.fate != "unchanged"]
    kinds = ["data source", "dashboard", "alert rules"]
    assert [(change.kind, change.fate) for change in kept] == [(kind, "kept") for kind in kinds]
    assert len(grafana.writes()) == sent


def test_the_data_source_is_where_grafana_finds_clickhouse(grafana: Grafana) -> None:
    using = settings(grafana, grafana={"clickhouse_url": "https://reader:p%40ss%3Aw@scores.example/ch"})
    push(grafana, using=using)
    stored = grafana.sources[CLICKHOUSE]
    expected = {"host": "scores.example", "port": 8443, "secure": True, "path": "ch", "username": "reader"}
    assert expected.items() <= stored["jsonData"].items()
    assert grafana.secrets[CLICKHOUSE] == {"password": "p@ss:w"}
    # Where it is for us, if nothing else was said.
    (changed,) = (change for change in push(grafana) if change.fate != "unchanged")
    assert '- jsonData.host: "scores.example"' in changed.diff
    assert grafana.sources[CLICKHOUSE]["jsonData"]["host"] == "127.0.0.1"


def test_the_embedded_clickhouse_is_only_read(grafana: Grafana) -> None:
    using = settings(grafana, clickhouse={"password": "for-all"})
    push(grafana, using=using)
    assert grafana.sources[CLICKHOUSE]["jsonData"]["username"] not in ("", using.clickhouse.user)
    assert grafana.secrets[CLICKHOUSE] == {"password": "for-all"}


def test_grafana_is_not_given_the_user_that_writes(grafana: Grafana) -> None:
    server = {"url": "http://calltide:secret@clickhouse:8123"}
    with pytest.raises(CalltideError, match="only reads; .* set CALLTIDE_GRAFANA__CLICKHOUSE_URL"):
        push(grafana, using=settings(grafana, clickhouse=server))
    reader = {"clickhouse_url": "http://reader:open@clickhouse:8123"}
    push(grafana, using=settings(grafana, grafana=reader, clickhouse=server))
    assert grafana.secrets[CLICKHOUSE] == {"password": "open"}


def test_what_people_set_on_a_data_source_beyond_ours_stays(grafana: Grafana) -> None:
    push(grafana)
    grafana.sources[CLICKHOUSE]["isDefault"] = True
    grafana.sources[CLICKHOUSE]["jsonData"] |= {"queryTimeout": "10"}
    assert fates(push(grafana)) == {"unchanged"}
    push(grafana, using=settings(grafana, clickhouse={"port": 18123}))
    assert grafana.sources[CLICKHOUSE]["isDefault"]
    assert {"queryTimeout": "10", "port": 18123}.items() <= grafana.sources[CLICKHOUSE]["jsonData"].items()


def test_a_password_is_sent_anew_when_the_old_one_does_not_work(grafana: Grafana) -> None:
    old, new = (f"http://reader:{password}@127.0.0.1:8123" for password in ("old-secret", "new-secret"))
    push(grafana, using=settings(grafana, grafana={"clickhouse_url": old}))
    using = settings(grafana, grafana={"clickhouse_url": new})
    assert fates(push(grafana, using=using)) == {"unchanged"}, "it works, and cannot be read back"
    grafana.unwell[CLICKHOUSE] = "[auth] Authentication failed"
    (change,) = (change for change in push(grafana, using=using) if change.fate != "unchanged")
    assert "Authentication failed" in change.note
    assert "secret" not in repr(change)
    assert grafana.secrets[CLICKHOUSE] == {"password": "new-secret"}


def test_by_user_and_password(grafana: Grafana) -> None:
    using = settings(grafana, grafana={"token": "", "user": USER, "password": PASSWORD})
    assert fates(push(grafana, using=using)) == {"created"}


def test_grafana_under_a_path(grafana: Grafana) -> None:
    with pytest.raises(CalltideError, match="is not Grafana"):
        push(grafana, using=settings(grafana, grafana={"url": f"{grafana.url}/monitoring"}))
    assert grafana.requests[-1].path == "/monitoring/api/health"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"token": "wrong"}, r"does not know who asks; check CALLTIDE_GRAFANA__TOKEN"),
        ({"token": "", "user": USER, "password": "wrong"}, r"check CALLTIDE_GRAFANA__USER and"),
        ({"token": ""}, r"nobody to push as; set CALLTIDE_GRAFANA__TOKEN"),
        ({"url": "grafana:3000"}, r"CALLTIDE_GRAFANA__URL is no address"),
        ({"url": "http://me:wrong@grafana:port"}, r"CALLTIDE_GRAFANA__URL is no address"),
    ],
)
def test_who_asks_must_be_known(grafana: Grafana, given: dict[str, str], said: str) -> None:
    with pytest.raises(CalltideError, match=said) as caught:
        push(grafana, using=settings(grafana, grafana=given))
    assert "wrong" not in str(caught.value)
    assert not grafana.writes()


def test_a_missing_right_is_named(grafana: Grafana) -> None:
    grafana.forbidden = "/datasources"
    with pytest.raises(CalltideError, match="not allowed to make the data source Calltide .* role Admin"):
        push(grafana)


def test_a_missing_plugin_is_named_before_anything_is_sent(grafana: Grafana) -> None:
    grafana.plugins.remove("grafana-clickhouse-datasource")
    with pytest.raises(CalltideError, match="grafana cli plugins install grafana-clickhouse-datasource"):
        push(grafana)
    assert not grafana.writes()


def test_a_refusal_says_what_grafana_said(grafana: Grafana) -> None:
    grafana.sources["other"] = {"name": "Calltide"}
    with pytest.raises(CalltideError, match="would not make the data source Calltide: data source with the same name"):
        push(grafana)


def test_an_older_grafana_is_warned_of(grafana: Grafana) -> None:
    grafana.version = "11.6.1"
    assert "need Grafana 12.1" in Push(settings(grafana), committed()).about()[1]
    grafana.version = "12.1.0"
    assert Push(settings(grafana), committed()).about()[1] == ""


def test_who_is_sent_elsewhere_is_told(grafana: Grafana) -> None:
    grafana.elsewhere = "https://grafana.example"
    with pytest.raises(
        CalltideError, match="sends us on to https://grafana.example/api/health; set CALLTIDE_GRAFANA__"
    ):
        push(grafana)


def test_a_prometheus_with_a_password(grafana: Grafana) -> None:
    using = settings(grafana, grafana={"prometheus_url": "https://reader:p%40ss@prometheus.example/prom"})
    push(grafana, using=using)
    stored = grafana.sources[PROMETHEUS]
    assert stored["url"] == "https://prometheus.example/prom"
    assert (stored["basicAuth"], stored["basicAuthUser"]) == (True, "reader")
    assert grafana.secrets[PROMETHEUS] == {"basicAuthPassword": "p@ss"}
    assert fates(push(grafana, using=using)) == {"unchanged"}


def test_nobody_there(grafana: Grafana) -> None:
    port = free_port()
    with pytest.raises(CalltideError, match=f"cannot reach Grafana at http://127.0.0.1:{port}; start it"):
        push(grafana, using=settings(grafana, grafana={"url": f"http://127.0.0.1:{port}"}))


def test_the_command_says_what_it_did(grafana: Grafana, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from streams import settings as all_settings

    all_settings.load.cache_clear()
    monkeypatch.setattr(all_settings, "load", lambda: settings(grafana))
    runner = CliRunner()
    first = runner.invoke(app, ["dashboards", "push", "--dry-run"], catch_exceptions=False).output
    assert first.startswith(f"Grafana 13.2.3 at {grafana.url}, organisation Main Org.\n")
    assert not grafana.writes()
    assert "would be created" in first
    exported = tmp_path / "deep" / "dashboards-of-ours"
    written = runner.invoke(app, ["dashboards", "export", str(exported)], catch_exceptions=False).output.splitlines()
    assert f"{exported}/dashboards/floor.json" in written
    assert pushing.read(exported) == committed()
    assert "created" in runner.invoke(app, ["dashboards", "push", str(exported)], catch_exceptions=False).output
    again = runner.invoke(app, ["dashboards", "push"], catch_exceptions=False).output
    assert "created" not in again
    assert again.count("unchanged") == len(again.splitlines()) - 1
    assert TOKEN not in first + again


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("dashboards/floor.json", "{", "cannot read .*floor.json"),
        ("dashboards/floor.json", "[]", "floor.json is not what"),
        ("dashboards/floor.json", "{}", "floor.json has no uid and title"),
        ("alerts.json", "{}", "alerts.json is not what"),
        ("alerts.json", '["x"]', "alerts.json has a group without"),
        ("alerts.json", '[{"title": "x", "interval": 60, "rules": [{"uid": "x"}]}]', "a rule without uid and title"),
    ],
)
def test_a_file_at_fault_is_named(tmp_path: Path, file: str, content: str, said: str) -> None:
    pushing.export(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(CalltideError, match=said):
        pushing.read(tmp_path)


def test_a_directory_without_dashboards_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="no dashboards in"):
        pushing.read(tmp_path)


# Grafana's published models: of a dashboard's JSON, and of its HTTP API

OPERATIONS = {
    ("GET", "/health"): ("", "HealthResponse"),
    ("GET", "/org"): ("", "OrgDetailsDTO"),
    ("GET", "/folders/{folder_uid}"): ("", "Folder"),
    ("POST", "/folders"): ("CreateFolderCommand", "Folder"),
    ("GET", "/datasources/uid/{uid}"): ("", "DataSource"),
    ("POST", "/datasources"): ("AddDataSourceCommand", ""),
    ("PUT", "/datasources/uid/{uid}"): ("UpdateDataSourceCommand", ""),
    ("GET", "/datasources/uid/{uid}/health"): ("", ""),
    ("GET", "/dashboards/uid/{uid}"): ("", "DashboardFullWithMeta"),
    ("GET", "/dashboards/uid/{uid}/versions"): ("", ""),
    ("POST", "/dashboards/db"): ("SaveDashboardCommand", ""),
    ("GET", "/v1/provisioning/alert-rules/{UID}"): ("", "ProvisionedAlertRule"),
    ("POST", "/v1/provisioning/alert-rules"): ("ProvisionedAlertRule", "ProvisionedAlertRule"),
    ("GET", "/v1/provisioning/folder/{FolderUID}/rule-groups/{Group}"): ("", "AlertRuleGroup"),
    ("PUT", "/v1/provisioning/folder/{FolderUID}/rule-groups/{Group}"): ("AlertRuleGroup", "AlertRuleGroup"),
}
"""Method and path of each operation that a push uses → models of what is sent and answered; none: not modelled."""

UNPUBLISHED = {("GET", "/plugins")}
"""Not in the description of Grafana's API; its own page of plugins uses it."""


def operation(request: Request) -> tuple[str, str]:
    """The published operation of a request."""
    for method, path in OPERATIONS:
        if method == request.method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.path):
            return method, path
    return request.method, request.path


def through_the_schema(dashboard: dict[str, Any]) -> Any:
    """A dashboard as Grafana's schema has it, by the types that are made from it: what it does not know is lost."""
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


@pytest.mark.parametrize("name", committed().dashboards)
def test_a_dashboard_has_no_field_that_grafanas_schema_lacks(name: str) -> None:
    dashboard = copy(committed()).dashboards[name]
    assert pushing.contains(through_the_schema(dashboard), dashboard)
    dashboard["panels"][0]["fieldConfig" if "fieldConfig" in dashboard["panels"][0] else "gridPos"]["colour"] = "red"
    assert not pushing.contains(through_the_schema(dashboard), dashboard), "this test cannot fail"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that has Grafana's typed models. Go keeps what it has built, so only the first time takes long."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed, and Grafana's published models are in Go")
    modules = subprocess.run(
        [go, "mod", "download"], cwd=MODELS, capture_output=True, text=True, timeout=60, check=False
    )
    if modules.returncode:
        pytest.skip(f"Go's modules cannot be fetched ({modules.stderr.strip()[:100]}); Grafana's models are among them")
    built = tmp_path_factory.mktemp("go") / "models"
    subprocess.run([go, "build", "-o", built, "."], cwd=MODELS, check=True, timeout=240)
    return built


def faults(models: Path, bodies: list[tuple[str, bool, Any]]) -> list[str]:
    """What Grafana's models say against these (model, is an answer, body)."""
    given = "\n".join(json.dumps({"model": model, "answer": answer, "body": body}) for model, answer, body in bodies)
    told = subprocess.run([models], input=given, capture_output=True, text=True, timeout=60, check=True)
    return told.stdout.splitlines()


@pytest.mark.timeout(300)
def test_all_that_is_sent_is_as_grafana_publishes_it(grafana: Grafana, models: Path) -> None:
    password = "http://reader:secret@127.0.0.1:8123"
    push(grafana, using=settings(grafana, grafana={"clickhouse_url": password}))
    bundle = copy(committed())
    for dashboard in bundle.dashboards.values():
        dashboard["description"] = "A later version."
    for group in bundle.alerts:
        group["interval"] *= 2
    changed = push(grafana, bundle, using=settings(grafana, clickhouse={"port": 18123}))
    assert {change.kind for change in changed if change.fate == "changed"} == {
        "data source",
        "dashboard",
        "alert rules",
    }

    done = [(operation(request), request) for request in grafana.requests]
    assert {one for one, _ in done} == set(OPERATIONS) | UNPUBLISHED
    sent = [(OPERATIONS[one][0], False, request.body) for one, request in done if OPERATIONS.get(one, ("",))[0]]
    answers = [
        (OPERATIONS[one][1], True, request.answer)
        for one, request in done
        if one in OPERATIONS and OPERATIONS[one][1] and request.status == 200
    ]
    assert len(sent) == len(grafana.writes())
    assert not faults(models, sent + answers)


def test_the_models_find_faults(models: Path) -> None:
    assert len(faults(models, [("CreateFolderCommand", False, {"titel": "x"})])) == 1
    assert faults(models, [("AlertRuleGroup", False, {"title": "x", "rules": [{"uid": "a b"}]})])


def test_the_operations_are_published(models: Path) -> None:
    listed = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/grafana/grafana-openapi-client-go"],
        cwd=MODELS, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    client = Path(listed.stdout.strip()) / "client"
    published = {
        found
        for file in client.glob("*/*_client.go")
        for found in re.findall(r'Method: +"(\w+)",\s+PathPattern: +"([^"]+)"', file.read_text())
    }
    assert set(OPERATIONS) <= published
    assert not UNPUBLISHED & published
