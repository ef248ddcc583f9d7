"""What a column's figures mean: their name for people, unit, better direction, and how they are written."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from flaxcomp.report.fronts import MEASURED, is_number
from flaxcomp.sweep.spec import Metric

Kind = Literal["share", "count", "bytes", "milliseconds", "seconds", "number"]
Goal = Literal["maximize", "minimize"]
PRECISIONS = ("float32", "float16", "weight_only", "dynamic", "int16", "int8")  # the ladder, from the top


@dataclass(frozen=True)
class Quantity:
    """A column of figures.

    Attributes:
        name: the column. label: its name for people, without the unit.
        kind: its unit; shares lie in [0, 1] and are written in percent.
        goal: which way is better.
    """

    name: str
    label: str
    kind: Kind
    goal: Goal

    @property
    def phrase(self) -> str:
        """The label inside a sentence: "validation accuracy", "test F", "CompRate"."""
        first, space, rest = self.label.partition(" ")
        return (first.lower() if first.istitle() else first) + space + rest

    @property
    def unit(self) -> str:
        """The unit of `plotted`, "" for bare numbers."""
        return {"share": "%", "bytes": "KiB", "milliseconds": "ms", "seconds": "s"}.get(self.kind, "")

    @property
    def measured(self) -> bool:
        """Whether a device says it, so that it is compared within one setting only."""
        return self.name in MEASURED

    def plotted(self, value: float) -> float | None:
        """The value in `unit`, to seven significant digits: what a chart holds. None, a gap, where it is not finite."""
        if not math.isfinite(value):
            return None
        factor = {"share": 100.0, "bytes": 1 / 1024}.get(self.kind, 1.0)
        return float(f"{value * factor:.7g}")

    def text(self, value: Any) -> str:
        """The value with its unit, or an en dash where nothing is known."""
        if not is_number(value):
            return "–"
        if self.kind == "share":
            return f"{100 * value:.2f} %"
        if self.kind == "milliseconds":
            return f"{_three(value)} ms"
        return {"count": _count, "bytes": _bytes, "seconds": _seconds, "number": _plain}[self.kind](value)

    def difference(self, value: float) -> str:
        """A half width or difference of this quantity, with its unit; shares in percentage points."""
        return f"{100 * value:.2f} pp" if self.kind == "share" else self.text(value)

    def axis(self, values: Iterable[float], note: str = "") -> dict[str, Any]:
        """The Vega-Lite channel of an axis: title with unit, number format, logarithmic where the values span decades."""
        known = [value for value in values if math.isfinite(value)]
        spread = self.kind in ("count", "bytes", "milliseconds", "seconds") and bool(known) and min(known) > 0
        unit = f" ({self.unit})" if self.unit else ""
        return {
            "type": "quantitative",
            "title": self.label + unit + (f", {note}" if note else ""),
            "axis": {"format": "~s" if self.kind == "count" else ",.6~g", "tickCount": 8},
            "scale": {"type": "log" if spread and max(known) >= 20 * min(known) else "linear", "zero": False, "nice": True},
        }


_LABELS: dict[str, str] = {
    "val_accuracy": "Validation accuracy",
    "test_accuracy": "Test accuracy",
    "val_top5_accuracy": "Validation accuracy (top 5)",
    "test_top5_accuracy": "Test accuracy (top 5)",
    "test_precision": "Test precision (macro)",
    "test_recall": "Test recall (macro)",
    "test_f1": "Test F",
    "accuracy": "Accuracy of the file",
    "accuracy_drop": "Accuracy lost in conversion",
    "params": "Parameters",
    "trainable_params": "Trainable parameters",
    "macs": "Multiply-accumulates",
    "comp_rate": "CompRate",
    "size_bytes": "File size",
    "latency_ms": "Latency",
    "peak_memory_bytes": "Peak memory",
    "instructions": "Instructions",
    "train_seconds": "Training time",
    "val_loss": "Validation loss",
    "train_loss": "Training loss",
}


def quantity(name: str, metrics: Iterable[Metric] = ()) -> Quantity:
    """Describe a column; the goal is that of the sweep's metric of this name, else the obvious one."""
    goals = {metric.name: metric.goal for metric in metrics}
    return Quantity(
        name=name,
        label=_LABELS.get(name, name.replace("_", " ").replace(".", " ").capitalize()),
        kind=_kind(name),
        goal=goals.get(name, "maximize" if _more_is_better(name) else "minimize"),
    )


def _kind(name: str) -> Kind:
    if name.endswith(("accuracy", "accuracy_drop", "precision", "recall", "_f1")) or name == "comp_rate":
        return "share"
    if name.endswith("params") or name in ("macs", "instructions"):
        return "count"
    if name.endswith("_bytes"):
        return "bytes"
    if name.endswith("_ms"):
        return "milliseconds"
    return "seconds" if name.endswith(("_seconds", "_s")) else "number"


def _more_is_better(name: str) -> bool:
    return name.endswith(("accuracy", "precision", "recall", "_f1", "per_second")) or name == "comp_rate"


def _count(value: float) -> str:
    if abs(value) < 1e7:
        return f"{value:,.0f}"
    return _three(value / 1e9) + " G" if abs(value) >= 1e9 else _three(value / 1e6) + " M"


def _bytes(value: float) -> str:
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(value) >= factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f} B"


def _seconds(value: float) -> str:
    if value >= 5400:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 120 else f"{_three(value)} s"


def _three(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def _plain(value: float) -> str:
    return f"{value:.4g}"
