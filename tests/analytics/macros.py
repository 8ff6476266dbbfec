"""What Grafana and its ClickHouse plugin make of a panel's SQL, so that tests run the text that ClickHouse would get.

Written after their sources, and to be compared with them when either is raised:
- the plugin, grafana/clickhouse-datasource 4.20.0 (commit 1d04063a): `applyConditionalAll` and `applyTemplateVariables`
  in src/data/CHDatasource.ts run in the browser, `Interpolate` of pkg/macros/macros.go in its backend;
- the engine of the latter, grafana/macropro 1.0.1 (`Interpolate` in parser.go, `StripComments` in macropro.go);
- variables, grafana/scenes (commit ac1dec6d): VARIABLE_REGEX in variables/constants.ts, variables/interpolation/
  formatRegistry.ts, and MultiValueVariable.getValue for All.

The order matters: `$__conditionalAll` first, on the variables' names, then the variables, then the macros. What is not
known here (a format, a macro) is an error, though Grafana would let it pass: a typing error must fail a test.
tests/analytics/test_macros.py holds it to the plugin's and Grafana's own test cases.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

ALL = "$__all"
Value = str | Sequence[str]


class MacroError(ValueError):
    """The plugin would refuse the query, or this file does not know something in it."""


@dataclass(frozen=True)
class Variable:
    """A dashboard's variable as it is chosen.

    value: what is chosen: a string, or a sequence of them where several can be chosen; `ALL` for All.
    options: what there is to choose, which stands for All unless `all_value` does.
    """

    value: Value
    options: Sequence[str] = ()
    all_value: str = ""

    @property
    def is_all(self) -> bool:
        return self.value == ALL or (not isinstance(self.value, str) and list(self.value[:1]) == [ALL])


@dataclass(frozen=True)
class View:
    """A dashboard as somebody looks at it: the range of time, the panel's interval, the variables, the time zone."""

    start: datetime
    end: datetime
    variables: Mapping[str, Variable] = field(default_factory=dict)
    interval: timedelta = timedelta(minutes=1)
    timezone: str = "utc"


def expand(sql: str, view: View) -> str:
    """The text that reaches ClickHouse. Raises MacroError where the plugin would, and for what is unknown here."""
    return backend(interpolate(conditional_all(sql, view.variables), view), view)


# ---- In the browser: the plugin's own macro, then Grafana's variables


def conditional_all(sql: str, variables: Mapping[str, Variable]) -> str:
    """`$__conditionalAll(condition, $variable)`: `1=1` where the variable is All or empty, else the condition."""
    name = "$__conditionalAll("
    while (at := sql.rfind(name)) != -1:
        arguments = _arguments_without_quotes(sql, at + len(name) - 1)
        if len(arguments) != 2:
            raise MacroError(f"$__conditionalAll takes two arguments and has {len(arguments)}: {arguments}")
        condition, last = arguments
        found = re.search(r"(?<=\$\{)\w+(?=\})|(?<=\$)\w+", last.strip())
        if found is None or found[0] not in variables:
            raise MacroError(f"$__conditionalAll asks for {last.strip()!r}, which is no variable")
        value = variables[found[0]].value
        chosen = value if isinstance(value, str) else ",".join(value)
        phrase = "1=1" if chosen in ("", ALL) else condition
        # JavaScript's String.replace gives a meaning to these; the plugin does not escape them.
        if re.search(r"\$[$&`']", phrase):
            raise MacroError(f"a $ before a quote, a $ or & is changed by the plugin: {phrase}")
        sql = sql.replace(f"{name}{condition},{last})", phrase, 1)
    return sql


def _arguments_without_quotes(sql: str, opening: int) -> list[str]:
    """The plugin's getMacroArgs: brackets and commas are counted even inside quotes."""
    depth, begin, arguments = 0, opening + 1, list[str]()
    for found in re.compile(r"[(),]").finditer(sql, opening):
        depth += {"(": 1, ")": -1, ",": 0}[found[0]]
        if (found[0] == "," and depth == 1) or depth == 0:
            arguments.append(sql[begin : found.start()])
            begin = found.end()
        if depth == 0:
            return arguments
    return []


_VARIABLE = re.compile(r"\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{(\w+)(?::([^}]+))?\}", re.ASCII)


