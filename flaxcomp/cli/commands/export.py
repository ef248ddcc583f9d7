"""`flaxcomp export`: trained networks become checked TFLite and ONNX files."""

import os
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaxcomp.errors import UserError

if TYPE_CHECKING:
    from flaxcomp.store.frame import Row
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.store.records import Store
    from flaxcomp.sweep.spec import Export

PRECISIONS = ("float32", "float16", "weight_only", "dynamic", "int16", "int8")
QUANTIZERS = ("tensorflow", "ai_edge")
_SHOWN = 10
_LEASE_S = 300.0  # checking one file on a slow machine takes less


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--select", "rule", metavar="RULE", help="front | all | best:N. Default: what the sweep's `export` says, else front."
)
@click.option(
    "--trial",
    "trials",
    multiple=True,
    metavar="ID",
    help="This trial, by the beginning of its id, whatever the rule; may be given again.",
)
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Only this one; may be given again."
)
@click.option(
    "--quantizer", "quantizers", multiple=True, type=click.Choice(QUANTIZERS), help="What makes int16 and int8 files."
)
@click.option("--calibration-images", "images", multiple=True, type=click.IntRange(1), help="How many set their ranges.")
@click.option("--calibration-seed", "seeds", multiple=True, type=click.IntRange(0), help="Which images; a file for each.")
@click.option("--no-onnx", is_flag=True, help="TFLite files only.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Copy the files there too, as TRIAL.PRECISION.FORMAT."
)
@click.option("--quiet", is_flag=True, help="No table, only the number of files and what was flagged.")
def command(
    run: Path,
    rule: str | None,
    trials: tuple[str, ...],
    precisions: tuple[str, ...],
    quantizers: tuple[str, ...],
    images: tuple[int, ...],
    seeds: tuple[int, ...],
    no_onnx: bool,
    out: Path | None,
    quiet: bool,
) -> None:
    """Export finished trials of RUN to TFLite and ONNX.

    Each file is checked against the Flax network on the whole test set. What is recorded already is not made again.
    """
    from flaxcomp.cli.packages import EXPORT, TRAINING, need
    from flaxcomp.cli.trials import trials_named
    from flaxcomp.export.lacking import without_network
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.store.records import Store

    paths = RunPaths.at(run)
    with Store.open(paths) as store:
        need((*TRAINING, *EXPORT), "export")
        given = {"precisions": precisions, "quantizer": quantizers, "calibration_images": images, "calibration_seed": seeds}
        spec = _spec(store, rule, given, no_onnx)
        chosen = list(trials_named(trials, store.statuses())) or _selected(store, spec.select)
        gone = set(without_network(store, paths, _finished(store, chosen), spec))
        lease = store.acquire(host=socket.gethostname(), pid=os.getpid(), ttl_s=_LEASE_S)
        try:
            _export(store, lease, paths, [trial for trial in chosen if trial not in gone], spec)
        finally:
            store.release(lease)
        rows = [row for row in store.frame().artifacts if row["trial"] in chosen and _wanted(row, spec)]
    if not quiet:
        _print_table(rows)
    _print_flagged(rows)
    if out is not None:
        _copy(paths, rows, out)
    if gone:
        raise UserError(_told_gone(run, [trial for trial in chosen if trial in gone], None if trials else spec.select))


def _finished(store: "Store", trials: Sequence[str]) -> list[str]:
    statuses = store.statuses()
    return [trial for trial in trials if statuses.get(trial) == "finished"]


def _told_gone(run: Path, gone: Sequence[str], rule: str | None) -> str:
    """Which networks were removed, and the commands that bring them back; `rule` is None for trials that were named."""
    folder = shlex.quote(str(run))
    if rule is None:
        named = " ".join(f"--trial {trial}" for trial in gone)
        again = f"flaxcomp retry {folder} {named} && flaxcomp run {folder} && flaxcomp export {folder} {named}"
    else:
        again = f"flaxcomp run {folder} --set export.select={rule}"
    shown = ", ".join(gone[:_SHOWN]) + (f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else "")
    number = f"{len(gone)} trial{'' if len(gone) == 1 else 's'}"
    return (f"no network is left of {number}, because `retention` or somebody removed it: {shown}. "
            f"To train and export again: {again}")  # fmt: skip


