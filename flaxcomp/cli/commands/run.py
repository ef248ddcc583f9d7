"""`flaxcomp run`: a sweep file becomes trained networks, files, measurements and a report; run again, it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from flaxcomp.errors import UserError

if TYPE_CHECKING:
    from flaxcomp.cli.training import Wanted
    from flaxcomp.schedule.controller import Summary
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.sweep.expand import Trial
    from flaxcomp.sweep.load import LoadedSweep

STOPPED = 130  # exit code, as after SIGINT


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run folder.  [default: runs/NAME]")
@click.option("--executor", type=click.Choice(["ray", "inline"]), default="ray", show_default=True,
              help="Where to train: workers under Ray, or this one process.")  # fmt: skip
@click.option("--address", help="Of a running Ray cluster: auto, HOST:PORT.  [default: start one on this machine]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE[,VALUE...]", help="Change the sweep; may be given again.")
@click.option(
    "--store", "store_url", metavar="URL", help="postgresql://... for the records.  [default: SQLite in the run folder]"
)
@click.option("--train-only", is_flag=True, help="Leave out export, benchmark and report.")
@click.option("--yes", is_flag=True, help="Expand a grid of any size.")
@click.pass_context
def command(ctx: click.Context, sweep: Path, out: Path | None, executor: Literal["ray", "inline"], address: str | None,
            overrides: tuple[str, ...], store_url: str | None, train_only: bool, yes: bool) -> None:  # fmt: skip
    """Run SWEEP: train, export, measure and report what it asks for. A run folder stands for its sweep.

    The same command again resumes: what is finished is not done again. Ctrl-C stops after a checkpoint, a second one at once.
    """
    from flaxcomp.cli.catalog import RoomCatalog
    from flaxcomp.cli.methods import check_methods
    from flaxcomp.cli.pools import pool_file
    from flaxcomp.cli.sweeps import given_sweep
    from flaxcomp.schedule.run_folder import check_writable
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.sweep.expand import check_size, expand
    from flaxcomp.sweep.load import load_sweep

    given = given_sweep(sweep, overrides)
    loaded = load_sweep(given.file, given.overrides)
    _check_packages(loaded, executor, exports=loaded.sweep.export is not None and not train_only)
    if not yes:
        check_size(loaded)
    catalog = RoomCatalog(beside=given.file.parent, copies=given.copies)
    trials = list(expand(loaded, catalog))  # of a search an example, which shows what is wrong just as well
    _check_data(trials)
    pool = pool_file(loaded, given.file, frozen=given.run.pool_file if given.run else None)
    paths = RunPaths.at(out) if out else given.run or RunPaths.at(Path("runs") / loaded.sweep.name)
    check_writable(paths)
    check_methods(trials, catalog.sources())
    from flaxcomp.cli.training import Wanted, make_executor, train

    wanted = Wanted(loaded, trials, paths, given.overrides, pool, store_url, catalog)
    summary = train(wanted, lambda: make_executor(executor, address, loaded))
    _tell(summary, paths)
    if not train_only and summary.count("finished"):
        _after_training(ctx, wanted)
    if summary.count("failed") or summary.count("blocked"):
        ctx.exit(1)


def _check_packages(loaded: "LoadedSweep", executor: str, *, exports: bool) -> None:
    from flaxcomp.cli.packages import EXPORT, TRAINING, need

    if loaded.sweep.method == "optuna":
        need(("optuna",), "`method: optuna`")
    need(TRAINING, "training")
    if executor == "ray":
        need(("ray",), "training under Ray", ", or say --executor inline")
    if exports:
        need(EXPORT, "the sweep's export", ", or say --train-only")


def _check_data(trials: "list[Trial]") -> None:
    """Refuse before anything is trained.

    Raises:
        UserError: a data set is not prepared; says how to prepare it.
    """
    from flaxcomp.data import catalog

    for name in sorted({trial.config.dataset.name for trial in trials}):
        if not catalog.is_prepared(name):
            raise catalog.missing(name)


def _tell(summary: "Summary", paths: "RunPaths") -> None:
    if summary.storage_error:
        raise UserError(f"stopped, because the run folder cannot be written: {summary.storage_error}. "
                        "Make room or mend it, then give the same command again: nothing is lost.")  # fmt: skip
    if summary.stopped:
        click.echo(f"Stopped with {summary.count('finished')} of {len(summary.statuses)} trials finished. "
                   "The same command goes on from here.", err=True)  # fmt: skip
        raise SystemExit(STOPPED)
    bad = summary.count("failed") + summary.count("blocked")
    if bad:
        click.echo(f"{bad} of {len(summary.statuses)} trials failed or wait for one that did: see `flaxcomp status "
                   f"{paths.root}`; `flaxcomp retry {paths.root}` allows another try.", err=True)  # fmt: skip


def _after_training(ctx: click.Context, wanted: "Wanted") -> None:
    """Export, measure and report, as the commands of those names do; what there is is reported even if some of it failed."""
    from flaxcomp.cli.commands import bench, export, front, report
    from flaxcomp.cli.training import trim_again

    run, problems = wanted.paths.root, list[UserError]()

    def attempt(step: Callable[[], object]) -> None:
        try:
            step()
        except UserError as error:
            problems.append(error)

    if wanted.loaded.sweep.export is not None:
        attempt(lambda: ctx.invoke(export.command, run=run, quiet=True))
        attempt(lambda: trim_again(wanted))
    if wanted.pool is not None:
        attempt(lambda: ctx.invoke(bench.command, what=(run,), pool=wanted.pool, quiet=True))
    ctx.invoke(report.command, run=run)
    ctx.invoke(front.command, run=run)
    click.echo(f"Report: {wanted.paths.report / 'index.html'}")
    if problems:
        raise UserError("\n".join(map(str, problems)))
