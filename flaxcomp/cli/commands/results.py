"""`flaxcomp results`: a run's trials or measurements as rows."""

from collections.abc import Collection, Sequence
from pathlib import Path

import click

from flaxcomp.cli.output import chosen, columns_of, format_option, output_option, write_rows
from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS, Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.reading import STATUSES
from flaxcomp.store.records import Store
from flaxcomp.sweep.columns import METHOD_COLUMNS, TOP5_COLUMNS, differing

# What a table leaves out unless it is asked for.
RARE = ("trainable_params", "test_precision", "test_recall", "test_f1", *TOP5_COLUMNS, *METHOD_COLUMNS, "device_model",
        "threads", "runtime", "measured_at")  # fmt: skip


@click.command(name="results")
@click.argument("run", type=click.Path(path_type=Path))
@format_option
@click.option("--measurements", is_flag=True, help="A row per artifact and device instead of a row per trial.")
@click.option("--status", type=click.Choice(STATUSES), multiple=True, help="Only trials in this state; may be repeated.")
@click.option("--columns", help="Only these columns, separated by commas, in this order.")
@output_option
def command(
    run: Path, format_: str, measurements: bool, status: tuple[str, ...], columns: str | None, output: Path | None
) -> None:
    """Print a row per trial of RUN, or per measurement.

    A table shows of the configuration what differs between rows, the common figures and the sweep's metrics; the other formats
    have all columns.
    """
    with Store.open(RunPaths.at(run)) as store:
        frame = store.frame(epochs=False)
    kept = {row["trial"] for row in frame.trials if not status or row["status"] in status}
    contract = MEASUREMENT_COLUMNS if measurements else TRIAL_COLUMNS
    rows = [row for row in (frame.measurements if measurements else frame.trials) if row["trial"] in kept]
    known = columns_of(frame.measurements if measurements else frame.trials, contract)
    metrics = {metric.name for metric in frame.metrics}
    names = chosen(columns, known) or (useful(rows, known, contract, metrics) if format_ == "table" else known)
    write_rows(rows, names, format_, output)


def useful(rows: Sequence[Row], columns: Sequence[str], contract: Sequence[str], metrics: Collection[str]) -> list[str]:
    """The trial, the configuration as far as it differs between rows, and the common figures and metrics that are known."""
    first = columns.index(contract[0])
    figures = [
        name
        for name in columns[first:]
        if (name not in RARE or name in metrics)
        and any(row.get(name) is not None and not isinstance(row[name], list | dict) for row in rows)
    ]
    return ["trial", *differing(rows, columns[1:first]), *figures]
