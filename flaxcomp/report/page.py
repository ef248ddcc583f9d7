"""The report as one HTML file that needs nothing else: styles, scripts, specifications and data stand in it."""

import json
from html import escape
from pathlib import Path
from typing import Any

from flaxcomp.report.charts import theme
from flaxcomp.report.facts import Facts
from flaxcomp.report.panels import Drawn
from flaxcomp.report.tables import Cell, Table

_ASSETS = Path(__file__).parent / "assets"
# Vega compiles its expressions with `new Function`, hence unsafe-eval; nothing may be fetched from anywhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"


def page(facts: Facts, panels: list[Drawn], bundle: str) -> str:
    """The whole page.

    Args:
        facts: the head of the page.
        panels: in the order of the page.
        bundle: JavaScript that defines `vegaEmbed`.
    """
    charts = {panel.name: panel.content for panel in panels if not isinstance(panel.content, Table)}
    payload = {"charts": charts, "themes": {mode: theme(mode) for mode in ("light", "dark")}}
    links = "".join(f'<a href="#{panel.name}">{escape(panel.title)}</a>' for panel in panels)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(facts.name)} – flaxcomp report</title>
<link rel="icon" href="data:,">
<style>{_asset("page.css")}</style>
</head>
<body>
<header class="top">{_head(facts)}</header>
<nav aria-label="Panels">{links}</nav>
<main>
{"".join(_section(panel) for panel in panels) or "<p>No trial has finished yet: there is nothing to draw.</p>"}
</main>
<footer>Written by flaxcomp at {escape(facts.written)}.</footer>
<script type="application/json" id="payload">{_json(payload)}</script>
<script>{bundle}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _head(facts: Facts) -> str:
    statuses = "".join(
        f'<span class="status {escape(status)}">{count:,} {escape(status)}</span>' for status, count in facts.statuses
    )
    tiles = "".join(
        f'<div class="tile"><dt>{escape(tile.label)}</dt><dd>{escape(tile.figure)}</dd><small title="{escape(tile.note)}">'
        f"{escape(tile.note)}</small></div>"
        for tile in facts.tiles
    )
    metrics = "; ".join(map(escape, facts.metrics))
    limits = "".join(f"<code>{escape(text)}</code>" for text in facts.constraints)
    constraints = f" · Constraints: {limits}" if limits else ""
    notice = f'<p class="notice" role="note"><strong>Emulated.</strong> {escape(facts.notice)}</p>' if facts.notice else ""
    return (
        '<button id="mode" type="button" aria-label="Switch between light and dark">◐</button>'
        f'<p class="eyebrow">flaxcomp report · {escape(facts.written)}</p><h1>{escape(facts.name)}</h1>'
        f'<p class="statuses">{statuses}</p><dl class="tiles">{tiles}</dl>'
        f'<p class="goals">Metrics: {metrics}{constraints}</p>{notice}'
    )


def _section(panel: Drawn) -> str:
    if isinstance(panel.content, Table):
        body = _table(panel.content, panel.title)
    else:
        alt = escape(str(panel.content["description"]))
        body = (
            f'<div class="controls" data-for="{panel.name}" hidden></div>'
            f'<div class="wide"><div class="chart" data-chart="{panel.name}" role="img" aria-label="{alt}"></div></div>'
        )
    return (
        f'<section id="{panel.name}" aria-labelledby="{panel.name}-title">'
        f'<h2 id="{panel.name}-title">{escape(panel.title)}</h2>'
        f'<p class="caption">{escape(panel.caption)}</p>{body}</section>\n'
    )


def _table(table: Table, title: str) -> str:
    heads = "".join(f'<th scope="col" class="{_kind(table, index)}"><button type="button">{escape(name)}</button></th>'
                    for index, name in enumerate(table.columns))  # fmt: skip
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _kind(table: Table, index: int) -> str:
    return table.rows[0][index].kind if table.rows else "text"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    order = "" if cell.order is None else f' data-order="{escape(str(cell.order))}"'
    if cell.kind == "trial":
        text = f'<button type="button" class="copy" data-copy="{text}" title="Copy the trial id"><code>{text}</code></button>'
    elif cell.kind == "long":
        first, _, rest = cell.text.partition("\n")
        if rest or len(first) > 120:
            text = f"<details><summary>{escape(first[:120])}</summary><pre>{text}</pre></details>"
    text = text.replace("(emulated)", '<span class="emulated">emulated</span>').replace(
        "EMULATED", '<span class="emulated">EMULATED</span>'
    )
    return f'<td class="{cell.kind}"{order}>{text}</td>'


def _json(value: Any) -> str:
    """JSON that may stand in a script element. NaN and infinities, which JSON lacks, are not among the data."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
