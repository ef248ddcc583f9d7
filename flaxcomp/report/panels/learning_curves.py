"""Learning curves: every trial of a small run, the median and the middle 80 % of each architecture in a large one."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flaxcomp.report.charts import PALETTE, TOOLTIP, Spec, chart, colour, faded, legend_pick, short_names, tip
from flaxcomp.report.configurations import Naming, architecture
from flaxcomp.report.fronts import is_number
from flaxcomp.report.quantities import Quantity, quantity
from flaxcomp.store.frame import Row, RunFrame

TITLE = "Learning curves"
ORDER = 80

MOST_LINES = 20
_SHOWN = ("val_accuracy", "train_loss")


@dataclass(frozen=True)
class Curve:
    """A quantity by epoch. `low` and `high` bound the middle 80 % of the trials in a band, and equal `middle` for one trial."""

    group: str
    label: str
    name: str
    epochs: tuple[int, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    trials: int


@dataclass(frozen=True)
class CurvesInfo:
    """Curves of val_accuracy, then of train_loss, as far as they were recorded."""

    curves: tuple[Curve, ...]
    trials: int
    drawn: int

    @property
    def caption(self) -> str:
        if any(curve.trials > 1 for curve in self.curves):
            text = f"The median and the middle 80 % of the trials of each architecture, {self.trials} trials in all."
        elif self.drawn < self.trials:
            text = f"The best {self.drawn} of {self.trials} trials by their last validation accuracy."
        else:
            text = "A line a trial."
        return f"{text} Trials still running or failed are drawn as far as they came. Click in the legend to pick."


def info(frame: RunFrame) -> CurvesInfo | None:
    """None unless a trial has two epochs."""
    epochs: dict[str, list[Row]] = {}
    for row in frame.epochs:
        epochs.setdefault(str(row["trial"]), []).append(row)
    rows = {str(row["trial"]): row for row in frame.trials}
    for its in epochs.values():
        its.sort(key=lambda row: row["epoch"])
    if not any(len(its) > 1 for its in epochs.values()):
        return None
    groups = {trial: architecture(rows.get(trial, {})) for trial in epochs}
    kinds = set(groups.values())
    if len(epochs) > MOST_LINES and 2 <= len(kinds) <= len(PALETTE):
        curves = [curve for name in _SHOWN for group in sorted(kinds) for curve in _band(name, group, epochs, groups)]
        return CurvesInfo(tuple(curves), len(epochs), len(epochs))
    naming = Naming.of(frame)
    best = sorted(epochs, key=lambda trial: -_last(epochs[trial]))[:MOST_LINES]
    curves = []
    for name in _SHOWN:
        for trial in best:
            known = [row for row in epochs[trial] if is_number(row.get(name))]
            if known:
                values = tuple(float(row[name]) for row in known)
                label = naming.label(rows.get(trial, {"trial": trial}), seed=True)
                curves.append(Curve(trial, label, name, tuple(row["epoch"] for row in known), values, values, values, 1))
    return CurvesInfo(tuple(curves), len(epochs), len(best))


def draw(info: CurvesInfo) -> Spec:
    single = all(curve.trials == 1 for curve in info.curves)
    names = list(dict.fromkeys(curve.name for curve in info.curves))
    parts = [_view([curve for curve in info.curves if curve.name == name], quantity(name), single, index == 0)
             for index, name in enumerate(names)]  # fmt: skip
    return chart("Validation accuracy and training loss by epoch", hconcat=parts)


def _last(rows: Iterable[Row]) -> float:
    known = [row["val_accuracy"] for row in rows if is_number(row.get("val_accuracy"))]
    return float(known[-1]) if known else -1.0


def _band(name: str, group: str, epochs: dict[str, list[Row]], groups: dict[str, str]) -> list[Curve]:
    by_epoch: dict[int, list[float]] = {}
    members = [trial for trial, its in groups.items() if its == group]
    for trial in members:
        for row in epochs[trial]:
            if is_number(row.get(name)):
                by_epoch.setdefault(row["epoch"], []).append(row[name])
    if not by_epoch:
        return []
    order = sorted(by_epoch)
    bounds = [np.quantile(by_epoch[epoch], (0.1, 0.5, 0.9)) for epoch in order]
    low, middle, high = (tuple(float(bound[place]) for bound in bounds) for place in range(3))
    return [Curve(group, group, name, tuple(order), middle, low, high, len(members))]


def _view(curves: list[Curve], its: Quantity, single: bool, first: bool) -> Spec:
    values: list[Spec] = []
    for curve in curves:
        for epoch, middle, low, high in zip(curve.epochs, curve.middle, curve.low, curve.high, strict=True):
            figures = {"Epoch": str(epoch), its.label: its.text(middle)}
            if curve.trials > 1:
                figures |= {its.label: f"{its.text(middle)} (median)", "Middle 80 %": f"{its.text(low)} to {its.text(high)}"}
                figures["Trials"] = str(curve.trials)
            else:
                figures["Trial"] = curve.group
            plotted = {"middle": its.plotted(middle), "low": its.plotted(low), "high": its.plotted(high)}
            name = f"{short_names([curve.label])[curve.label]} ({curve.group[:6]})" if single else curve.group
            values.append({"epoch": epoch, **plotted, "group": name, "tip": tip(curve.label, figures)})
    y = its.axis([])
    groups = list(dict.fromkeys(str(value["group"]) for value in values))
    line: Spec = {
        "params": [legend_pick("pick")] if first else [],
        "mark": {"type": "line", "strokeWidth": 2, "interpolate": "monotone"},
        "encoding": {"y": {"field": "middle", **y}, "opacity": faded("pick")},
    }
    dots: Spec = {
        "mark": {"type": "point", "filled": True, "size": 60},
        "encoding": {"y": {"field": "middle", **y}, "opacity": {"value": 0}, "tooltip": TOOLTIP},
    }
    band: Spec = {
        "mark": {"type": "area", "interpolate": "monotone"},
        "encoding": {"y": {"field": "low", **y}, "y2": {"field": "high"}, "opacity": faded("pick", 0.15, 0.02)},
    }
    last = max(curve.epochs[-1] for curve in curves)
    return {
        "width": 400,
        "height": 300,
        "data": {"values": values},
        "encoding": {
            "x": {"field": "epoch", "type": "quantitative", "title": "Epoch", "scale": {"zero": False, "nice": False},
                  "axis": {"format": "d", "tickMinStep": 1, "tickCount": min(10, last)}},
            "color": colour(groups, None),
        },
        "layer": ([] if single else [band]) + [line, dots],
    }  # fmt: skip
