"""The precision ladder: what the same trained network keeps and weighs from float32 down to int8."""

from dataclasses import dataclass

from flaxcomp.report.charts import PALETTE, TOOLTIP, Spec, chart, colour, faded, legend_pick, short_names, tip
from flaxcomp.report.configurations import Naming
from flaxcomp.report.fronts import is_number
from flaxcomp.report.points import artifact_rows, best_trials
from flaxcomp.report.quantities import PRECISIONS, Quantity, quantity
from flaxcomp.store.frame import Row, RunFrame

TITLE = "Precision ladder"
ORDER = 60

LIMIT = len(PALETTE)


@dataclass(frozen=True)
class Rung:
    """A file; `name` tells those of its trial apart.

    `accuracy` and `drop` (against the Flax model) are shares, None where the file was not checked.
    """

    precision: str
    name: str
    accuracy: float | None
    drop: float | None
    size_bytes: int
    flagged: bool


@dataclass(frozen=True)
class Ladder:
    trial: str
    label: str
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class LadderInfo:
    """The ladders of the winners first, at most LIMIT; `total` counts all, `unmade` the files that could not be converted."""

    ladders: tuple[Ladder, ...]
    total: int
    unmade: int

    @property
    def caption(self) -> str:
        cut = f" {len(self.ladders)} of {self.total} exported trials are drawn, winners first." if self.total > LIMIT else ""
        flagged = sum(rung.flagged for its in self.ladders for rung in its.rungs)
        lost = f" Crosses: {flagged} files whose accuracy fell beyond the bound." if flagged else ""
        unmade = f" {self.unmade} files could not be made." if self.unmade else ""
        return f"Accuracy on the test set and size of each TFLite file.{lost}{unmade}{cut}"


def info(frame: RunFrame) -> LadderInfo | None:
    """None unless a trial has files of two precisions."""
    naming = Naming.of(frame)
    files: dict[str, list[Row]] = {}
    for row in artifact_rows(frame):
        if row.get("precision") in PRECISIONS and is_number(row.get("size_bytes")):
            files.setdefault(str(row["trial"]), []).append(row)
    if not any(len({row["precision"] for row in rows}) > 1 for rows in files.values()):
        return None
    ranked = [trial for trial in best_trials(frame, len(frame.trials)) if trial in files]
    order = [*ranked, *(trial for trial in files if trial not in set(ranked))]
    ladders = []
    for trial in order[:LIMIT]:
        rows = sorted(files[trial], key=_place)
        ladders.append(Ladder(trial, naming.label(rows[0], seed=True), tuple(_rung(row) for row in rows)))
    unmade = sum(not row.get("artifact") for row in artifact_rows(frame))
    return LadderInfo(tuple(ladders), len(files), unmade)


def _place(row: Row) -> tuple[int, str, int, int]:
    """From float32 down; files of one precision by how their ranges were found."""
    way = (str(row.get("quantizer") or ""), row.get("calibration_images") or 0, row.get("calibration_seed") or 0)
    return (PRECISIONS.index(row["precision"]), *way)


def draw(info: LadderInfo) -> Spec:
    accuracy, size = quantity("accuracy"), quantity("size_bytes")
    names = {its.trial: f"{short_names([its.label])[its.label]} ({its.trial[:6]})" for its in info.ladders}
    values = []
    for its in info.ladders:
        for rung in its.rungs:
            figures = {
                "Trial": its.trial,
                "Precision": rung.name,
                accuracy.label: accuracy.text(rung.accuracy),
                "Lost": "–" if rung.drop is None else accuracy.difference(rung.drop),
                size.label: size.text(rung.size_bytes),
            }
            values.append(
                {
                    "precision": rung.name,
                    "accuracy": None if rung.accuracy is None else accuracy.plotted(rung.accuracy),
                    "size": size.plotted(rung.size_bytes),
                    "flagged": rung.flagged,
                    "group": names[its.trial],
                    "tip": tip(its.label, figures),
                }
            )
    groups = list(names.values())
    order = sorted(
        {(PRECISIONS.index(rung.precision), i, rung.name) for its in info.ladders for i, rung in enumerate(its.rungs)}
    )
    steps = list(dict.fromkeys(name for *_, name in order))
    sizes = [rung.size_bytes for its in info.ladders for rung in its.rungs]
    return chart(
        "Accuracy and file size of the exported networks from float32 to int8",
        data={"values": values},
        hconcat=[
            _steps("accuracy", accuracy, [], groups, steps, legend=True),
            _steps("size", size, sizes, groups, steps, legend=False),
        ],
    )


def _rung(row: Row) -> Rung:
    return Rung(
        precision=row["precision"],
        name=str(row.get("file", row["precision"])),
        accuracy=row["accuracy"] if is_number(row.get("accuracy")) else None,
        drop=row["accuracy_drop"] if is_number(row.get("accuracy_drop")) else None,
        size_bytes=row["size_bytes"],
        flagged=bool(row.get("flagged")),
    )


def _steps(field: str, its: Quantity, values: list[int], groups: list[str], steps: list[str], *, legend: bool) -> Spec:
    shape = {"condition": {"test": "datum.flagged", "value": "cross"}, "value": "circle"}
    size = {"condition": {"test": "datum.flagged", "value": 170}, "value": 70}
    pick = [legend_pick("pick")] if legend else []
    opacity = faded("pick")
    return {
        "width": 400,
        "height": 300,
        "encoding": {
            "x": {"field": "precision", "type": "ordinal", "sort": steps, "title": None, "axis": {"labelAngle": 0}},
            "y": {"field": field, **its.axis(values)},
            "color": colour(groups, None),
            "opacity": opacity,
        },
        "layer": [
            {"params": pick, "mark": {"type": "line", "strokeWidth": 2}},
            {"mark": {"type": "point", "filled": True}, "encoding": {"shape": shape, "size": size, "tooltip": TOOLTIP}},
        ],
    }
