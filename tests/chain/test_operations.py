"""The dashboard Operations against a real Prometheus that scrapes the running chain, and its files under promtool.

Both programs are of Debian's package `prometheus`; any others of these names on the PATH do as well.
"""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from dashboards import files
from deploy.process import free_port
from tests.chain.support import ROOT, Stack, until

DEPLOY = ROOT / "deploy" / "prometheus"
WITHIN = {"$__rate_interval": "1m", "$__range": "5m"}
MAY_BE_NONE = {"From the last sample to interim words"}
"""A machine that is busy with other things skips interim results: then there is a series without a number."""


def program(name: str) -> str:
    """Where it is; skips the test where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: apt install prometheus")
    return found


def promtool(*arguments: str | Path) -> None:
    """Run it; what it finds is the failure."""
    done = subprocess.run([program("promtool"), *arguments], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "up.yml"])
def test_promtool_takes_the_configurations(name: str) -> None:
    promtool("check", "config", DEPLOY / name)


def test_promtool_sees_every_alert_fire_when_it_should() -> None:
    promtool("test", "rules", DEPLOY / "rules.test.yml")
    rules = [rule for group in read_rules()["groups"] for rule in group["rules"]]
    tests = yaml.safe_load((DEPLOY / "rules.test.yml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test.get("alert_rule_test", []) if one["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules if "alert" in rule}


def read_rules() -> Any:
    return yaml.safe_load((DEPLOY / "rules.yml").read_text())


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **fields: object) -> Any:
        """What it answers. Raises HTTPError for a query that is none."""
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(fields)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            return bool(self.get("status/buildinfo"))
        except (URLError, OSError):
            return False

    def series(self, target: dict[str, Any], none_too: bool = False) -> list[dict[str, str]]:
        """The labels of the series that a panel's query gives, of those that have a number, or of all."""
        expr = target["expr"]
        for variable, value in WITHIN.items():
            expr = expr.replace(variable, value)
        assert "$" not in expr
        found = self.get("query", query=expr)["result"]
        return [one["metric"] for one in found if none_too or not math.isnan(float(one["value"][1]))]


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that reads the running chain by deploy/prometheus/up.yml, every second."""
    executable, home, port = program("prometheus"), tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((DEPLOY / "up.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    first = int(stack.env["CALLTIDE_METRICS__PORT"])
    for one in config["scrape_configs"][0]["static_configs"]:
        one["targets"] = [f"127.0.0.1:{first + int(target.split(':')[1]) - 9400}" for target in one["targets"]]
    rules = read_rules()
    for group in rules["groups"]:
        group.pop("interval", None)
    (home / "rules.yml").write_text(yaml.safe_dump(rules))
    (home / "up.yml").write_text(yaml.safe_dump(config))
    options = [f"--config.file={home / 'up.yml'}", f"--storage.tsdb.path={home / 'data'}"]
    with (home / "log").open("w") as log:
        running = subprocess.Popen([executable, *options, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)
        try:
            api = Prometheus(port)
            until(lambda: api.answers() or running.poll() is not None, "Prometheus answers")
            assert running.poll() is None, (home / "log").read_text()
            yield api
        finally:
            running.terminate()
            running.wait(30)


@pytest.mark.kafka
@pytest.mark.models
@pytest.mark.slow
def test_every_panel_shows_something_of_a_running_chain(stack: Stack, prometheus: Prometheus) -> None:
    processes = yaml.safe_load((DEPLOY / "up.yml").read_text())["scrape_configs"][0]["static_configs"]
    until(lambda: len(prometheus.series({"expr": "up == 1"})) == len(processes), "all targets are read")
    calls = [
        stack.begin("load", "--protocol", protocol, "--calls", "1", "--minutes", "0.15", *more)
        for protocol, more in (("twilio", ()), ("listen", ("--interim",)))
    ]
    for call in calls:
        assert call.wait(180) == 0, call.communicate()[1]
    board = files.committed()["operations"]
    targets = [(panel["title"], target) for panel in files.panels(board) for target in panel["targets"]]
    left = targets

    def answered() -> bool:
        nonlocal left
        left = [(title, target) for title, target in left if not prometheus.series(target, title in MAY_BE_NONE)]
        return not left

    try:
        until(answered, "every query has an answer", 50)
    except AssertionError:
        raise AssertionError(f"no answer: {[(title, target['expr']) for title, target in left]}") from None
    for title, target in targets:
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert all(named <= series.keys() for series in prometheus.series(target)), title


@pytest.mark.kafka
@pytest.mark.models
@pytest.mark.slow
def test_the_rules_run_and_nothing_is_wrong_with_a_chain_that_works(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    until(lambda: all(rule["health"] == "ok" for rule in rules()), f"all rules are evaluated: {rules()}")
    assert [rule["name"] for rule in rules() if rule.get("state") == "firing"] == []
    assert prometheus.series({"expr": "calltide:end_to_end_seconds:p95_5m"})
