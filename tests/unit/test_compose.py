"""The deployment files name nothing that the code does not have: settings, commands, stages, ports, topics, metrics.

The files are not run here (docs/deploy.md says so), so this is what keeps them true.
"""

import importlib
import json
import re
import threading
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import prometheus_client
import pytest
import typer
import yaml

from dashboards import files, provisioning
from schemas.errors import CalltideError
from schemas.topics import INTERIM_RETENTION_MS, REPLAYED_RETENTION_MS, STAGES, topics
from streams import grafana, webhooks
from streams.cli import app
from streams.ingestion.auth import Networks
from streams.ingestion.routes import check_open
from streams.llm import worker
from streams.settings import PREFIX, Settings, names
from streams.web import gateway_address

ROOT = Path(__file__).resolve().parents[2]
METRICS_PORT = "9100"


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


COMPOSE = read_yaml("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WORKERS = {name: service for name, service in OURS.items() if name != "topics"}
PROFILES = {name: service for name, service in WORKERS.items() if "profiles" in service}
"""What starts only when it is asked for."""


def settings_of(service: dict[str, Any]) -> dict[str, str]:
    """A service's variables that are ours and have a value."""
    variables = service.get("environment", {}).items()
    return {name: value for name, value in variables if name.startswith(PREFIX) and value is not None}


def passed_on(service: dict[str, Any]) -> set[str]:
    """A service's variables whose values come from the .env file."""
    return {name for name, value in service.get("environment", {}).items() if value is None}


def published(service: dict[str, Any]) -> dict[int, tuple[str, int]]:
    """Port in the container → (address, port) on the machine."""
    ports = (port.split(":") for port in service.get("ports", ()))
    return {int(inside): (address, int(outside)) for address, outside, inside in ports}


def with_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Settings:
    """The settings a process with these variables, and no others of ours, has."""
    for name in names():
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


def test_every_stage_has_a_service_and_no_other_has() -> None:
    stages = {name: service["command"][1] for name, service in OURS.items() if service["command"][0] == "stage"}
    assert stages == {row.name: row.name for row in STAGES}
    assert set(WORKERS) == set(stages) | {"sink", "gateway", "web", "serve", "webhooks", "llm"}
    assert {name: service["profiles"] for name, service in PROFILES.items()} == {
        "webhooks": ["webhooks"],
        "llm": ["llm"],
    }


def test_a_profile_gets_all_its_settings_and_nobody_else_has_to_give_them() -> None:
    """Compose wants the `${…:?}` of services that it does not start, too: these are no such variables."""
    for name, service in WORKERS.items():
        section = {variable for variable in names() if variable.startswith(f"{PREFIX}{name.upper()}__")}
        # Without keys these two start, and answer nobody.
        asks = {"CALLTIDE_API__KEYS"} if name in ("gateway", "web") else set()
        assert passed_on(service) == (section if name in PROFILES else asks)
    assert f"${{{PREFIX}" not in (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize(
    ("name", "wanted"), [("webhooks", "CALLTIDE_WEBHOOKS__ENDPOINTS"), ("llm", "CALLTIDE_LLM__URL")]
)
def test_a_profile_that_is_told_nothing_says_what_it_wants(
    name: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_environment(monkeypatch, settings_of(SERVICES[name]))
    run = {"webhooks": webhooks.run, "llm": worker.run}[name]
    with pytest.raises(CalltideError, match=wanted):
        run(settings, threading.Event())


@pytest.mark.parametrize("name", OURS)
def test_commands_exist(name: str) -> None:
    words = list(SERVICES[name]["command"])
    command = typer.main.get_command(app)
    context = typer.Context(command)
    while words and hasattr(command, "get_command"):
        word = words.pop(0)
        found = command.get_command(context, word)
        assert found is not None, f"calltide has no command {word}"
        command, context = found, typer.Context(found, parent=context)
    # Parses arguments and options as the command line would; raises for one that does not exist.
    command.make_context(name, words)


@pytest.mark.parametrize("name", OURS)
def test_variables_exist_and_their_values_are_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = settings_of(SERVICES[name])
    assert variables.keys() <= names().keys()
    settings = with_environment(monkeypatch, variables)
    assert settings.bootstrap_servers == "kafka:19092"
    assert settings.clickhouse.url is not None


def test_containers_reach_kafka_and_clickhouse_where_they_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, settings_of(SERVICES["sink"]))
    advertised = dict(
        listener.split("://") for listener in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    assert advertised["INTERNAL"] == settings.bootstrap_servers
    address, port = published(SERVICES["kafka"])[9092]
    assert (address, advertised["EXTERNAL"]) == ("127.0.0.1", f"localhost:{port}")
    clickhouse = SERVICES["clickhouse"]["environment"]
    assert clickhouse["CLICKHOUSE_DB"] == settings.clickhouse.database
    user, password = clickhouse["CLICKHOUSE_USER"], clickhouse["CLICKHOUSE_PASSWORD"]
    assert settings.clickhouse.url == f"http://{user}:{password}@clickhouse:{settings.clickhouse.port}"


def test_gateway_and_page_listen_on_the_published_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gateway", "web"):
        section = getattr(with_environment(monkeypatch, settings_of(SERVICES[name])), name)
        assert section.host == "0.0.0.0"
        assert published(SERVICES[name]) == {section.port: ("127.0.0.1", section.port)}


def test_phone_systems_find_the_server_at_the_published_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = with_environment(monkeypatch, settings_of(SERVICES["serve"])).serve
    assert serve.host == "0.0.0.0"
    ports = (serve.port, serve.audiosocket_port)
    assert published(SERVICES["serve"]) == {port: ("127.0.0.1", port) for port in ports}
    check_open(serve)
    assert "172.18.0.1" in Networks(serve.audiosocket_networks), "this machine, as a container sees it"


def test_the_page_sends_browsers_to_the_published_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    address = gateway_address(with_environment(monkeypatch, settings_of(SERVICES["web"])), "localhost")
    (outside,) = published(SERVICES["gateway"]).values()
    assert urlsplit(address).netloc == f"localhost:{outside[1]}"


def test_nothing_is_published_beyond_this_machine() -> None:
    for service in SERVICES.values():
        assert all(address == "127.0.0.1" for address, _ in published(service).values())


def test_programs_on_this_machine_find_kafka_and_clickhouse_by_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, {})
    assert settings.broker.port in published(SERVICES["kafka"])
    assert settings.clickhouse.port in published(SERVICES["clickhouse"])


def test_the_broker_takes_the_largest_message_the_topics_allow() -> None:
    largest = max(int(topic.config["max.message.bytes"]) for topic in topics())
    assert int(SERVICES["kafka"]["environment"]["KAFKA_MESSAGE_MAX_BYTES"]) == largest


def test_no_password_has_a_default() -> None:
    variables = re.findall(r"\$\{[^}]*\}", (ROOT / "docker-compose.yml").read_text())
    assert variables
    assert all(":?" in variable for variable in variables)


def test_images_are_named_by_tag_and_digest() -> None:
    for name, service in SERVICES.items():
        if name not in OURS:
            assert re.fullmatch(r"[a-z/-]+:v?[0-9.]+@sha256:[0-9a-f]{64}", service["image"]), name


def test_the_embedded_broker_and_the_container_are_the_same_kafka() -> None:
    roots = json.loads((ROOT / "deploy" / "kafka" / "jars.json").read_text())["roots"]
    version = next(root.split(":")[2] for root in roots if root.startswith("org.apache.kafka:kafka_"))
    assert SERVICES["kafka"]["image"].startswith(f"apache/kafka:{version}@")


def test_volumes_and_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_the_image_has_all_packages_and_only_existing_files() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = [source for line in re.findall(r"^COPY (.+)$", dockerfile, re.M) for source in line.split()[:-1]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied)
    assert f"calltide:{project['project']['version']}" == OURS["vad"]["image"]
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}" in ignore


def test_prometheus_reads_every_process_that_has_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_yaml("deploy/prometheus/prometheus.yml")
    (job,) = config["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    # A service that is not started is no target that does not answer, which would be an alert.
    assert sorted(targets) == sorted(f"{name}:{METRICS_PORT}" for name in WORKERS.keys() - PROFILES.keys())
    (found,) = job["dns_sd_configs"]
    assert (sorted(found["names"]), found["type"], str(found["port"])) == (sorted(PROFILES), "A", METRICS_PORT)
    for service in WORKERS.values():
        metrics = with_environment(monkeypatch, settings_of(service)).metrics
        assert (metrics.host, str(metrics.port)) == ("0.0.0.0", METRICS_PORT)


def test_prometheus_finds_its_rules() -> None:
    for name in ("prometheus", "up"):
        assert read_yaml(f"deploy/prometheus/{name}.yml")["rule_files"] == ["rules.yml"]
    for name in ("prometheus", "rules"):
        mounted = f"./deploy/prometheus/{name}.yml:/etc/prometheus/{name}.yml:ro"
        assert mounted in SERVICES["prometheus"]["volumes"]


def test_processes_have_the_same_names_for_prometheus_wherever_they_run() -> None:
    """The dashboard Operations names them by the label `process`."""
    (job,) = read_yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    found = [{"__address__": target} for target in targets]
    found += [{"__address__": f"172.18.0.9:{METRICS_PORT}", "__meta_dns_name": name} for name in PROFILES]
    for labels in found:
        # As Prometheus does, whose regexes are anchored; a label that is not there is empty.
        for rule in job["relabel_configs"]:
            (source,) = rule["source_labels"]
            if match := re.fullmatch(rule["regex"], labels.get(source, "")):
                labels[rule["target_label"]] = match.expand(rule.get("replacement", "$1").replace("$", "\\"))
    assert {labels["process"] for labels in found} == set(WORKERS)
    assert {labels.get("instance", labels["__address__"]) for labels in found} == {
        f"{name}:{METRICS_PORT}" for name in WORKERS
    }


def test_grafana_has_the_sources_that_a_push_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_environment(monkeypatch, {})
    clickhouse = f"http://grafana:$GRAFANA_CLICKHOUSE_PASSWORD@clickhouse:{settings.clickhouse.port}"
    prometheus = f"http://prometheus:{min(published(SERVICES['prometheus']))}"
    assert {"clickhouse", "prometheus"} <= SERVICES.keys()
    assert read_yaml("deploy/grafana/provisioning/datasources/calltide.yml")["datasources"] == [
        grafana.clickhouse_source(clickhouse, settings.clickhouse) | {"isDefault": True},
        grafana.prometheus_source(prometheus),
    ]
    assert SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"] == grafana.PLUGIN
    for name in ("prometheus", "up"):
        assert read_yaml(f"deploy/prometheus/{name}.yml")["global"]["scrape_interval"] == grafana.SCRAPE_INTERVAL


def test_grafanas_user_of_clickhouse_only_reads() -> None:
    user = ElementTree.parse(ROOT / "deploy" / "clickhouse" / "grafana-user.xml").getroot()
    (password,) = user.iter("password")
    for service in ("clickhouse", "grafana"):
        assert password.attrib["from_env"] in SERVICES[service]["environment"]
    assert user.findtext("profiles/grafana/readonly") == "2"
    assert user.findtext("users/grafana/profile") == "grafana"
    database = SERVICES["clickhouse"]["environment"]["CLICKHOUSE_DB"]
    assert [query.text for query in user.iter("query")] == [f"GRANT SELECT ON {database}.*"]


def test_grafana_has_the_dashboards_and_alert_rules_that_a_push_makes() -> None:
    (provider,) = read_yaml("deploy/grafana/provisioning/dashboards/calltide.yml")["providers"]
    mounted = f"./{files.JSON.relative_to(ROOT)}:{provider['options']['path']}:ro"
    assert mounted in SERVICES["grafana"]["volumes"]
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in SERVICES["grafana"]["volumes"]
    # By its title alone, which is how Grafana finds the alert rules' folder: they come first and make it.
    assert provider["folder"] == provisioning.FOLDER == grafana.FOLDER_TITLE
    assert "folderUid" not in provider
    assert provisioning.FILE.read_text(encoding="utf-8") == provisioning.text(), "`python -m dashboards` writes it"


def test_dashboards_and_alert_rules_ask_for_metrics_that_exist() -> None:
    for module in ("gateway", "ingestion.metrics", "runtime", "sink", "supervisor"):
        importlib.import_module(f"streams.{module}")
    known = {
        metric.name + suffix
        for metric in prometheus_client.REGISTRY.collect()
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
    }
    expressions = [query.text for query in files.queries() if query.source == "prometheus"]
    expressions += [
        query["model"]["expr"]
        for group in grafana.committed().alerts
        for rule in group["rules"]
        for query in rule["data"]
        if query["datasourceUid"] == grafana.PROMETHEUS
    ]
    assert expressions
    expressions += [
        rule["expr"] for group in read_yaml("deploy/prometheus/rules.yml")["groups"] for rule in group["rules"]
    ]
    assert {
        name for expression in expressions for name in re.findall(r"(?<![\w:])calltide_\w+\b(?!:)", expression)
    } <= known


def test_the_topics_in_the_docs_are_the_table() -> None:
    rows = re.findall(
        r"^\| `([a-z.]+)` \| (\d+) \| (\w+) \| (.+?) \|$", (ROOT / "docs" / "deploy.md").read_text(), re.M
    )
    kept = {topic.retention_ms: f"{topic.retention_ms // 86_400_000} days" for topic in topics()}
    kept |= {-1: "for ever", INTERIM_RETENTION_MS: "1 minute", REPLAYED_RETENTION_MS: "1 hour"}
    assert rows == [(t.name, str(t.partitions), t.cleanup, kept[t.retention_ms]) for t in topics()]
