"""Every alert rule fires when it should and not before: on the generated month, and on made series under promtool.

Grafana's part, reduce and threshold, is worked out here (its pkg/expr: mathexp/reduce.go, threshold.go).
"""

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.files import ALERTS
from streams.analytics.traffic import SOUR_HOURS, SOUR_QUEUE, SOUR_TENANT, VERSION
from tests.analytics.conftest import Month
from tests.analytics.macros import View, expand

RULES = {rule["uid"]: rule for group in json.loads(ALERTS.read_text(encoding="utf-8")) for rule in group["rules"]}
SOUR = {"tenant": SOUR_TENANT, "queue": SOUR_QUEUE, "version": VERSION}

Labels = tuple[tuple[str, str], ...]


def fires(rule: Mapping[str, Any]) -> tuple[str, float]:
    """How a rule's last value is compared, and with what."""
    reduce, threshold = (part["model"] for part in rule["data"][1:])
    assert reduce["reducer"] == "last"
    (condition,) = threshold["conditions"]
    (limit,) = condition["evaluator"]["params"]
    return {"lt": "<", "gt": ">"}[condition["evaluator"]["type"]], limit


# --- ClickHouse ------------------------------------------------------------------------------------------------------


def series(month: Month, rule: Mapping[str, Any], now: datetime) -> dict[Labels, list[float]]:
    """What the ClickHouse plugin makes of the rule's rows at a time: values in order of time, by the text columns."""
    query = rule["data"][0]
    assert query["model"]["format"] == 0
    since = now - timedelta(seconds=query["relativeTimeRange"]["from"])
    result = month.client.query(expand(query["model"]["rawSql"], View(since, now)))
    if not result.result_rows:
        return {}  # without a block of rows the columns are not told either
    assert result.column_names == ("time", "tenant", "queue", "version", "Value")
    assert result.column_types[0].python_type is datetime
    times = [row[0] for row in result.result_rows]
    assert times == sorted(times)
    made: dict[Labels, list[float]] = defaultdict(list)
    for _, *texts, value in result.result_rows:
        made[tuple(zip(result.column_names[1:], texts, strict=False))].append(float(value))
    return made


def alerts(month: Month, uid: str, now: datetime) -> list[dict[str, str]]:
    """The labels of the alerts of a rule at a time."""
    sign, limit = fires(RULES[uid])
    last = {labels: values[-1] for labels, values in series(month, RULES[uid], now).items()}
    return [dict(labels) for labels, value in last.items() if (value < limit if sign == "<" else value > limit)]


@pytest.mark.parametrize("uid", ["calltide-queue-mood", "calltide-anger"])
def test_the_queue_that_turns_sour_is_told_within_the_hour_and_not_before(month: Month, uid: str) -> None:
    for before in (timedelta(hours=3), timedelta(hours=1), timedelta()):
        assert alerts(month, uid, month.sour_from - before) == []
    assert alerts(month, uid, month.sour_from + timedelta(hours=1)) == [SOUR]


def test_the_queue_is_told_of_for_as_long_as_it_is_sour(month: Month) -> None:
    for hours in range(1, SOUR_HOURS + 1):
        assert alerts(month, "calltide-queue-mood", month.sour_from + timedelta(hours=hours)) == [SOUR]
    assert alerts(month, "calltide-queue-mood", month.sour_from + timedelta(hours=SOUR_HOURS + 2)) == []


def test_other_queues_were_never_told_of_in_that_week(month: Month) -> None:
    """Three standard deviations are crossed by chance once in 700 looks."""
    looks = [month.sour_from - timedelta(days=day, hours=hour) for day in range(1, 5) for hour in (-6, -3, 0)]
    found = [one for now in looks for one in alerts(month, "calltide-queue-mood", now)]
    assert len(found) <= 1, found


@pytest.mark.parametrize("uid", ["calltide-queue-mood", "calltide-anger"])
def test_where_nobody_called_there_is_nothing_to_tell(month: Month, uid: str) -> None:
    assert series(month, RULES[uid], month.since - timedelta(days=30)) == {}


def test_the_words_for_a_human_name_labels_that_the_query_gives() -> None:
    for uid in ("calltide-queue-mood", "calltide-anger"):
        text = json.dumps(RULES[uid]["annotations"])
        assert all(f"$labels.{name}" in text for name in ("tenant", "queue", "version"))