def _wanted(row: "Row", spec: "Export") -> bool:
    return row["precision"] in spec.precisions and (spec.onnx or row["format"] != "onnx")


def _spec(store: "Store", rule: str | None, lists: dict[str, tuple[Any, ...]], no_onnx: bool) -> "Export":
    import msgspec

    from flaxcomp.sweep.spec import Export

    given: dict[str, Any] = {name: values for name, values in lists.items() if values}
    if rule is not None:
        given["select"] = rule
    if no_onnx:
        given["onnx"] = False
    return msgspec.structs.replace(store.sweep().export or Export(), **given)


def _selected(store: "Store", rule: str) -> list[str]:
    from flaxcomp.report.winners import not_yet_known, select

    frame = store.frame()
    chosen = select(frame, rule)
    if not chosen:
        raise UserError(f"no finished trial satisfies the rule {rule!r}: see `flaxcomp status`, or select all")
    if rule != "all" and (later := not_yet_known(frame)):
        click.echo(f"Selected without {', '.join(later)}: not known before export.", err=True)
    return chosen


def _export(store: "Store", lease: Any, paths: "RunPaths", trial_ids: Sequence[str], spec: "Export") -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("Exporting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting TensorFlow", total=None)

        def show(done: int, total: int, row: "Row | None") -> None:
            text = "" if row is None else f"{row['trial']} {row['precision']} {row['format']}"
            progress.update(task, completed=done, total=total, description=text)

        from flaxcomp.export.run import export_run

        export_run(store, lease, paths, trial_ids, spec, show)


def _print_table(rows: Sequence["Row"]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("trial", "precision", "format", "ranges", "size", "accuracy", "drop", "agreement", "max error", "remark")
    for column in table.columns[4:9]:
        column.justify = "right"
    for row in rows:
        remark = Text(f"flagged: {row['reason']}", "red") if row["flagged"] else Text(row["note"] or "")
        figures = [""] * 5
        if row["artifact"] is not None:
            shares = [f"{row['accuracy']:.4f}", f"{row['accuracy_drop']:+.4f}", f"{row['agreement']:.4f}"]
            figures = [f"{row['size_bytes']:,}", *shares, f"{row['max_abs_error']:.2g}"]
        table.add_row(row["trial"], row["precision"], row["format"], _ranges(row), *figures, remark)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _ranges(row: "Row") -> str:
    """How they were found: the quantizer, images and seed of its calibration; "" where there are none."""
    images, seed = row.get("calibration_images"), row.get("calibration_seed") or 0
    return (row.get("quantizer") or "") + (f" {images}/{seed}" if images else "")


def _print_flagged(rows: Sequence["Row"]) -> None:
    for row in rows:
        if row["flagged"]:
            click.echo(f"flagged: {row['trial']} {row['precision']} {row['format']}: {row['reason']}")
    flagged = sum(bool(row["flagged"]) for row in rows)
    click.echo(f"{len(rows)} file{'' if len(rows) == 1 else 's'}, {flagged} flagged.")


def _copy(paths: "RunPaths", rows: Sequence["Row"], out: Path) -> None:
    from flaxcomp.durable import write_bytes

    for row in rows:
        if row["artifact"] is not None:
            content = paths.artifact(row["artifact"], row["format"]).read_bytes()
            write_bytes(out / f"{row['trial']}.{_name(row, rows)}.{row['format']}", content)


def _name(row: "Row", rows: Sequence["Row"]) -> str:
    """The precision and, of several of a trial, how the ranges were found: `int8-tensorflow-200-0`."""
    file = (row["trial"], row["precision"], row["format"])
    if sum((other["trial"], other["precision"], other["format"]) == file for other in rows) == 1:
        return str(row["precision"])
    ways = (row.get(name) for name in ("quantizer", "calibration_images", "calibration_seed"))
    return "-".join([row["precision"], *(str(way) for way in ways if way is not None)])
