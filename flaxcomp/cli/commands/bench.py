"""`flaxcomp bench`: measure the TFLite files of a run, or loose ones, on the devices of a pool."""

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flaxcomp.cli.output import format_option, output_option, write_rows
from flaxcomp.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from flaxcomp.devices.pool import Pool
    from flaxcomp.devices.protocol import Protocol
    from flaxcomp.store.frame import Row


@click.command()
@click.argument("what", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|FILE.tflite...")
@click.option(
    "--pool", type=click.Path(dir_okay=False, path_type=Path), help="Device pool.  [default: the sweep's, else this machine]"
)
@click.option("--protocol", help="quick, standard or seed.  [default: the sweep's, else standard]")
@click.option("--precision", "precisions", multiple=True, help="Only files of this precision; may be repeated.")
@click.option("--trial", "trials", multiple=True, help="Only this trial, by the beginning of its id; may be repeated.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the inputs, the order and the bootstrap."
)
@click.option("--quiet", is_flag=True, help="No table, only how many figures were measured.")
@format_option
@output_option
def command(
    what: tuple[Path, ...],
    pool: Path | None,
    protocol: str | None,
    precisions: tuple[str, ...],
    trials: tuple[str, ...],
    seed: int,
    quiet: bool,
    format_: str,
    output: Path | None,
) -> None:
    """Measure a run's TFLite files that have no figure yet, and record them; or measure loose files.

    Every file runs in a fresh process in every round; the rounds are shuffled. A figure is recorded as soon as it is complete,
    and the same command goes on where it was stopped. Figures of emulated devices are marked EMULATED.
    --format json gives all raw samples.
    """
    from rich.console import Console

    progress = Console(stderr=True)
    files = [path for path in what if path.suffix == ".tflite"]
    if files and (len(files) < len(what) or precisions or trials):
        raise UserError("give either one run, or files ending in .tflite without --precision and --trial")
    if not files and len(what) > 1:
        raise UserError(f"one run at a time; got {len(what)}")
    rows, problem = (
        _loose(files, pool, protocol, seed, progress)
        if files
        else _of_run(what[0], pool, protocol, precisions, trials, seed, progress)
    )
    if quiet:
        pass
    elif format_ == "table" and output is None:
        from flaxcomp.cli.benchmarking import print_table

        print_table(rows, Console(width=None if sys.stdout.isatty() else 200))
    else:
        write_rows(rows, list(rows[0]) if rows else [], format_, output)
    if problem:
        raise problem


def _of_run(
    run: Path,
    pool_file: Path | None,
    protocol: str | None,
    precisions: tuple[str, ...],
    trials: tuple[str, ...],
    seed: int,
    console: "Console",
) -> "tuple[list[Row], UserError | None]":
    """Measure what is missing; return all figures of the protocol on the pool's devices, and what went wrong."""
    from flaxcomp.cli.benchmarking import bench_run, leased
    from flaxcomp.cli.pools import first_there
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.store.records import Store

    paths = RunPaths.at(run)
    with Store.open(paths) as store:
        wish = store.sweep().benchmark
        if pool_file is None and wish is not None:
            pool_file = first_there(Path(wish.pool), paths.pool_file)
        pool, chosen = _choose(pool_file, protocol or (wish.protocol if wish else None))
        with leased(store) as lease:
            outcome = bench_run(
                store, lease, paths, pool, chosen, console=console, precisions=precisions, trials=trials, seed=seed
            )
        names = {device.name for device in pool.devices}
        rows = [row for row in store.frame().measurements if row["protocol"] == chosen.name and row["device"] in names]
    console.print(f"{len(outcome.rows)} figures measured, {outcome.before} were there before")
    return rows, outcome.problem()


def _loose(
    files: list[Path], pool_file: Path | None, protocol: str | None, seed: int, console: "Console"
) -> "tuple[list[Row], UserError | None]":
    from flaxcomp.cli.benchmarking import bench_files
    from flaxcomp.devices.measure import Subject

    pool, chosen = _choose(pool_file, protocol)
    subjects = []
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        subjects.append(Subject(hashlib.sha256(content).hexdigest(), path, "", path.name))
    outcome = bench_files(pool, subjects, chosen, console=console, seed=seed)
    return outcome.rows, outcome.problem()


def _choose(pool_file: Path | None, protocol: str | None) -> "tuple[Pool, Protocol]":
    from flaxcomp.devices.pool import load_pool, local_pool
    from flaxcomp.devices.protocol import preset

    return load_pool(pool_file) if pool_file else local_pool(), preset(protocol or "standard")
