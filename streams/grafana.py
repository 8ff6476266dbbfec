"""Dashboards, alert rules and data sources to a Grafana, by its HTTP API. docs/grafana.md is for whoever uses it.

A changer must know: a push may be repeated at any time, so every object has a fixed uid, and is compared with what
Grafana has before it is sent. Grafana adds fields of its own to data sources and alert rules, and newer versions
rewrite dashboards when they store them. So the former count as unchanged when Grafana's contain ours, and a dashboard
does when it is equal, or when its newest version is one that a push of the same dashboard saved, which the version's
message tells.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

import requests
from grafana_client import GrafanaApi
from grafana_client.client import GrafanaException

from dashboards import files
from schemas.errors import CalltideError
from streams.settings import ClickHouse, Settings

FOLDER: Final = "calltide"
"""uid of the folder of dashboards and alert rules."""
FOLDER_TITLE: Final = "Calltide"
"""Also in the provisioning files of docker-compose.yml."""
CLICKHOUSE: Final = "calltide-clickhouse"
"""uid of the data source of scores."""
PROMETHEUS: Final = "calltide-prometheus"
"""uid of the data source of metrics."""
PLUGIN: Final = "grafana-clickhouse-datasource"

READER: Final = "grafana"
"""User of ClickHouse where its address names none. The embedded one lets everybody but its own user only read."""

SCRAPE_INTERVAL: Final = "10s"
"""Grafana takes rates over at least four of these; deploy/prometheus/*.yml have it too."""

OLDEST: Final = (12, 1)
"""The dashboards' variables reach ClickHouse by a format of Grafana 12.1."""

TIMEOUT_S: Final = 30.0
"""For one request. Judgement: a dashboard is stored in well under a second, a health check waits for a data source."""

MESSAGE: Final = "calltide push "
"""Begins the message of each version of a dashboard that a push saves; a digest of the dashboard follows."""

FROM_FILE: Final = "it comes from a file on Grafana's machine"

Json = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """What is pushed."""

    dashboards: dict[str, Json]
    """By the name of their file."""
    alerts: list[Json]
    """Rule groups as Grafana's provisioning API takes them, without folder and organisation."""


@dataclass(frozen=True)
class Change:
    """What a push did, or would do, with one object."""

    kind: Literal["folder", "data source", "dashboard", "alert rules"]
    name: str
    fate: Literal["created", "changed", "unchanged", "kept"]
    """kept: somebody else's, left as it is; `note` says why."""
    note: str = ""
    diff: tuple[str, ...] = ()
    """Of a change: lines `- place: value` in Grafana and `+ place: value` of ours."""


def committed() -> Bundle:
    """The dashboards and alert rules of this version of Calltide."""
    return Bundle(files.committed(), json.loads(files.ALERTS.read_text(encoding="utf-8")))


def read(directory: Path) -> Bundle:
    """A bundle that `export` wrote and somebody may have edited. Raises CalltideError naming the file at fault."""

    def parsed(path: Path, kind: type) -> Any:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CalltideError(
                f"cannot read {path} ({error}); `calltide dashboards export` writes such files"
            ) from None
        if not isinstance(content, kind):
            raise CalltideError(f"{path} is not what `calltide dashboards export` writes there; export again")
        return content

    paths = sorted((directory / "dashboards").glob("*.json"))
    if not paths:
        raise CalltideError(f"no dashboards in {directory / 'dashboards'}; `calltide dashboards export` writes them")
    dashboards = {path.stem: parsed(path, dict) for path in paths}
    for path, dashboard in zip(paths, dashboards.values(), strict=True):
        if not (isinstance(dashboard.get("uid"), str) and isinstance(dashboard.get("title"), str)):
            raise CalltideError(f"{path} has no uid and title; export again, or give it both")
    alerts = parsed(directory / "alerts.json", list)
    try:
        whole = all(isinstance(group["interval"], int) and group["title"] for group in alerts)
        whole = whole and all(rule["uid"] and rule["title"] for group in alerts for rule in group["rules"])
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise CalltideError(
            f"{directory / 'alerts.json'} has a group without title, interval and rules, or a rule without uid and "
            "title; export again, or give it them"
        )
    return Bundle(dashboards, alerts)


def export(directory: Path) -> list[Path]:
    """Write the committed bundle, for `push DIR`, for Grafana's import page and for its file provisioning."""
    bundle = committed()
    contents = {f"dashboards/{name}.json": dashboard for name, dashboard in bundle.dashboards.items()}
    written = []
    for name, content in (contents | {"alerts.json": bundle.alerts}).items():
        written.append(directory / name)
        try:
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_text(as_file(content), encoding="utf-8")
        except OSError as error:
            raise CalltideError(f"cannot write {written[-1]} ({error.strerror}); give another directory") from None
    return written


def as_file(content: Any) -> str:
    """JSON as it is committed."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _parts(url: str, setting: str) -> SplitResult:
    """An address in its parts. Raises CalltideError, without the address: a password may be in it."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise CalltideError(f"CALLTIDE_GRAFANA__{setting} is no address; write it as http://HOST:PORT")
    return parts


def clickhouse_source(url: str, chosen: ClickHouse) -> Json:
    """The data source of scores for a ClickHouse at `url`, as Grafana's API takes it."""
    parts = _parts(url, "CLICKHOUSE_URL")
    secure = parts.scheme == "https"
    source: Json = {
        "uid": CLICKHOUSE,
        "name": "Calltide",
        "type": PLUGIN,
        "access": "proxy",
        "jsonData": {
            "host": parts.hostname,
            "port": parts.port or (8443 if secure else 8123),
            "protocol": "http",
            "secure": secure,
            "path": parts.path.strip("/"),
            "username": unquote(parts.username or READER),
            "defaultDatabase": chosen.database,
        },
    }
    # The embedded one has one password for all.
    password = unquote(parts.password or "") or (chosen.password if chosen.url is None else "")
    if password:
        source["secureJsonData"] = {"password": password}
    return source


def prometheus_source(url: str) -> Json:
    """The data source of metrics for a Prometheus at `url`, as Grafana's API takes it."""
    parts = _parts(url, "PROMETHEUS_URL")
    source: Json = {
        "uid": PROMETHEUS,
        "name": "Calltide Prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": urlunsplit((parts.scheme, _host(parts), parts.path, "", "")),
        "jsonData": {"httpMethod": "POST", "timeInterval": SCRAPE_INTERVAL},
    }
    if parts.username:
        source |= {
            "basicAuth": True,
            "basicAuthUser": unquote(parts.username),
            "secureJsonData": {"basicAuthPassword": unquote(parts.password or "")},
        }
    return source


def _host(parts: SplitResult) -> str:
    """Host and port, without user and password."""
    return parts.netloc.rpartition("@")[2]


def contains(theirs: Any, ours: Any) -> bool:
    """Whether everything of ours is in theirs; lists must be of one length. Absent, false, 0 and empty are the same."""
    if not ours:
        return not theirs
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and all(contains(theirs.get(name), value) for name, value in ours.items())
    if isinstance(ours, list):
        return isinstance(theirs, list) and len(theirs) == len(ours) and all(map(contains, theirs, ours))
    return bool(theirs == ours)


def lines(value: Any, place: str = "") -> Iterator[str]:
    """A document as lines `place: value`; an element of a list is placed by its title or name, SQL by its lines."""
    if isinstance(value, dict) and value:
        for name in sorted(value):
            yield from lines(value[name], f"{place}.{name}" if place else name)
    elif isinstance(value, list) and value:
        for index, element in enumerate(value):
            known = element if isinstance(element, dict) else {}
            names = (known.get(key) for key in ("title", "name", "refId", "uid", "id"))
            yield from lines(element, f"{place}[{next((name for name in names if name), index)}]")
    elif isinstance(value, str) and "\n" in value:
        yield from (f"{place}: {line}" for line in value.splitlines())
    else:
        yield f"{place}: {json.dumps(value, ensure_ascii=False)}"


def difference(theirs: Any, ours: Any) -> tuple[str, ...]:
    """What differs, as lines that begin with `- ` (in Grafana) or `+ ` (ours)."""
    found = difflib.unified_diff(list(lines(theirs)), list(lines(ours)), n=0, lineterm="")
    return tuple(f"{line[0]} {line[1:]}" for line in list(found)[2:] if not line.startswith("@@"))


def _part(theirs: Any, ours: Any) -> Any:
    """Of theirs what ours speaks of, so that a difference does not show the fields that Grafana adds."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {name: _part(theirs[name], value) for name, value in ours.items() if name in theirs}
    if isinstance(ours, list) and isinstance(theirs, list):
        return [_part(one, other) for one, other in zip(theirs, ours, strict=False)] + theirs[len(ours) :]
    return theirs


def _stored(dashboard: Json) -> Json:
    """Without the fields that belong to one Grafana."""
    return {name: value for name, value in dashboard.items() if name not in ("id", "version")}


def _digest(dashboard: Json) -> str:
    return hashlib.sha256(json.dumps(_stored(dashboard), sort_keys=True).encode()).hexdigest()[:16]


class Push:
    """One push to one Grafana. `run` yields what was done with each object as it is done.

    Raises CalltideError, with nothing sent yet, when Grafana cannot be reached, does not know who asks or lacks the
    ClickHouse plugin; later, when it refuses an object. What was sent before stays; a repetition continues there.
    """

    def __init__(self, settings: Settings, bundle: Bundle, *, dry_run: bool = False, force: bool = False) -> None:
        chosen = settings.grafana
        parts = _parts(chosen.url, "URL")
        self._url = urlunsplit((parts.scheme, _host(parts), parts.path.rstrip("/"), "", ""))
        """For people and links: without a password."""
        if chosen.token:
            credential: str | tuple[str, str] = chosen.token
        elif chosen.user and chosen.password:
            credential = (chosen.user, chosen.password)
        else:
            raise CalltideError(
                "nobody to push as; set CALLTIDE_GRAFANA__TOKEN to a service account's token, or "
                "CALLTIDE_GRAFANA__USER and CALLTIDE_GRAFANA__PASSWORD (docs/grafana.md says how)"
            )
        if settings.clickhouse.url and not chosen.clickhouse_url:
            # Not by the user that we write as: through Grafana, whoever sees a dashboard can send any statement.
            raise CalltideError(
                "Grafana needs a user of ClickHouse that only reads; make one as docs/grafana.md says and set "
                "CALLTIDE_GRAFANA__CLICKHOUSE_URL to http://USER:PASSWORD@HOST:PORT"
            )
        # The path as the client wants it: it puts `api` right behind.
        base = urlunsplit((parts.scheme, _host(parts), f"{parts.path.rstrip('/')}/", parts.query, ""))
        self._api = GrafanaApi.from_url(base, credential, timeout=TIMEOUT_S)
        # A redirected POST would arrive as a GET, which Grafana answers with a list.
        self._api.client.s.max_redirects = 0
        self._settings = settings
        self._bundle = bundle
        self._dry_run = dry_run
        self._force = force

    def _ask(self, doing: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Ask Grafana. Raises CalltideError that says what was being done, what is wrong and what to do."""
        try:
            return call(*arguments, **options)
        except requests.exceptions.TooManyRedirects as error:
            there = error.response.headers.get("Location", "elsewhere") if error.response is not None else "elsewhere"
            raise CalltideError(
                f"{self._url} sends us on to {there}; set CALLTIDE_GRAFANA__URL to where Grafana is"
            ) from None
        except requests.exceptions.SSLError as error:
            raise CalltideError(
                f"{self._url} has a certificate that is not trusted ({error}); set REQUESTS_CA_BUNDLE to the file of "
                "the authority that issued it"
            ) from None
        except requests.exceptions.Timeout:
            raise CalltideError(f"Grafana at {self._url} did not answer within {TIMEOUT_S:.0f} s; try again") from None
        except (JSONDecodeError, requests.exceptions.ContentDecodingError):
            raise CalltideError(
                f"what answers at {self._url} is not Grafana; set CALLTIDE_GRAFANA__URL to its address"
            ) from None
        except requests.exceptions.RequestException:
            raise CalltideError(
                f"cannot reach Grafana at {self._url}; start it, or set CALLTIDE_GRAFANA__URL to its address"
            ) from None
        except GrafanaException as error:
            raise self._refused(doing, error) from None

    def _refused(self, doing: str, error: GrafanaException) -> CalltideError:
        status = error.status_code
        said = error.response.get("message", "") if isinstance(error.response, dict) else str(error.response or "")
        if status == 401:
            names = "TOKEN" if self._settings.grafana.token else "USER and CALLTIDE_GRAFANA__PASSWORD"
            return CalltideError(
                f"Grafana at {self._url} does not know who asks; check CALLTIDE_GRAFANA__{names} (a token may have "
                "expired, or be of another Grafana)"
            )
        if status == 403:
            return CalltideError(
                f"not allowed to {doing} at {self._url} ({said}); give the service account or user the role Admin"
            )
        return CalltideError(f"Grafana at {self._url} would not {doing}: {said or error.message} (HTTP {status})")

    def _find(self, doing: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """As `_ask`; None for what does not exist."""

        def found(*arguments: Any, **options: Any) -> Any:
            try:
                return call(*arguments, **options)
            except GrafanaException as error:
                if error.status_code == 404:
                    return None
                raise

        return self._ask(doing, found, *arguments, **options)

    def about(self) -> tuple[str, str]:
        """(what is being pushed to, a warning or nothing). Raises CalltideError if nothing can be pushed to it."""
        health = self._find("look at it", self._api.health.check)
        if not isinstance(health, dict) or "database" not in health:
            raise CalltideError(f"what answers at {self._url} is not Grafana; set CALLTIDE_GRAFANA__URL to its address")
        self._organisation = self._ask("read its organisation", self._api.organization.get_current_organization)
        plugins = self._ask("list its plugins", self._api.plugin.list)
        if PLUGIN not in {plugin["id"] for plugin in plugins}:
            raise CalltideError(
                f"Grafana at {self._url} has no plugin {PLUGIN}; install it by `grafana cli plugins install {PLUGIN}` "
                f"on its machine and restart it, or start it with GF_PLUGINS_PREINSTALL_SYNC={PLUGIN} (docs/grafana.md)"
            )
        version = str(health.get("version", ""))
        told = f"Grafana {version} at {self._url}, organisation {self._organisation['name']}"
        number = re.match(r"(\d+)\.(\d+)", version)
        old = number is not None and tuple(map(int, number.groups())) < OLDEST
        oldest = ".".join(map(str, OLDEST))
        return told, f"the dashboards need Grafana {oldest} or later; this one is {version}" if old else ""

    def run(self) -> Iterator[Change]:
        """Everything, in the order in which Grafana needs it. Call `about` first."""
        yield self._folder()
        chosen = self._settings
        clickhouse = chosen.grafana.clickhouse_url or chosen.clickhouse_url
        yield self._data_source(clickhouse_source(clickhouse, chosen.clickhouse))
        yield self._data_source(prometheus_source(chosen.grafana.prometheus_url))
        for dashboard in self._bundle.dashboards.values():
            yield self._dashboard(dashboard)
        for group in self._bundle.alerts:
            yield self._alert_rules(group)

    def _folder(self) -> Change:
        doing = f"make the folder {FOLDER_TITLE}"
        # By uid alone: whoever gives it another title or moves it finds the dashboards there.
        if self._find(doing, self._api.folder.get_folder, FOLDER):
            return Change("folder", FOLDER_TITLE, "unchanged")
        if not self._dry_run:
            self._ask(doing, self._api.folder.create_folder, FOLDER_TITLE, FOLDER)
        return Change("folder", FOLDER_TITLE, "created")

    def _data_source(self, ours: Json) -> Change:
        name, uid = ours["name"], ours["uid"]
        doing = f"make the data source {name}"
        api = self._api.datasource
        theirs = self._find(doing, api.get_datasource_by_uid, uid)
        if theirs is None:
            if not self._dry_run:
                self._ask(doing, api.create_datasource, ours)
            return Change("data source", name, "created", self._health(uid))
        if theirs.get("readOnly"):
            return Change("data source", name, "kept", FROM_FILE)
        public = {field: value for field, value in ours.items() if field != "secureJsonData"}
        diff = () if contains(theirs, public) else difference(_part(theirs, public), public)
        health = self._health(uid)
        # What a password is cannot be read back; one that works needs no change.
        if not diff and (not health or "secureJsonData" not in ours):
            return Change("data source", name, "unchanged", health)
        if not self._dry_run:
            # Grafana replaces all of it: what people set beyond ours is sent back.
            kept = ("url", "user", "database", "basicAuth", "basicAuthUser", "withCredentials", "isDefault")
            whole = {field: theirs[field] for field in kept if field in theirs} | ours
            whole["jsonData"] = theirs.get("jsonData", {}) | ours["jsonData"]
            self._ask(doing, api.update_datasource_by_uid, uid, whole)
            health = self._health(uid)
        return Change("data source", name, "changed", health, diff or ("+ the password",))

    def _health(self, uid: str) -> str:
        """Nothing, or what Grafana says is wrong between it and a data source. Not an error: that may start later."""
        if self._dry_run:
            return ""
        try:
            self._api.datasource.health(uid)
        except GrafanaException as error:
            if error.status_code in (404, 501):
                # Grafana cannot tell of this kind of source.
                return ""
            said = error.response.get("message", "") if isinstance(error.response, dict) else str(error.response)
            return f"Grafana does not get an answer from it: {said}"
        except requests.exceptions.RequestException as error:
            return f"Grafana does not get an answer from it: {type(error).__name__}"
        return ""

    def _dashboard(self, ours: Json) -> Change:
        title, uid = ours["title"], ours["uid"]
        doing = f"store the dashboard {title}"
        link = f"{self._url}/d/{uid}"
        found = self._find(doing, self._api.dashboard.get_dashboard, uid)
        if found is None:
            self._save(doing, ours, FOLDER)
            return Change("dashboard", title, "created", link)
        if found["meta"].get("provisioned"):
            return Change("dashboard", title, "kept", FROM_FILE)
        theirs = _stored(found["dashboard"])
        if theirs == _stored(ours):
            return Change("dashboard", title, "unchanged", link)
        last = self._last_version(doing, uid)
        if last.get("message") == MESSAGE + _digest(ours):
            return Change("dashboard", title, "unchanged", link)
        diff = difference(theirs, _stored(ours))
        # Grafana 11 gives the first version a message of its own; nobody has edited that.
        edited = last.get("version", 0) > 1 and not str(last.get("message", "")).startswith(MESSAGE)
        if edited and not self._force:
            who, when = last.get("createdBy") or "somebody", str(last.get("created", ""))[:16]
            note = f"edited in Grafana by {who} {when}; --force puts ours in its place (Grafana keeps the old version)"
            return Change("dashboard", title, "kept", note, diff)
        # Whoever moved it to another folder finds it there.
        self._save(doing, ours, found["meta"].get("folderUid", ""))
        return Change("dashboard", title, "changed", link, diff)

    def _last_version(self, doing: str, uid: str) -> Json:
        """The newest version's record, or nothing where Grafana has none."""
        answer = self._find(doing, self._api.dashboard_versions.get_dashboard_versions_by_uid, uid)
        # A list until Grafana 11, since then an object with one.
        versions = answer.get("versions", []) if isinstance(answer, dict) else answer or []
        return max(versions, key=lambda version: version["version"], default={})

    def _save(self, doing: str, ours: Json, folder: str) -> None:
        if self._dry_run:
            return
        command = {
            "dashboard": _stored(ours) | {"id": None},
            "folderUid": folder,
            "message": MESSAGE + _digest(ours),
            "overwrite": True,
        }
        self._ask(doing, self._api.dashboard.update_dashboard, command)

    def _alert_rules(self, group: Json) -> Change:
        title = group["title"]
        doing = f"store the alert rules {title}"
        name = quote(title, safe="")
        api = self._api.alertingprovisioning
        place = {"folderUID": FOLDER, "ruleGroup": title, "orgID": self._organisation["id"]}
        ours = group | {"folderUid": FOLDER, "rules": [rule | place for rule in group["rules"]]}
        count = f"{len(group['rules'])} rule{'' if len(group['rules']) == 1 else 's'}"
        theirs = self._find(doing, api.get_rule_group, FOLDER, name)
        if theirs is not None and theirs.get("rules"):
            theirs["rules"].sort(key=lambda rule: _position(ours, rule))
            if contains(theirs, ours):
                return Change("alert rules", title, "unchanged", count)
        known = {rule["uid"]: self._find(doing, api.get_alertrule, rule["uid"]) for rule in ours["rules"]}
        if any(rule and rule.get("provenance") == "file" for rule in known.values()):
            return Change("alert rules", title, "kept", FROM_FILE)
        if not self._dry_run:
            # Grafana 11.0 and before refuse a group with a uid that they do not know.
            for rule in ours["rules"]:
                if known[rule["uid"]] is None:
                    self._ask(doing, api.create_alertrule, rule)
            self._ask(doing, api.update_rule_group, FOLDER, name, ours)
        if theirs is None or not theirs.get("rules"):
            return Change("alert rules", title, "created", count)
        return Change("alert rules", title, "changed", count, difference(_part(theirs, ours), ours))


def _position(group: Json, rule: Json) -> int:
    """Where one of Grafana's rules stands in our group; those that we do not have come last."""
    uids = [ours["uid"] for ours in group["rules"]]
    return uids.index(rule["uid"]) if rule["uid"] in uids else len(uids)
