"""The confusion matrix of the best winner on the test set."""

from dataclasses import dataclass

from flaxcomp.report.charts import TOOLTIP, Spec, chart, tip
from flaxcomp.report.configurations import Naming
from flaxcomp.report.points import trial_rows, winners
from flaxcomp.report.quantities import quantity
from flaxcomp.store.frame import RunFrame

TITLE = "Confusion"
ORDER = 90

_COUNTED = 20  # classes up to which the counts are written into the cells


@dataclass(frozen=True)
class ConfusionInfo:
    """`matrix[i][j]`: images that are truly of class i and were taken for class j."""

    trial: str
    label: str
    matrix: tuple[tuple[int, ...], ...]
    accuracy: float | None

    @property
    def caption(self) -> str:
        accuracy = f", test accuracy {quantity('test_accuracy').text(self.accuracy)}" if self.accuracy is not None else ""
        mistakes = ", ".join(f"{true} taken for {predicted} ({count:,})" for count, true, predicted in self.mistakes(3))
        often = f" Most often: {mistakes}." if mistakes else ""
        return f"The best winner, {self.label} (trial {self.trial}){accuracy}: test images by true and predicted class.{often}"

    def mistakes(self, count: int) -> list[tuple[int, int, int]]:
        """The commonest confusions as (images, true class, predicted class)."""
        cells = [(n, i, j) for i, row in enumerate(self.matrix) for j, n in enumerate(row) if i != j and n]
        return sorted(cells, key=lambda cell: (-cell[0], cell[1:]))[:count]


def info(frame: RunFrame) -> ConfusionInfo | None:
    """The first winner that has a matrix."""
    recorded = {row["trial"]: row for row in trial_rows(frame) if row.get("confusion_matrix")}
    for winner in winners(frame):
        row = recorded.get(winner["trial"])
        if row is not None:
            matrix = tuple(tuple(int(n) for n in line) for line in row["confusion_matrix"])
            return ConfusionInfo(str(row["trial"]), Naming.of(frame).label(row, seed=True), matrix, row.get("test_accuracy"))
    return None


def draw(info: ConfusionInfo) -> Spec:
    values = []
    for true, line in enumerate(info.matrix):
        images = sum(line)
        for predicted, count in enumerate(line):
            share = count / images if images else 0.0
            figures = {
                "True class": str(true),
                "Predicted": str(predicted),
                "Images": f"{count:,}",
                "Share": f"{100 * share:.2f} %",
            }
            values.append(
                {
                    "true": true,
                    "predicted": predicted,
                    "count": count,
                    "share": round(100 * share, 3),
                    "tip": tip(f"{true} taken for {predicted}" if true != predicted else f"{true} recognised", figures),
                }
            )
    classes = len(info.matrix)
    side = min(460, max(260, 42 * classes))
    scale = {"type": "symlog", "constant": 0.5, "domain": [0, 100], "scheme": "blues"}
    cells: Spec = {
        "mark": {"type": "rect", "cornerRadius": 2 if classes <= _COUNTED else 0},
        "encoding": {
            "color": {"field": "share", "type": "quantitative", "title": "% of class", "scale": scale,
                      "legend": {"values": [0, 1, 10, 100], "gradientLength": 160}},
            "opacity": {"condition": {"test": "datum.count > 0", "value": 1}, "value": 0.05},
            "tooltip": TOOLTIP,
        },
    }  # fmt: skip
    counts: Spec = {
        "transform": [{"filter": "datum.count > 0"}],
        "mark": {"type": "text", "fontSize": 11},
        "encoding": {
            "text": {"field": "count", "type": "quantitative", "format": ",d"},
            "color": {"condition": {"test": "datum.share > 8", "value": "#ffffff"}, "value": "#1d2430"},
        },
    }
    return chart(
        "Confusion matrix: rows are true classes, columns predicted ones",
        width=side,
        height=side,
        data={"values": values},
        encoding={
            "x": {
                "field": "predicted",
                "type": "ordinal",
                "title": "Predicted class",
                "axis": {"labelAngle": 0, "grid": False},
            },
            "y": {"field": "true", "type": "ordinal", "title": "True class", "axis": {"grid": False}},
        },
        layer=[cells, counts] if classes <= _COUNTED else [cells],
    )
