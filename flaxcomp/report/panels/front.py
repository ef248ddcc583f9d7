"""The Pareto front of any two metrics; on the page both can be chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from flaxcomp.report.charts import TOOLTIP, Spec, colour, tip, wide
from flaxcomp.report.configurations import Naming, architecture
from flaxcomp.report.fronts import Setting, is_number, pareto
from flaxcomp.report.points import Level, competing, known_metrics, level, rows_at, thinned
from flaxcomp.report.quantities import Quantity, quantity
from flaxcomp.store.frame import Row, RunFrame
from flaxcomp.sweep.spec import Metric

TITLE = "The front"
ORDER = 10

# Offered beside the sweep's own metrics, as far as there are figures.
_OFFERED = ("val_accuracy", "test_accuracy", "test_f1", "comp_rate", "trainable_params", "params", "macs", "train_seconds",
            "accuracy", "size_bytes", "latency_ms", "peak_memory_bytes", "instructions")  # fmt: skip
_LEVELS: tuple[Level, ...] = ("trial", "artifact", "measurement")
_KINDS = ("on the front", "beaten", "out of the running")


@dataclass(frozen=True)
class Point:
    """A row that may stand in the chart. `values` are parallel to FrontInfo.quantities, None where unknown.

    `competes` is false for rows outside the constraints and for files that lost too much accuracy; `setting` is an index into
    FrontInfo.settings, None for rows that were not measured.
    """

    trial: str
    group: str
    values: tuple[float | None, ...]
    tip: dict[str, str]
    competes: bool
    setting: int | None


@dataclass(frozen=True)
class FrontInfo:
    """Everything that the front of any two of the quantities needs.

    Attributes:
        x, y: names of the quantities that are shown first.
        points: by level; each level's points are those of one kind of row.
        fronts: the indices into the points of the pair's level that are on its front, for each pair of names, sorted.
        left_out: how many rows are no points, because there are too many to draw; those on a front are all there.
    """

    x: str
    y: str
    quantities: tuple[Quantity, ...]
    points: dict[Level, tuple[Point, ...]]
    fronts: dict[tuple[str, str], tuple[int, ...]]
    settings: tuple[Setting, ...]
    constraints: tuple[str, ...]
    left_out: int = 0

    @property
    def caption(self) -> str:
        parts = ["A trial is on the front when no other is at least as good in both metrics and better in one."]
        if self.constraints:
            parts.append(f"Only trials with {' and '.join(self.constraints)} compete, where that is known.")
        if self.left_out:
            parts.append(f"All that are on a front are drawn; of the others {self.left_out:,} are not, evenly chosen.")
        if self.settings:
            parts.append("Figures of different devices, runtimes, threads or protocols are never ranked together.")
        emulated = [setting for setting in self.settings if setting.emulated]
        if emulated:
            parts.append(
                "All device figures are EMULATED."
                if len(emulated) == len(self.settings)
                else "Emulated devices are marked EMULATED."
            )
        return " ".join(parts)

    def index(self, name: str) -> int:
        return [its.name for its in self.quantities].index(name)

    def front(self, x: str, y: str) -> tuple[int, ...]:
        return self.fronts[min(x, y), max(x, y)]


def info(frame: RunFrame) -> FrontInfo | None:
    """Gather the points of all levels and the front of every pair; None unless two metrics have figures."""
    rows = {where: rows_at(frame, where) for where in _LEVELS}
    names = dict.fromkeys([*(metric.name for metric in known_metrics(frame)), *_OFFERED])
    known = [name for name in names if any(is_number(row.get(name)) for row in rows[level([name])])]
    if len(known) < 2:
        return None
    quantities = tuple(quantity(name, frame.metrics) for name in known)
    settings = tuple(sorted({Setting.of(row) for row in rows["measurement"]}))
    rivals = {where: competing(rows[where], frame.constraints) for where in _LEVELS}
    fronts = {}
    for first, second in combinations(quantities, 2):
        where = level([first.name, second.name])
        metrics = [Metric(name=its.name, goal=its.goal) for its in (first, second)]
        members = {id(row) for row in pareto(rivals[where], metrics)}
        pair = (min(first.name, second.name), max(first.name, second.name))
        fronts[pair] = tuple(index for index, row in enumerate(rows[where]) if id(row) in members)
    drawn = {where: _drawn(where, len(rows[where]), fronts) for where in _LEVELS}
    naming = Naming.of(frame)
    points = {}
    for where in _LEVELS:
        allowed = {id(row) for row in rivals[where]}
        its = (rows[where][index] for index in drawn[where])
        points[where] = tuple(_point(row, quantities, naming, settings, id(row) in allowed) for row in its)
    place = {where: {index: place for place, index in enumerate(its)} for where, its in drawn.items()}
    fronts = {pair: tuple(place[level(pair)][index] for index in members) for pair, members in fronts.items()}
    left_out = sum(len(rows[where]) - len(drawn[where]) for where in _LEVELS)
    y, x = known[0], known[1]
    return FrontInfo(x, y, quantities, points, fronts, settings, frame.constraints, left_out)


def _drawn(where: Level, count: int, fronts: Mapping[tuple[str, str], Sequence[int]]) -> list[int]:
    """Which of so many rows become points."""
    members = {index for pair, its in fronts.items() if level(pair) == where for index in its}
    others = [index for index in range(count) if index not in members]
    return sorted([*members, *thinned(others)])


def draw(info: FrontInfo) -> Spec:
    """The first pair of metrics. `usermeta.front` carries what the page needs to show any other pair."""
    x, y = info.index(info.x), info.index(info.y)
    where = level([info.x, info.y])
    points = info.points[where]
    front = set(info.front(info.x, info.y))
    setting = 0 if where == "measurement" else None
    values = [
        {
            "x": point.values[x],
            "y": point.values[y],
            "kind": _kind(point, index in front),
            "group": point.group,
            "tip": point.tip,
        }
        for index, point in enumerate(points)
        if point.values[x] is not None and point.values[y] is not None and point.setting in (setting, None)
    ]
    axes = [_axes(info, quantity) for quantity in info.quantities]
    note = "emulated" if setting is not None and info.settings[setting].emulated else ""
    every = [point for its in info.points.values() for point in its]
    kinds = _KINDS if not all(point.competes for point in every) else _KINDS[:2]
    return wide(
        f"{info.quantities[y].label} against {info.quantities[x].label}, with the front as a line",
        height=440,
        datasets={"points": sorted(values, key=lambda value: -_KINDS.index(value["kind"]))},
        data={"name": "points"},
        encoding={"x": {"field": "x", **axes[x][note]}, "y": {"field": "y", **axes[y][note]}},
        layer=_layers(
            sorted({point.group for point in every}),
            kinds,
            "step-after" if info.quantities[x].goal == "minimize" else "step-before",
        ),
        usermeta={"front": _payload(info, axes)},
    )


def _point(row: Row, quantities: Sequence[Quantity], naming: Naming, settings: Sequence[Setting], competes: bool) -> Point:
    measured = "device" in row
    figures = {"Trial": str(row["trial"])}
    if row.get("seed") is not None:
        figures["Seed"] = str(row["seed"])
    if "precision" in row:
        figures["File"] = str(row.get("file", row["precision"])) + (
            " – accuracy fell beyond the bound" if row.get("flagged") else ""
        )
    if measured:
        figures["Device"] = str(Setting.of(row))
    for its in quantities:
        twice = its.name == "trainable_params" and row.get("params") == row.get("trainable_params")
        if is_number(row.get(its.name)) and not twice:
            figures[its.label] = its.text(row[its.name]) + (" (emulated)" if its.measured and row.get("emulated") else "")
    return Point(
        trial=str(row["trial"]),
        group=architecture(row),
        values=tuple(its.plotted(row[its.name]) if is_number(row.get(its.name)) else None for its in quantities),
        tip=tip(naming.label(row), figures),
        competes=competes,
        setting=settings.index(Setting.of(row)) if measured else None,
    )


def _kind(point: Point, on_front: bool) -> str:
    return "on the front" if on_front else "beaten" if point.competes else "out of the running"


def _axes(info: FrontInfo, its: Quantity) -> dict[str, Any]:
    """The channel of a quantity without a note and, where a device says it, marked as emulated."""
    index = info.index(its.name)
    values = [value for points in info.points.values() for point in points if (value := point.values[index]) is not None]
    return {"": its.axis(values), "emulated": its.axis(values, "EMULATED" if its.measured else "")}


def _layers(groups: Sequence[str], kinds: Sequence[str], interpolate: str) -> list[Spec]:
    shape: Spec = {
        "field": "kind",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(kinds), "range": ["diamond", "circle", "cross"][: len(kinds)]},
        "legend": {"orient": "top"},
    }
    weight = {"condition": {"test": "datum.kind == 'on the front'", "value": 190}, "value": 48}
    opacity = {"condition": {"test": "datum.kind == 'on the front'", "value": 1}, "value": 0.45}
    return [
        {
            "transform": [{"filter": "datum.kind == 'on the front'"}],
            "mark": {"type": "line", "interpolate": interpolate, "strokeWidth": 1.5, "opacity": 0.55},
        },
        {
            "mark": {"type": "point", "filled": True, "cursor": "pointer"},
            "encoding": {"color": colour(groups, None), "shape": shape, "size": weight, "opacity": opacity, "tooltip": TOOLTIP},
        },
    ]


def _payload(info: FrontInfo, axes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    texts: dict[str, int] = {}  # thousands of tooltips say much the same: each text is kept once

    def numbered(text: str) -> int:
        return texts.setdefault(text, len(texts))

    points = {
        where: [
            [
                point.values,
                numbered(point.group),
                numbered(_kind(point, False)),
                point.setting,
                [numbered(text) for item in point.tip.items() for text in item],
            ]
            for point in its
        ]
        for where, its in info.points.items()
    }
    return {
        "x": info.x,
        "y": info.y,
        "kinds": _KINDS,
        "settings": [{"text": str(setting), "emulated": setting.emulated} for setting in info.settings],
        "quantities": [
            {
                "name": its.name,
                "label": its.label,
                "phrase": its.phrase,
                "goal": its.goal,
                "level": level([its.name]),
                "test": its.name.startswith("test_"),
                "axes": axes[index],
            }
            for index, its in enumerate(info.quantities)
        ],
        "points": points,
        "texts": list(texts),
        "fronts": {" ".join(pair): members for pair, members in info.fronts.items()},
    }
