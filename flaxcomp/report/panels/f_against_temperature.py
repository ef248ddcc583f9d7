"""F against the temperature of distillation, a line an architecture."""

from dataclasses import dataclass

from flaxcomp.report.charts import PALETTE, TOOLTIP, Spec, colour, faded, legend_pick, short_names, tip, wide
from flaxcomp.report.configurations import HARD_TARGETS, Naming
from flaxcomp.report.fronts import is_number
from flaxcomp.report.points import trial_rows
from flaxcomp.report.quantities import quantity
from flaxcomp.report.statistics import Summary, summarise
from flaxcomp.store.frame import Row, RunFrame

TITLE = "F against T"
ORDER = 50

LIMIT = len(PALETTE)
_T = "distill.temperature"


@dataclass(frozen=True)
class Series:
    """What differs in temperature and seed alone. `f` is by ascending T; `hard` is F with hard targets only, if tried."""

    label: str
    f: tuple[tuple[float, Summary], ...]
    hard: Summary | None


@dataclass(frozen=True)
class TemperatureInfo:
    """The series with the best mean F first, at most LIMIT; `total` counts all."""

    series: tuple[Series, ...]
    total: int

    @property
    def caption(self) -> str:
        cut = f" The best {len(self.series)} of {self.total} series are drawn." if self.total > len(self.series) else ""
        hard = " Dashed: the same model with hard targets only." if any(its.hard for its in self.series) else ""
        text = "Mean test F over runs at each temperature of the softmax, bands are 95 % intervals."
        return f"{text}{hard}{cut} Click in the legend to pick."


def info(frame: RunFrame) -> TemperatureInfo | None:
    """None unless a series has two temperatures."""
    naming = Naming.of(frame)
    soft: dict[str, dict[float, list[float]]] = {}
    hard: dict[str, list[float]] = {}
    models: dict[str, str] = {}
    for row in trial_rows(frame):
        if not is_number(row.get("test_f1")):
            continue
        if row.get("distill.teacher") or is_number(row.get(_T)):
            label = naming.label(row, without=[_T])
            models[label] = _undistilled(row, naming)
            soft.setdefault(label, {}).setdefault(float(row.get(_T) or 1.0), []).append(row["test_f1"])
        else:
            hard.setdefault(_undistilled(row, naming), []).append(row["test_f1"])
    found = [
        Series(
            label,
            tuple((t, summarise(values)) for t, values in sorted(by_t.items())),
            summarise(hard[models[label]]) if models[label] in hard else None,
        )
        for label, by_t in soft.items()
    ]
    if not any(len(its.f) > 1 for its in found):
        return None
    found.sort(key=lambda its: -max(summary.mean for _, summary in its.f))
    return TemperatureInfo(tuple(found[:LIMIT]), len(found))


def draw(info: TemperatureInfo) -> Spec:
    f = quantity("test_f1")
    names = short_names(its.label for its in info.series)
    lines, rules = [], []
    for its in info.series:
        for t, summary in its.f:
            interval = f" ± {f.difference(summary.half_width)}" if summary.half_width is not None else ""
            figures = {"T": f"{t:g}", "Test F": f.text(summary.mean) + interval, "Runs": str(summary.count)}
            ends = {"low": f.plotted(summary.low), "high": f.plotted(summary.high)}
            lines.append(
                {"t": t, "mean": f.plotted(summary.mean), **ends, "group": names[its.label], "tip": tip(its.label, figures)}
            )
        if its.hard:
            figures = {"Test F": f.text(its.hard.mean), "Runs": str(its.hard.count)}
            rules.append(
                {
                    "mean": f.plotted(its.hard.mean),
                    "group": names[its.label],
                    "tip": tip(f"{its.label} · {HARD_TARGETS}", figures),
                }
            )
    groups = sorted(names.values())
    x = {"field": "t", "type": "quantitative", "title": "Temperature T", "scale": {"zero": False}, "axis": {"format": ".6~g"}}
    y = f.axis([])
    colours = colour(groups, None)
    layers: list[Spec] = [
        {
            "mark": {"type": "area", "opacity": 0.14},
            "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}, "opacity": faded("pick", 0.14, 0.03)},
        },
        {
            "params": [legend_pick("pick")],
            "mark": {"type": "line", "point": {"filled": True, "size": 60}, "strokeWidth": 2},
            "encoding": {"x": x, "y": {"field": "mean", **y}, "opacity": faded("pick"), "tooltip": TOOLTIP},
        },
    ]
    if rules:
        dashes: Spec = {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5}
        encoding = {"y": {"field": "mean", **y}, "opacity": faded("pick", 0.9), "tooltip": TOOLTIP}
        layers.append({"data": {"values": rules}, "mark": dashes, "encoding": encoding})
    return wide(
        "Mean test F against the temperature of distillation, a line an architecture",
        height=340,
        data={"values": lines},
        encoding={"color": colours},
        layer=layers,
    )


def _undistilled(row: Row, naming: Naming) -> str:
    """The configuration without all that concerns the teacher."""
    return naming.label(
        row, without=[column for column in ("distill.teacher", *naming.columns) if column.startswith("distill.")]
    )
