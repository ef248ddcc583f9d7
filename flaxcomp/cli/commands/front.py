"""`flaxcomp front`: the trials that nothing else in the run beats."""

from pathlib import Path
from typing import Literal, get_args

import click

from flaxcomp.cli.output import columns_of, format_option, output_option, varying, write_rows
from flaxcomp.errors import UserError, suggest
from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS, RunFrame
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.columns import TEXT_COLUMNS, differing
from flaxcomp.sweep.spec import Metric

GOALS: dict[str, Literal["maximize", "minimize"]] = {
    "max": "maximize",
    "maximize": "maximize",
    "min": "minimize",
    "minimize": "minimize",
}
ALL = "`flaxcomp results RUN --format csv` has all as columns"
# What tells figures apart that are not comparable.
SETTING = ("precision", "device", "device_model", "emulated", "protocol", "threads", "runtime")
IN_TABLE = ("precision", "device", "emulated")  # the rest where the rows differ in it
CONFIG_IN_TABLE = 3  # those that tell most rows apart


@click.command(name="front")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--metrics", metavar="NAME:max|min,...", help="What to optimise. [default: the metrics of the sweep]")
@format_option
@output_option
def command(run: Path, metrics: str | None, format_: str, output: Path | None) -> None:
    """Print the Pareto front of RUN: the rows to which no other is as good in every metric and better in one.

    Metrics of a trial (val_accuracy, params, ...), of its files (size_bytes, accuracy, ...) or of its measurements
    (latency_ms, ...) may be mixed. Figures of different devices are never ranked together.
    """
    from flaxcomp.report import fronts, points  # NumPy

    with Store.open(RunPaths.at(run)) as store:
        frame = store.frame(epochs=False)
    goals = points.known_metrics(frame) if metrics is None else parse_metrics(metrics, known_figures(frame))
    names = [metric.name for metric in goals]
    level = points.level(names)
    rows = points.competing(points.rows_at(frame, level), frame.constraints)
    front = fronts.pareto(rows, goals) if goals else []
    if not front:
        lacking = names or [metric.name for metric in frame.metrics]
        click.echo(f"No finished trial of {run} has figures of {', '.join(lacking)} yet.", err=True)
        if format_ == "table":
            return
    known = columns_of(front, TRIAL_COLUMNS)
    if format_ == "table":
        config = known[: known.index(TRIAL_COLUMNS[0])]
        known = [name for name in SETTING if level != "trial" and any(row.get(name) is not None for row in front)]
        several = varying(front, SETTING) if len({row.get("device") for row in front}) < 2 else []
        setting = [name for name in known if name in IN_TABLE or name in several]
        told = [name for name in differing(front, config[1:]) if name != "distill.teacher"]
        told.sort(key=lambda name: (not name.startswith("model."), -len({str(row.get(name)) for row in front})))
        known = list(dict.fromkeys(["trial", *told[:CONFIG_IN_TABLE], *names, *setting]))
    write_rows(front, known, format_, output)


def known_figures(frame: RunFrame) -> set[str]:
    """Names that a metric may have: the contract's, and every column of figures in this run."""
    from flaxcomp.report import fronts, points

    rows = [row for level in get_args(points.Level) for row in points.rows_at(frame, level)]
    figures = {name for row in rows for name, value in row.items() if fronts.is_number(value)}
    return figures | {*TRIAL_COLUMNS, *MEASUREMENT_COLUMNS} - TEXT_COLUMNS


def parse_metrics(text: str, known: set[str]) -> tuple[Metric, ...]:
    """Read `val_accuracy:max,params:min`.

    Raises:
        UserError: a goal that is neither max nor min, or an unknown name.
    """
    metrics = []
    for part in text.split(","):
        name, _, goal = part.strip().partition(":")
        if goal not in GOALS:
            raise UserError(f"A metric must be NAME:max or NAME:min, got {part.strip()!r}.")
        if name not in known:
            raise UserError(f"No metric {name!r} in this run.{suggest(name, known, ALL)}")
        metrics.append(Metric(name=name, goal=GOALS[goal]))
    return tuple(metrics)
