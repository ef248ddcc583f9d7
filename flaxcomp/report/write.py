"""Writing a report into a folder: one HTML file, Markdown, a PNG a chart."""

import copy
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from flaxcomp.durable import write_bytes, write_text
from flaxcomp.errors import UserError, suggest
from flaxcomp.report import panels
from flaxcomp.report.charts import Spec, theme
from flaxcomp.report.facts import Facts, gather
from flaxcomp.report.page import page
from flaxcomp.report.panels import Drawn
from flaxcomp.report.tables import Table, markdown
from flaxcomp.store.frame import RunFrame
from flaxcomp.sweep.spec import Metric

FORMATS = ("html", "png", "md")
HTML, MARKDOWN = "index.html", "report.md"
_PNG_WIDTH = 860


def write_report(
    frame: RunFrame,
    folder: Path,
    formats: Collection[str] = FORMATS,
    metrics: Sequence[Metric] = (),
    now: datetime | None = None,
) -> Path:
    """Write the report of a run, finished or not, and return its main file.

    Each file appears whole or not at all; files of an older report in the folder are replaced.

    Args:
        frame: the run.
        folder: made if it is not there.
        formats: of FORMATS. Markdown links to the PNGs, so that "md" writes them too.
        metrics: whose front is shown in place of that of the sweep's metrics.
        now: the moment written into the report.

    Raises:
        UserError: no format, or an unknown one.
        OSError: the folder cannot be written.
    """
    if not formats:
        raise UserError(f"a report is written as {', '.join(FORMATS)}, got no format")
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"a report is written as {', '.join(FORMATS)}, got {name!r}.{suggest(name, FORMATS)}")
    if metrics:
        frame = replace(frame, metrics=tuple(metrics))
    drawn = panels.draw_all(frame)
    facts = gather(frame, now or datetime.now().astimezone())
    folder.mkdir(parents=True, exist_ok=True)
    main = folder
    if "md" in formats or "png" in formats:
        _write_pngs(folder, drawn)
    if "md" in formats:
        main = folder / MARKDOWN
        write_text(main, _markdown(facts, drawn))
    if "html" in formats:
        main = folder / HTML
        write_text(main, page(facts, drawn, _bundle() if drawn else ""))
    return main


def png(spec: Spec, scale: float = 1.5) -> bytes:
    """Draw a chart in light colours, without a browser."""
    import vl_convert

    fixed = copy.copy(spec)
    fixed.pop("usermeta", None)
    if fixed.get("width") == "container":
        fixed["width"] = _PNG_WIDTH
    fixed["padding"] = 16
    image: bytes = vl_convert.vegalite_to_png(json.dumps(fixed), scale=scale, config=theme("light", background="#ffffff"))
    return image


def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, which takes 0.8 s to make."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _write_pngs(folder: Path, drawn: list[Drawn]) -> None:
    charts = {panel.name: panel.content for panel in drawn if not isinstance(panel.content, Table)}
    for name in panels.names():
        if name in charts:
            write_bytes(folder / f"{name}.png", png(charts[name]))
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)


def _markdown(facts: Facts, drawn: list[Drawn]) -> str:
    lines = [f"# {facts.name}", "", f"flaxcomp report, {facts.written}.", ""]
    lines += [f"- Trials: {', '.join(f'{count:,} {status}' for status, count in facts.statuses) or 'none'}"]
    lines += [f"- {tile.label}: {tile.figure} ({tile.note})" for tile in facts.tiles[1:]]
    lines += [f"- Metrics: {'; '.join(facts.metrics)}"]
    if facts.constraints:
        lines.append(f"- Constraints: {', '.join(f'`{text}`' for text in facts.constraints)}")
    if facts.notice:
        lines += ["", f"> **Emulated.** {facts.notice}"]
    for panel in drawn:
        lines += ["", f"## {panel.title}", "", panel.caption, ""]
        content = panel.content
        lines.append(markdown(content) if isinstance(content, Table) else f"![{content['description']}]({panel.name}.png)")
    return "\n".join(lines) + "\n"
