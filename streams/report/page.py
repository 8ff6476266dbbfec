"""`calltide report --html`: one page that needs nothing but itself, for a browser, a mail or a printer.

A changer must know: the page loads nothing and runs nothing, and its Content-Security-Policy holds it to that. Whatever
comes from a call goes through `escape`. A chart is an image of its own, so that ids in two of them cannot meet.
"""

import base64
from html import escape
from typing import Final

from streams.report.charts import Chart, charts
from streams.report.figures import Report
from streams.report.tables import Table, heading, tables

_CSS: Final = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.2rem 3rem; background: #fff; color: #1d2126;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; border-top: 1px solid #d9dce1; padding-top: 1rem; }
p { margin: .2rem 0 .8rem; color: #4a515b; max-width: 48rem; }
nav a { margin-right: .9rem; white-space: nowrap; color: #1f5fae; }
figure { margin: .6rem 0 1rem; display: inline-block; max-width: 100%; vertical-align: top; }
figcaption { font-weight: 600; }
img { max-width: 100%; height: auto; display: block; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .22rem .7rem; text-align: left; border-bottom: 1px solid #e6e8eb; vertical-align: top;
  white-space: nowrap; }
thead th { background: #f4f5f7; }
tbody th { font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.long { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
.bad { color: #a81c37; font-weight: 600; } .good { color: #1d6b38; font-weight: 600; } .dim { color: #5f6772; }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } nav { display: none; } }
"""
"""Contrast of every text is 4.5 : 1 or more (WCAG 2.2, AA)."""

LONG: Final = 40
"""Characters: a longer cell is broken into lines."""

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """The document."""
    drawn: dict[str, list[Chart]] = {}
    for chart in charts(report):
        drawn.setdefault(chart.table, []).append(chart)
    told = tables(report)
    sections = "\n".join(_section(table, drawn.get(table.name, [])) for table in told)
    links = "\n".join(f'<a href="#{table.name}">{escape(table.title)}</a>' for table in told)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="calltide report">
<link rel="icon" href="data:,">
<title>{escape(f"Calltide: {heading(report)}")}</title>
<style>{_CSS}</style>
</head>
<body>
<header>
<h1>How calls went</h1>
<p>{escape(heading(report))}</p>
<nav aria-label="Sections">
{links}
</nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(table: Table, drawn: list[Chart]) -> str:
    body = _table(table) if table.rows else f"<p>{escape(table.nothing)}</p>"
    return f"""<section id="{table.name}" aria-labelledby="{table.name}-title">
<h2 id="{table.name}-title">{escape(table.title)}</h2>
<p>{escape(table.note)}</p>
{body if table.name == "overview" else ""}
{"".join(map(_figure, drawn))}
{body if table.name != "overview" else ""}
</section>"""


def _figure(chart: Chart) -> str:
    data = base64.b64encode(chart.svg).decode()
    return f"""<figure>
<figcaption>{escape(chart.title)}</figcaption>
<img alt="{escape(chart.alt)}" src="data:image/svg+xml;base64,{data}">
</figure>
"""


def _table(table: Table) -> str:
    numbers = [column.startswith(">") for column in table.columns]
    head = "".join(
        f'<th scope="col"{_class("number" if number else "")}>{escape(column.removeprefix(">"))}</th>'
        for column, number in zip(table.columns, numbers, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = []
        for place, (cell, number) in enumerate(zip(row, numbers, strict=True)):
            names = _class("number" if number else "", "long" if len(cell.text) > LONG else "", cell.tone)
            tag, scope = ("td", "") if place else ("th", ' scope="row"')
            cells.append(f"<{tag}{scope}{names}>{escape(cell.text)}</{tag}>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"""<div role="region" aria-label="{escape(table.title)}" tabindex="0">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table>
</div>"""


def _class(*names: str) -> str:
    given = " ".join(name for name in names if name)
    return f' class="{given}"' if given else ""
