"""F against the compression rate: what a smaller model costs."""

from dataclasses import dataclass

from flaxcomp.report.charts import TOOLTIP, Spec, colour, tip, wide
from flaxcomp.report.configurations import Naming, architecture
from flaxcomp.report.fronts import is_number
from flaxcomp.report.points import thinned, trial_rows
from flaxcomp.report.quantities import quantity
from flaxcomp.report.statistics import Summary, by_configuration, summarise
from flaxcomp.store.frame import RunFrame

TITLE = "F against CompRate"
ORDER = 40


@dataclass(frozen=True)
class Compressed:
    """A configuration: the share of weights saved against its teacher or the largest model, and F over its runs, in [0, 1]."""

    label: str
    group: str
    comp_rate: float
    trainable_params: int
    f: Summary


@dataclass(frozen=True)
class CompRateInfo:
    """The configurations of the sweep, and the models they are compared with: the teachers, which stay outside the axis.

    `total` counts the configurations, of which very many are not all drawn.
    """

    configurations: tuple[Compressed, ...]
    references: tuple[Compressed, ...]
    total: int

    @property
    def caption(self) -> str:
        dashed = " Dashed: the teacher." if self.references else ""
        drawn = len(self.configurations)
        cut = f" {drawn:,} of {self.total:,} configurations are drawn, evenly chosen." if drawn < self.total else ""
        return (
            "F = 2 · Prec · Recall / (Prec + Recall) of the macro means on the test set; CompRate = (D − d) / D over trainable "
            "weights, D those of the teacher, or of the largest model where there is none. "
            f"Bars are 95 % intervals over runs.{dashed}{cut}"
        )


def info(frame: RunFrame) -> CompRateInfo | None:
    """None unless two different compression rates have an F."""
    naming = Naming.of(frame)
    found = _compressed(frame, "trial", naming)
    references = _compressed(frame, "dependency", naming)
    if not found or len({its.comp_rate for its in (*found, *references)}) < 2:
        return None
    return CompRateInfo(tuple(thinned(found)), tuple(thinned(references)), len(found))


def draw(info: CompRateInfo) -> Spec:
    f, rate = quantity("test_f1"), quantity("comp_rate")
    colours = colour(sorted({its.group for its in info.configurations}), None)
    x, y = rate.axis([]), f.axis([])
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"x": {"field": "rate", **x}, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": colours},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 80, "opacity": 0.85},
            "encoding": {"x": {"field": "rate", **x}, "y": {"field": "mean", **y}, "color": colours, "tooltip": TOOLTIP},
        },
    ]
    if info.references:
        data = {"values": [_value(its) for its in info.references]}
        at = {"y": {"field": "mean", **y}, "tooltip": TOOLTIP}
        layers += [
            {"data": data, "mark": {"type": "rule", "strokeDash": [5, 4], "opacity": 0.7}, "encoding": at},
            {
                "data": data,
                "mark": {"type": "text", "align": "left", "baseline": "bottom", "dy": -4, "x": 6},
                "encoding": {**at, "text": {"field": "name", "type": "nominal"}},
            },
        ]
    return wide(
        "Test F against the compression rate of each configuration, with 95 % intervals",
        height=340,
        data={"values": [_value(its) for its in info.configurations]},
        layer=layers,
    )


def _compressed(frame: RunFrame, role: str, naming: Naming) -> tuple[Compressed, ...]:
    rows = [row for row in trial_rows(frame, role) if is_number(row.get("test_f1")) and is_number(row.get("comp_rate"))]
    found = []
    for group in by_configuration(rows):
        first = group[0]
        label = naming.label(first) if role == "trial" else f"{architecture(first)} (teacher)"
        scores = summarise(row["test_f1"] for row in group)
        found.append(Compressed(label, architecture(first), first["comp_rate"], first["trainable_params"], scores))
    return tuple(found)


def _value(its: Compressed) -> dict[str, object]:
    f, rate, size = quantity("test_f1"), quantity("comp_rate"), quantity("trainable_params")
    interval = f" ± {f.difference(its.f.half_width)}" if its.f.half_width is not None else ""
    figures = {
        f.label: f.text(its.f.mean) + interval,
        rate.label: rate.text(its.comp_rate),
        size.label: size.text(its.trainable_params),
        "Runs": str(its.f.count),
    }
    return {
        "rate": rate.plotted(its.comp_rate),
        "mean": f.plotted(its.f.mean),
        "low": f.plotted(its.f.low),
        "high": f.plotted(its.f.high),
        "group": its.group,
        "name": its.label,
        "tip": tip(its.label, figures),
    }
