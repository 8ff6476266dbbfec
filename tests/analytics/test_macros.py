"""The expansion of macros and variables is the plugin's and Grafana's: expected values are those of their own tests."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.analytics.macros import (
    ALL,
    MacroError,
    Variable,
    View,
    backend,
    conditional_all,
    expand,
    interpolate,
    strip_comments,
)

RANGE = View(
    datetime(2014, 11, 12, 11, 45, 26, 123_000, UTC),
    datetime(2015, 11, 12, 11, 45, 26, 456_000, UTC),
    interval=timedelta(minutes=1),
)


# pkg/macros/macros_test.go: TestInterpolate, …NestedMacros, …BackslashEscapedStringLiterals, …BacktickAndDollarQuoted…,
# and the single macros' tests.
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "select * from foo where $__timeFilter(cast(sth as timestamp))",
            "select * from foo where cast(sth as timestamp) >= toDateTime(1415792726)"
            " AND cast(sth as timestamp) <= toDateTime(1447328726)",
        ),
        (
            "select * from foo where $__timeFilter(cast(sth as timestamp) )",
            "select * from foo where cast(sth as timestamp) >= toDateTime(1415792726)"
            " AND cast(sth as timestamp) <= toDateTime(1447328726)",
        ),
        (
            "select * from foo where $__timeFilter_ms(cast(sth as timestamp))",
            "select * from foo where cast(sth as timestamp) >= fromUnixTimestamp64Milli(1415792726123)"
            " AND cast(sth as timestamp) <= fromUnixTimestamp64Milli(1447328726456)",
        ),
        (
            "select * from foo where ( date >= $__fromTime ) and ( date <= $__toTime ) limit 100",
            "select * from foo where ( date >= toDateTime(1415792726) ) and ( date <= toDateTime(1447328726) )"
            " limit 100",
        ),
        (
            "select * from foo where ( date >= $__fromTime_ms and date <= $__toTime_ms ) limit 100",
            "select * from foo where ( date >= fromUnixTimestamp64Milli(1415792726123)"
            " and date <= fromUnixTimestamp64Milli(1447328726456) ) limit 100",
        ),
        (
            "SELECT $__timeInterval($__fromTime) AS from_time",
            "SELECT toStartOfInterval(toDateTime(toDateTime(1415792726)), INTERVAL 60 second) AS from_time",
        ),
        (
            "SELECT $__timeInterval_ms($__fromTime_ms)",
            "SELECT toStartOfInterval(toDateTime64(fromUnixTimestamp64Milli(1415792726123), 3),"
            " INTERVAL 60000 millisecond)",
        ),
        (
            "select * from foo where $__timeFilter(coalesce(closed_at, $__toTime))",
            "select * from foo where coalesce(closed_at, toDateTime(1447328726)) >= toDateTime(1415792726)"
            " AND coalesce(closed_at, toDateTime(1447328726)) <= toDateTime(1447328726)",
        ),
        (
            r"select * from foo where msg = 'it\'s -- fine' and $__fromTime",
            r"select * from foo where msg = 'it\'s -- fine' and toDateTime(1415792726)",
        ),
        (
            r"select * from foo where msg = 'a\'/*x' and $__toTime",
            r"select * from foo where msg = 'a\'/*x' and toDateTime(1447328726)",
        ),
        (
            "select * from foo where msg = 'it''s' and $__fromTime",
            "select * from foo where msg = 'it''s' and toDateTime(1415792726)",
        ),
        (
            "SELECT `it's` AS x, msg FROM t WHERE msg = 'a--b' AND $__timeFilter(ts)",
            "SELECT `it's` AS x, msg FROM t WHERE msg = 'a--b'"
            " AND ts >= toDateTime(1415792726) AND ts <= toDateTime(1447328726)",
        ),
        (
            "SELECT `a--b`, `c/*d` FROM t WHERE $__fromTime",
            "SELECT `a--b`, `c/*d` FROM t WHERE toDateTime(1415792726)",
        ),
        (
            "SELECT $doc$a--b$doc$ AS x FROM t WHERE $__toTime",
            "SELECT $doc$a--b$doc$ AS x FROM t WHERE toDateTime(1447328726)",
        ),
        ("$__dateFilter(dateCol)", "dateCol >= toDate('2014-11-12') AND dateCol <= toDate('2015-11-12')"),
        (
            "$__dateTimeFilter(dateCol, timeCol)",
            "(dateCol >= toDate('2014-11-12') AND dateCol <= toDate('2015-11-12'))"
            " AND (timeCol >= toDateTime(1415792726) AND timeCol <= toDateTime(1447328726))",
        ),
        ("$__timeFrom(ts) / $__timeTo(ts)", "ts >= toDateTime(1415792726) / ts <= toDateTime(1447328726)"),
        ("$__timeGroup(ts, 5m)", "toStartOfInterval(toDateTime(ts), INTERVAL 300 second)"),
        ("$__timeGroup(ts, '1h')", "toStartOfInterval(toDateTime(ts), INTERVAL 3600 second)"),
        ("$__interval_s $__interval_ms $__interval", "60 60000 1m"),
        # Unbalanced brackets are no arguments.
        ("$__fromTime(", "toDateTime(1415792726)("),
        ("SELECT 1 -- $__interval\nFROM t", "SELECT 1               \nFROM t"),
    ],
)
def test_the_plugins_macros(sql: str, expected: str) -> None:
    assert backend(sql, RANGE) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "$__timeFilter",
        "$__timeFilter()",
        "$__timeFilter_ms(a, b)",
        "$__timeInterval()",
        "$__timeFrom()",
        "$__dateTimeFilter(d)",
        "$__timeGroup(ts)",
        "$__timeGroup(ts, not-a-duration)",
        "$__timeFliter(ts)",
    ],
)
def test_what_the_plugin_would_refuse_or_leave_is_an_error(sql: str) -> None:
    with pytest.raises(MacroError):
        backend(sql, RANGE)


def test_short_intervals() -> None:
    short = View(RANGE.start, RANGE.end, interval=timedelta(milliseconds=20))
    assert backend("$__interval_s, $__interval_ms, $__interval", short) == "1, 20, 20ms"
    assert backend("$__timeInterval(t)", short) == "toStartOfInterval(toDateTime(t), INTERVAL 1 second)"


# src/data/CHDatasource.test.ts, "Conditional All".
def test_conditional_all() -> None:
    sql = "select stuff from table where $__conditionalAll(fieldVal in ($fieldVal), $fieldVal);"
    assert conditional_all(sql, {"fieldVal": Variable(ALL)}) == "select stuff from table where 1=1;"
    assert conditional_all(sql, {"fieldVal": Variable([ALL])}) == "select stuff from table where 1=1;"
    assert conditional_all(sql, {"fieldVal": Variable("")}) == "select stuff from table where 1=1;"
    chosen = Variable(("val1", "val2"))
    assert conditional_all(sql, {"fieldVal": chosen}) == "select stuff from table where fieldVal in ($fieldVal);"
    both = (
        "select stuff from table where $__conditionalAll(fieldVal in ($fieldVal), $fieldVal)"
        " and $__conditionalAll(fieldVal in ($fieldVal2), $fieldVal2);"
    )
    assert (
        conditional_all(both, {"fieldVal": chosen, "fieldVal2": Variable(ALL)})
        == "select stuff from table where fieldVal in ($fieldVal) and 1=1;"
    )
    # It counts brackets and commas in quotes, too, and replaces as JavaScript does.
    with pytest.raises(MacroError, match="two arguments and has 3"):
        conditional_all("$__conditionalAll(a = ',', $fieldVal)", {"fieldVal": chosen})
    with pytest.raises(MacroError, match="no variable"):
        conditional_all("$__conditionalAll(a = 1, $other)", {"fieldVal": chosen})
    with pytest.raises(MacroError, match="changed by the plugin"):
        conditional_all("$__conditionalAll(a = '$', $fieldVal)", {"fieldVal": chosen})


# packages/scenes/src/variables/interpolation/formatRegistry.test.ts.
@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        ("csv", "test", "test"),
        ("csv", ("test", "test2"), "test,test2"),
        ("raw", ("12", "13"), "12,13"),
        ("raw", '#Æ³ ̇¹"Ä1"#!"#!½', '#Æ³ ̇¹"Ä1"#!"#!½'),
        ("pipe", ("test", "test2"), "test|test2"),
        ("json", ("test", "12"), '["test","12"]'),
        ("json", "test", "test"),
        ("percentencode", ("foo()bar BAZ", "test2"), "%7Bfoo%28%29bar%20BAZ%2Ctest2%7D"),
        ("singlequote", "test", "'test'"),
        ("singlequote", ("test", "test'2"), r"'test','test\'2'"),
        ("doublequote", ("test", 'test"2'), r'"test","test\"2"'),
        ("sqlstring", "test'value", "'test''value'"),
        ("sqlstring", 'test"value', r"""'test\"value'"""),
        ("sqlstring", ("test", "test'value2", 'test"value3'), r"""'test','test''value2','test\"value3'"""),
        ("customqueryparam", ("api", "database"), "server=api&server=database"),
        ("customqueryparam:p-server:v-", "api", "p-server=v-api"),
        (
            "customqueryparam:p-server:v-",
            ("mysql&postgres", "databases!"),
            "p-server=v-mysql%26postgres&p-server=v-databases%21",
        ),
        (
            "customqueryparam:space & ampersand!:v& ",
            ("mysql&postgres", "databases!"),
            "space%20%26%20ampersand%21=v%26%20mysql%26postgres&space%20%26%20ampersand%21=v%26%20databases%21",
        ),
    ],
)
def test_grafanas_formats(form: str, value: str | tuple[str, ...], expected: str) -> None:
    view = View(RANGE.start, RANGE.end, {"server": Variable(value)})
    assert interpolate(f"${{server:{form}}}", view) == expected


def test_variables_in_a_query() -> None:
    view = View(
        RANGE.start,
        RANGE.end,
        {"one": Variable("a"), "many": Variable(("a", "b")), "all": Variable([ALL], options=("x", "y"))},
    )
    assert interpolate("$one ${one} [[one]] [[one:sqlstring]] $many ${all:csv}", view) == "a a a 'a' 'a','b' x,y"
    with_value = View(RANGE.start, RANGE.end, {"all": Variable(ALL, options=("x",), all_value="*")})
    assert interpolate("${all:sqlstring} ${all:percentencode}", with_value) == "* %2A"
    assert interpolate("$__from ${__to:date:seconds}", view) == "1415792726123 1447328726"
    assert interpolate("$__timeFilter(t)", view) == "$__timeFilter(t)"
    for wrong in ("$other", "${one:sqlstrnig}"):
        with pytest.raises(MacroError):
            interpolate(wrong, view)


@pytest.mark.parametrize(
    "name", [r"\'; DROP TABLE calls; --", "'; DROP TABLE calls; --", "$__dateFilter(x)", '"', "\\"]
)
def test_a_percent_encoded_value_cannot_leave_its_quotes(name: str) -> None:
    """Grafana's quoting formats escape no backslash, which ClickHouse minds; this encoding leaves neither."""
    view = View(RANGE.start, RANGE.end, {"tenant": Variable((name,))})
    expanded = expand("SELECT '${tenant:customqueryparam:v}' WHERE $__timeFilter(t)", view)
    literal = expanded.removeprefix("SELECT '").partition("'")[0]
    assert not set(literal) & set("'\"\\$()`;-/*") - set("-")
    assert expanded.endswith("' WHERE t >= toDateTime(1415792726) AND t <= toDateTime(1447328726)")


def test_comments_are_blanked_and_keep_their_length() -> None:
    sql = "SELECT /* a ' */ 'x /* y */' -- z\n, \"--\" /* open"
    assert strip_comments(sql) == "SELECT           'x /* y */'     \n, \"--\"        "
    assert len(strip_comments(sql)) == len(sql)