def interpolate(sql: str, view: View) -> str:
    """Grafana's variables, its built-in ones too, in one pass: a value is not looked through again."""

    def one(found: re.Match[str]) -> str:
        name, form = found[1] or found[2] or found[4], found[3] or found[5] or ""
        if name in ("__from", "__to"):
            return _format((view.start if name == "__from" else view.end), form or "ms", name)
        if name == "__timezone":
            return _format(view.timezone, form or "raw", name)
        if name == "__timezone":
            return _format(view.timezone, form, name)
        if name == "__interval":
            return _duration(view.interval)
        if name == "__interval_ms":
            return str(round(view.interval.total_seconds() * 1000))
        if name not in view.variables:
            if name.startswith("__"):
                return found[0]  # a macro of the plugin
            raise MacroError(f"{found[0]} is no variable")
        variable = view.variables[name]
        if variable.is_all and variable.all_value:
            return quote_strictly(variable.all_value) if form == "percentencode" else variable.all_value
        return _format(variable.options if variable.is_all else variable.value, form, name)

    return _VARIABLE.sub(one, sql)


def quote_strictly(text: str) -> str:
    """encodeURIComponent, and `!'()*` too: what is left of any text is letters, digits and `-_.~%`."""
    return quote(text, safe="")


def _format(value: Value | datetime, form: str, name: str) -> str:
    form, *arguments = form.split(":")
    if isinstance(value, datetime):
        if form == "date" and arguments:
            form = arguments[0]
        ms = round(value.timestamp() * 1000)
        if form == "ms":
            return str(ms)
        if form == "seconds":
            return str(math.floor(ms / 1000 + 0.5))
        raise MacroError(f"the format {form!r} of a time is not known here")
    several = None if isinstance(value, str) else list(value)
    values = [value] if isinstance(value, str) else list(value)
    match form:
        case "":
            # The plugin's own: several are quoted without escaping anything.
            return values[0] if several is None else "'" + "','".join(values) + "'"
        case "raw" | "csv":
            return ",".join(values)
        case "pipe":
            return "|".join(values)
        case "json":
            return values[0] if several is None else json.dumps(several, ensure_ascii=False, separators=(",", ":"))
        case "singlequote":
            return ",".join("'" + one.replace("'", "\\'") + "'" for one in values)
        case "doublequote":
            return ",".join('"' + one.replace('"', '\\"') + '"' for one in values)
        case "sqlstring":
            return ",".join("'" + one.replace("'", "''").replace('"', '\\"') + "'" for one in values)
        case "percentencode":
            return quote_strictly(values[0] if several is None else "{" + ",".join(several) + "}")
        case "customqueryparam":
            key = quote_strictly(arguments[0] if arguments and arguments[0] else name)
            prefix = quote_strictly(arguments[1] if len(arguments) > 1 else "")
            return "&".join(f"{key}={prefix}{quote_strictly(one)}" for one in values)
    raise MacroError(f"the format {form!r} of ${name} is not known here")


