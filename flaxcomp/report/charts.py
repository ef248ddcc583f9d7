"""What all charts share: colours for light and dark, tooltips, intervals. Charts are Vega-Lite specifications."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Spec = dict[str, Any]

# Observable's ten, told apart by colour-blind readers better than most and legible on white and on near-black.
PALETTE = ("#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#6cc5b0", "#ff8ab7", "#9c6b4e", "#97bbf5", "#9498a0")
_INK = {"light": ("#1d2430", "#5c6675", "#e3e7ee"), "dark": ("#e8ecf3", "#9aa5b5", "#2c3442")}  # text, axes, grid


def theme(mode: str, background: str = "transparent") -> Spec:
    """The Vega config of a mode, "light" or "dark"."""
    text, quiet, grid = _INK[mode]
    labels = {"labelColor": quiet, "titleColor": text, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": background,
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
        "axis": {
            **labels, "titleFontWeight": 600, "titlePadding": 10, "gridColor": grid, "domainColor": quiet, "tickColor": quiet,
            "labelFlush": False, "labelOverlap": True,
            "labelLimit": 0,
        },
        "legend": {
            **labels, "titleFontWeight": 600, "symbolSize": 90, "symbolOpacity": 1, "labelLimit": 0,
            "symbolBaseFillColor": quiet, "symbolBaseStrokeColor": quiet,
        },
        "header": {**labels, "labelFontWeight": 600, "labelFontSize": 13},
        "title": {"color": text, "fontSize": 13, "fontWeight": 600},
        "view": {"stroke": None},
        "range": {"category": list(PALETTE)},
        "line": {"color": text},
        "rule": {"color": text},
        "text": {"color": text},
    }  # fmt: skip


def chart(description: str, **parts: Any) -> Spec:
    """A specification with the description that screen readers say."""
    return {"description": description, **parts}


def wide(description: str, height: int, **parts: Any) -> Spec:
    """A single view as wide as its place on the page."""
    return chart(description, width="container", height=height, autosize={"type": "fit-x", "contains": "padding"}, **parts)


def tip(title: str, figures: Mapping[str, str]) -> dict[str, str]:
    """The content of a tooltip, shown by `"tooltip": {"field": "tip"}`."""
    return {"title": title, **figures}


TOOLTIP: Spec = {"field": "tip", "type": "nominal"}


def colour(groups: Iterable[str], title: str | None, legend: bool = True) -> Spec:
    """The colour channel over the field `group`, with a stable assignment of colours."""
    domain = list(dict.fromkeys(groups))
    scale: Spec = {"domain": domain}
    if len(domain) > len(PALETTE):
        scale["scheme"] = "tableau20"
    shown: Spec | None = (
        {"orient": "bottom", "columns": _columns(domain), "symbolLimit": 30} if legend and len(domain) > 1 else None
    )
    return {"field": "group", "type": "nominal", "title": title, "scale": scale, "legend": shown}


def short_names(labels: Iterable[str], limit: int = 46) -> dict[str, str]:
    """A name of at most about `limit` characters for each label, cut in the middle; different labels keep different names.

    Vega could cut labels itself, but measures each many times for it, which takes seconds.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in dict.fromkeys(labels):
        short = label if len(label) <= limit else f"{label[: limit * 3 // 5]}…{label[-(limit * 2 // 5) :]}"
        name, count = short, 1
        while name in taken:
            count += 1
            name = f"{short} ({count})"
        taken.add(name)
        names[label] = name
    return names


def faded(param: str, strong: float = 1.0, weak: float = 0.08) -> Spec:
    """An opacity that lets the groups picked in the legend stand out."""
    return {"condition": {"param": param, "value": strong}, "value": weak}


def legend_pick(name: str) -> Spec:
    return {"name": name, "select": {"type": "point", "fields": ["group"]}, "bind": "legend"}


def _columns(domain: Sequence[str]) -> int:
    widest = max((len(name) for name in domain), default=1)
    return max(1, min(len(domain), 100 // (widest + 6)))
