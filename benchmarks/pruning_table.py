"""Error against multiply-adds of a run's pruned networks, uniform pruning as the baseline: Markdown, and with --png a chart.

python -m benchmarks.pruning_table runs/embedded-pruning-short
python -m benchmarks.pruning_table runs/embedded-pruning --png pruning.png

The source shows its comparison as a figure without numbers (Greffe 2019, figure 4.16) and says of it: no noticeable difference
between the methods; training from scratch beats fine-tuning; WRN-40-2, from which it starts, errs by about 5 %.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from flaxcomp.report.charts import chart, colour
from flaxcomp.report.statistics import summarise
from flaxcomp.report.write import png
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.compression import METHODS

DENSE, BASELINE = "dense", "uniform"


class Point(NamedTuple):
    """Networks that differ in their seed alone: what cut them, by how much, how they went on, and their figures' means."""

    method: str
    ratio: float
    then: str
    macs: float
    params: float
    error: float  # on the test set, in percent
    spread: float | None  # its 95 % interval
    runs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    with Store.open(RunPaths.at(args.run)) as store:
        trials = [row for row in store.frame().trials if row["status"] == "finished"]
    if not trials:
        raise SystemExit("no trial of this run has finished")
    points = points_of(trials)
    print("\n".join(table(points)))
    if args.png:
        args.png.write_bytes(png(drawing(points)))


def points_of(trials: list[Row]) -> list[Point]:
    """One for each method, ratio and continuation, the dense network first."""
    alike: dict[tuple[str, float, str], list[Row]] = defaultdict(list)
    for row in trials:
        alike[method_of(row), ratio_of(row), then_of(row)].append(row)
    points = []
    for (method, ratio, then), rows in alike.items():
        error = summarise([100 * (1 - row["test_accuracy"]) for row in rows])
        macs, params = (summarise([row[name] for row in rows]).mean for name in ("macs", "trainable_params"))
        points.append(Point(method, ratio, then, macs, params, error.mean, error.half_width, error.count))
    return sorted(points, key=lambda p: (p.method != DENSE, p.ratio, p.then, p.method != BASELINE, p.method))


def method_of(row: Row) -> str:
    """The block and, for `prune`, its criterion and what else sets it apart."""
    block = next((name for name in METHODS if any(key.startswith(f"{name}.") for key in row)), None)
    if block != "prune":
        return block or DENSE
    words = [row["prune.criterion"]]
    words += [f"per {row['prune.per_cost']}"] if row["prune.per_cost"] != "none" else []
    words += ["slimmed"] if row["prune.penalty"] else []
    words += [f"in {row['prune.steps']} steps"] if row["prune.schedule"] == "iterative" else []
    words += [f"retrained {len(row['prune.retrain_at'])} times"] if row["prune.retrain_at"] else []
    return ", ".join(words)


def ratio_of(row: Row) -> float:
    """0 for the dense network, and for methods that have no such option."""
    return next((float(row[f"{name}.ratio"]) for name in METHODS if f"{name}.ratio" in row), 0.0)


def then_of(row: Row) -> str:
    return next((value for key, value in row.items() if key.endswith(".then")), "")


def table(points: list[Point]) -> list[str]:
    """Rows of the same ratio and continuation stand together; the last column compares with uniform pruning there."""
    baseline: dict[tuple[float, str], float] = {}
    for p in points:
        if p.method.split(",")[0] == BASELINE:
            baseline.setdefault((p.ratio, p.then), p.error)  # of several schedules the first, which is in one shot
    lines = [
        "| method | ratio | then | MACs, M | weights | test error, % | against uniform | runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in points:
        spread = "" if p.spread is None else f" ± {p.spread:.2f}"
        against = f"{p.error - baseline[p.ratio, p.then]:+.2f}" if (p.ratio, p.then) in baseline else "-"
        lines.append(f"| {p.method} | {p.ratio:g} | {p.then.replace('_', '-') or '-'} | {p.macs / 1e6:.2f} | {p.params:,.0f} | "
                     f"{p.error:.2f}{spread} | {against} | {p.runs} |")  # fmt: skip
    return lines


def drawing(points: list[Point]) -> dict[str, Any]:
    """A line for each method, beside each other trained from scratch and fine-tuned; the dense network is in both."""
    dense = [p for p in points if p.method == DENSE]
    values = [
        {"group": p.method, "then": then.replace("_", "-"), "macs": q.macs / 1e6, "error": q.error}
        for then in sorted({p.then for p in points if p.then})
        for p in points
        if p.then == then
        for q in (p, *dense)
    ]
    x = {
        "field": "macs",
        "type": "quantitative",
        "title": "multiply-adds, millions",
        "scale": {"zero": False},
        "axis": {"tickCount": 5},
    }
    y = {"field": "error", "type": "quantitative", "title": "test error, %", "scale": {"zero": False}}
    return chart(
        "Test error against multiply-adds of pruned networks.", data={"values": values}, width=360, height=300,
        mark={"type": "line", "point": True},
        encoding={"x": x, "y": y, "color": colour([p.method for p in points if p.method != DENSE], None),
                  "column": {"field": "then", "title": None}},
    )  # fmt: skip


if __name__ == "__main__":
    main()