def _duration(interval: timedelta) -> str:
    """The largest whole unit, as in 5m."""
    ms = round(interval.total_seconds() * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms % size == 0 and (ms or unit == "s"):
            return f"{ms // size}{unit}"
    return f"{ms}ms"


# ---- In the plugin's backend: comments are blanked, then macros expanded

_NAME = re.compile(r"\w*", re.ASCII)


def backend(sql: str, view: View) -> str:
    """The plugin's macros. Comments become blanks; a macro in quotes is expanded, too, as the plugin does."""
    return _expand(strip_comments(sql), view) if "$__" in sql else sql


def strip_comments(sql: str) -> str:
    """Comments as blanks of the same length. What is quoted stays (one of '…', "…", `…`, $a$…$a$)."""
    region = re.compile(
        r"""'(?:\\.|''|[^'\\])*(?:'|\\?\Z)|"(?:\\.|""|[^"\\])*(?:"|\\?\Z)|`(?:``|[^`])*(?:`|\Z)"""
        r"""|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|(?P<comment>--[^\r\n]*|/\*.*?(?:\*/|\Z))""",
        re.DOTALL | re.ASCII,
    )
    return region.sub(lambda found: " " * len(found[0]) if found["comment"] else found[0], sql)


def _expand(sql: str, view: View) -> str:
    out, at = "", 0
    while (found := sql.find("$__", at)) != -1:
        out += sql[at:found]
        named = _NAME.match(sql, found + 3)
        assert named is not None
        name, at = named[0], named.end()
        if name not in _MACROS:
            raise MacroError(f"$__{name} is not a macro of the plugin, or not known here")
        raw = ""
        if sql[at : at + 1] == "(" and (end := _closing(sql, at)) != -1:
            raw, at = sql[at + 1 : end], end + 1
        out += _MACROS[name](view, [_expand(one, view) if "$__" in one else one for one in _split(raw)])
    return out + sql[at:]


def _closing(sql: str, opening: int) -> int:
    """Where the bracket closes; quotes are minded, backslashes in them are not. -1: nowhere."""
    depth, at = 0, opening
    while at < len(sql):
        if sql[at] in "'\"":
            at = _past(sql, at)
            continue
        depth += (sql[at] == "(") - (sql[at] == ")")
        if depth == 0:
            return at
        at += 1
    return -1


def _past(sql: str, at: int) -> int:
    """Just after the quoted text that begins here; a doubled quote goes on."""
    mark, at = sql[at], at + 1
    while at < len(sql):
        if sql[at] == mark:
            if sql[at + 1 : at + 2] != mark:
                return at + 1
            at += 1
        at += 1
    return at


def _split(raw: str) -> list[str]:
    if not raw.strip():
        return []
    depth, at, begin, arguments = 0, 0, 0, list[str]()
    while at < len(raw):
        if raw[at] in "'\"":
            at = _past(raw, at)
            continue
        depth += (raw[at] == "(") - (raw[at] == ")")
        if raw[at] == "," and depth == 0:
            arguments.append(raw[begin:at].strip())
            begin = at + 1
        at += 1
    return [*arguments, raw[begin:].strip()]


def _seconds(moment: datetime) -> str:
    return f"toDateTime({math.floor(moment.timestamp())})"


def _ms(moment: datetime) -> str:
    return f"fromUnixTimestamp64Milli({round(moment.timestamp() * 1000)})"


def _date(moment: datetime) -> str:
    return f"toDate('{moment.astimezone(UTC):%Y-%m-%d}')"


def _between(column: str, view: View, literal: Callable[[datetime], str]) -> str:
    return f"{column} >= {literal(view.start)} AND {column} <= {literal(view.end)}"


def _whole(interval: timedelta, unit: timedelta) -> int:
    return max(interval // unit, 1)


def _time_group(_: View, column: str, period: str) -> str:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", period.strip("'\" "))
    size = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    seconds = math.floor(float(found[1]) * size[found[2]] + 0.5) if found else 0
    if seconds <= 0:
        raise MacroError(f"$__timeGroup: {period!r} is no interval")
    return f"toStartOfInterval(toDateTime({column}), INTERVAL {seconds} second)"


def _takes(count: int, function: Callable[..., str]) -> Callable[[View, list[str]], str]:
    def checked(view: View, arguments: list[str]) -> str:
        if len(arguments) != count:
            raise MacroError(f"a macro takes {count} argument(s) and has {len(arguments)}: {arguments}")
        return function(view, *arguments)

    return checked


def _date_time(view: View, date: str, time: str) -> str:
    return f"({_between(date, view, _date)}) AND ({_between(time, view, _seconds)})"


_MACROS: dict[str, Callable[[View, list[str]], str]] = {
    "fromTime": lambda view, _: _seconds(view.start),
    "toTime": lambda view, _: _seconds(view.end),
    "fromTime_ms": lambda view, _: _ms(view.start),
    "toTime_ms": lambda view, _: _ms(view.end),
    "timeFilter": _takes(1, lambda view, column: _between(column, view, _seconds)),
    "timeFilter_ms": _takes(1, lambda view, column: _between(column, view, _ms)),
    "timeFrom": _takes(1, lambda view, column: f"{column} >= {_seconds(view.start)}"),
    "timeTo": _takes(1, lambda view, column: f"{column} <= {_seconds(view.end)}"),
    "dateFilter": _takes(1, lambda view, column: _between(column, view, _date)),
    "dateTimeFilter": _takes(2, _date_time),
    "dt": _takes(2, _date_time),
    "timeInterval": _takes(
        1,
        lambda view, column: (
            f"toStartOfInterval(toDateTime({column}), INTERVAL {_whole(view.interval, timedelta(seconds=1))} second)"
        ),
    ),
    "timeInterval_ms": _takes(
        1,
        lambda view, column: (
            f"toStartOfInterval(toDateTime64({column}, 3),"
            f" INTERVAL {_whole(view.interval, timedelta(milliseconds=1))} millisecond)"
        ),
    ),
    "timeGroup": _takes(2, _time_group),
    "interval": lambda view, _: _duration(view.interval),
    "interval_ms": lambda view, _: str(round(view.interval.total_seconds() * 1000)),
    "interval_s": lambda view, _: str(_whole(view.interval, timedelta(seconds=1))),
}
