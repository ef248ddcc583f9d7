"""The winners: the front of the sweep's own metrics, as a table."""

from dataclasses import dataclass

from flaxcomp.report.configurations import Naming
from flaxcomp.report.fronts import Setting, is_number
from flaxcomp.report.points import known_metrics, winners
from flaxcomp.report.quantities import Quantity, quantity
from flaxcomp.report.tables import Cell, Table, number
from flaxcomp.store.frame import Row, RunFrame

TITLE = "Winners"
ORDER = 20

LIMIT = 200
_BESIDE = ("val_accuracy", "test_accuracy", "test_f1", "accuracy", "trainable_params", "comp_rate", "size_bytes", "latency_ms")


@dataclass(frozen=True)
class WinnersInfo:
    """The winners, best by the first metric first.

    Attributes:
        rows: at most LIMIT of them. total: how many there are.
        quantities: the figures to show, the sweep's metrics first.
    """

    rows: tuple[Row, ...]
    total: int
    naming: Naming
    metrics: tuple[Quantity, ...]
    quantities: tuple[Quantity, ...]
    constraints: tuple[str, ...]

    @property
    def caption(self) -> str:
        goals = " and ".join(f"{its.phrase} ({'high' if its.goal == 'maximize' else 'low'})" for its in self.metrics)
        limits = f", within {' and '.join(self.constraints)}" if self.constraints else ""
        cut = f" The best {len(self.rows)} of {self.total} are listed." if self.total > len(self.rows) else ""
        emulated = " Figures of emulated devices are marked." if any(row.get("emulated") for row in self.rows) else ""
        test = (
            " Test figures stand beside and chose nothing."
            if any(its.name.startswith("test_") for its in self.quantities)
            else ""
        )
        return f"The front of {goals}{limits}.{test}{emulated}{cut}"


def info(frame: RunFrame) -> WinnersInfo | None:
    rows = winners(frame)
    if not rows:
        return None
    metrics = known_metrics(frame)
    names = dict.fromkeys([*(metric.name for metric in metrics), *_BESIDE])
    columns = {name: tuple(row.get(name) for row in rows) for name in names}
    if columns["trainable_params"] == columns.get("params"):  # all are trainable: once is enough
        del columns["trainable_params"]
    shown = [quantity(name, frame.metrics) for name, values in columns.items() if any(map(is_number, values))]
    return WinnersInfo(
        rows=tuple(rows[:LIMIT]),
        total=len(rows),
        naming=Naming.of(frame),
        metrics=tuple(quantity(metric.name, metrics) for metric in metrics),
        quantities=tuple(shown),
        constraints=frame.constraints,
    )


def draw(info: WinnersInfo) -> Table:
    columns = ["Trial", "Configuration", "Seed", *(its.label for its in info.quantities), "File", "Device"]
    rows = []
    for row in info.rows:
        figures = [
            number(_marked(its, row), row[its.name] if is_number(row.get(its.name)) else None) for its in info.quantities
        ]
        rows.append(
            (
                Cell(str(row["trial"]), kind="trial"),
                Cell(info.naming.label(row)),
                number(str(row.get("seed", "–")), row.get("seed")),
                *figures,
                Cell(str(row.get("file", row.get("precision", "")))),
                Cell(str(Setting.of(row)) if "device" in row else ""),
            )
        )
    return Table(tuple(columns), tuple(rows)).without_empty_columns()


def _marked(its: Quantity, row: Row) -> str:
    return its.text(row.get(its.name)) + (" (emulated)" if its.measured and row.get("emulated") else "")
