"""Accuracy over repeated runs: the mean of each configuration with its 95 % interval, and every run."""

from dataclasses import dataclass

from flaxcomp.report.charts import TOOLTIP, Spec, colour, short_names, tip, wide
from flaxcomp.report.configurations import Naming, architecture
from flaxcomp.report.fronts import is_number
from flaxcomp.report.points import trial_rows
from flaxcomp.report.quantities import Quantity, quantity
from flaxcomp.report.statistics import Summary, by_configuration, summarise
from flaxcomp.store.frame import RunFrame

TITLE = "Accuracy over runs"
ORDER = 30

LIMIT = 40


@dataclass(frozen=True)
class Runs:
    """The runs of one configuration; `values` are accuracies in [0, 1]."""

    label: str
    group: str
    values: tuple[float, ...]
    seeds: tuple[object, ...]
    summary: Summary


@dataclass(frozen=True)
class RunsInfo:
    """Configurations with the best mean first, at most LIMIT; `total` counts all."""

    accuracy: Quantity
    configurations: tuple[Runs, ...]
    total: int

    @property
    def caption(self) -> str:
        cut = f" The best {len(self.configurations)} of {self.total} configurations are drawn." if self.total > LIMIT else ""
        return (
            f"{self.accuracy.label}: a dot a run, a bar from the mean to both ends of its 95 % interval, 1.96 s / √n with s "
            f"the sample standard deviation over runs that differ in the seed alone.{cut}"
        )


def info(frame: RunFrame) -> RunsInfo | None:
    """Group the trials; None unless a configuration ran more than once."""
    rows = trial_rows(frame)
    name = "test_accuracy" if any(is_number(row.get("test_accuracy")) for row in rows) else "val_accuracy"
    naming = Naming.of(frame)
    found = []
    for group in by_configuration([row for row in rows if is_number(row.get(name))]):
        values = tuple(float(row[name]) for row in group)
        seeds = tuple(row.get("seed") for row in group)
        found.append(Runs(naming.label(group[0]), architecture(group[0]), values, seeds, summarise(values)))
    if not any(runs.summary.count > 1 for runs in found):
        return None
    found.sort(key=lambda runs: -runs.summary.mean)
    return RunsInfo(quantity(name), tuple(found[:LIMIT]), len(found))


def draw(info: RunsInfo) -> Spec:
    its = info.accuracy
    names = short_names(its_runs.label for its_runs in info.configurations)
    means, runs = [], []
    for its_runs in info.configurations:
        summary = its_runs.summary
        interval = f" ± {its.difference(summary.half_width)}" if summary.half_width is not None else ""
        means.append(
            {
                "label": names[its_runs.label],
                "group": its_runs.group,
                "mean": its.plotted(summary.mean),
                "low": its.plotted(summary.low),
                "high": its.plotted(summary.high),
                "tip": tip(
                    its_runs.label, {"Mean, 95 % interval": its.text(summary.mean) + interval, "Runs": str(summary.count)}
                ),
            }
        )
        for value, seed in zip(its_runs.values, its_runs.seeds, strict=True):
            note = tip(its_runs.label, {its.label: its.text(value), "Seed": str(seed)})
            runs.append({"label": names[its_runs.label], "group": its_runs.group, "value": its.plotted(value), "tip": note})
    x = its.axis([])
    y = {"field": "label", "type": "nominal", "title": None, "sort": list(names.values())}
    colours = colour(sorted({its_runs.group for its_runs in info.configurations}), None)
    bars = {"x": {"field": "low", **x}, "x2": {"field": "high"}, "color": colours, "tooltip": TOOLTIP}
    return wide(
        f"{its.label} of each configuration: all runs, mean and 95 % interval",
        height=max(120, 24 * len(info.configurations)),
        encoding={"y": {**y, "axis": {"grid": True, "gridDash": [1, 3]}}},
        layer=[
            {
                "data": {"values": runs},
                "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.35},
                "encoding": {"x": {"field": "value", **x}, "color": colours, "tooltip": TOOLTIP},
            },
            {"data": {"values": means}, "mark": {"type": "rule", "strokeWidth": 3, "strokeCap": "round"}, "encoding": bars},
            {
                "data": {"values": means},
                "mark": {"type": "point", "filled": True, "size": 80, "shape": "diamond"},
                "encoding": {"x": {"field": "mean", **x}, "color": colours, "tooltip": TOOLTIP},
            },
        ],
    )