# --- Prometheus ------------------------------------------------------------------------------------------------------

WEEK = 7 * 24 * 60
"""Minutes: the made series begin a week before what is looked at."""


def made(name: str, *values: str, **labels: str) -> dict[str, str]:
    """A series of one sample a minute, in promtool's notation."""
    told = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{told}}}", "values": " ".join(values)}


def tell(
    tmp_path: Path, uid: str, given: list[dict[str, str]], at: Mapping[int, list[dict[str, str]]], every: str = "1m"
) -> None:
    """See with promtool that a rule of Grafana's, made one of Prometheus', fires so.

    at: minute → labels of the alerts. every: how often the rule is looked at.
    """
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt install prometheus")
    rule = RULES[uid]
    sign, limit = fires(rule)
    alert = {"alert": "x", "expr": f"({rule['data'][0]['model']['expr']}) {sign} {limit}", "for": rule["for"]}
    wanted = [
        {"eval_time": f"{minute}m", "alertname": "x", "exp_alerts": [{"exp_labels": labels} for labels in found]}
        for minute, found in at.items()
    ]
    test = {"interval": "1m", "input_series": given, "alert_rule_test": wanted}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [alert]}]}))
    cases = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(cases))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yml"], text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lag_is_told_after_two_minutes_above_target(tmp_path: Path) -> None:
    lag = "calltide_lag_seconds"
    given = [
        made(lag, "0 6 6 6 6 1 9 1 1", stage="asr", lane="live", process="asr"),
        made(lag, "0 0 0 0 0 0 0 0 0", stage="asr", lane="live", process="asr-1"),
        made(lag, "900x8", stage="asr", lane="batch", process="asr"),
        made(lag, "4x8", stage="vad", lane="live", process="vad"),
    ]
    tell(tmp_path, "calltide-lag", given, {2: [], 3: [{"stage": "asr"}], 5: [], 7: []})


def test_the_first_dead_letter_is_told(tmp_path: Path) -> None:
    letters = "calltide_dead_letters_total"
    given = [
        made(letters, "0 0 0 1x20", stage="vad", lane="batch"),
        made(letters, "3x23", stage="asr", lane="live"),
    ]
    tell(tmp_path, "calltide-dead-letters", given, {2: [], 3: [{"stage": "vad"}], 12: [{"stage": "vad"}], 14: []})


AUDIO, CALLS = "calltide_ingest_audio_seconds_total", "calltide_ingest_calls"


def test_a_source_whose_calls_bring_no_audio_is_told(tmp_path: Path) -> None:
    given = [
        made(AUDIO, "0+120x10 1200x30", protocol="twilio"),
        made(CALLS, "1x40", protocol="twilio"),
        made(AUDIO, "0+60x40", protocol="listen"),
        made(CALLS, "1x40", protocol="listen"),
        # Nobody calls here, and nobody did a week ago.
        made(AUDIO, "0x40", protocol="audiohook"),
        made(CALLS, "0x40", protocol="audiohook"),
        # The calls came a minute ago.
        made(AUDIO, "0x40", protocol="audiosocket"),
        made(CALLS, "0x23 2x16", protocol="audiosocket"),
    ]
    tell(tmp_path, "calltide-no-audio", given, {15: [], 25: [{"protocol": "twilio"}]})


@pytest.mark.parametrize("gone", [False, True], ids=["silent", "its server is gone"])
def test_a_source_that_was_busy_a_week_ago_is_missed(tmp_path: Path, gone: bool) -> None:
    """Busy for an hour of the last week, and of this one up to its middle."""
    hour, before = "0+600x60", f"{36_000}x{WEEK - 90}"
    after = "_x60" if gone else "54000x60"
    given = [
        made(AUDIO, hour, before, "36000+600x29", after, protocol="twilio"),
        made(CALLS, "5x60", f"0x{WEEK - 90}", "5x29", "_x60" if gone else "0x60", protocol="twilio"),
        # A call now and then is not missed.
        made(AUDIO, "0+60x60", f"3600x{WEEK + 30}", protocol="audiohook"),
        made(CALLS, f"1x60 0x{WEEK + 30}", protocol="audiohook"),
    ]
    tell(tmp_path, "calltide-no-audio", given, {WEEK: [], WEEK + 50: [{"protocol": "twilio"}]}, every="10m")
