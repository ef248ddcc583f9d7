"""`flaxcomp run`: a sweep file becomes trained networks, files, measurements and a report; run again, it goes on."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flaxcomp.errors import UserError

if TYPE_CHECKING:
    from flaxcomp.schedule.controller import Controller, Summary
    from flaxcomp.schedule.executor import Executor
    from flaxcomp.schedule.retention import Trimmer
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.store.records import Store
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
    """Run SWEEP: train, export, measure and report what it asks for.

    The same command again resumes: what is finished is not done again. Ctrl-C stops after a checkpoint, a second one at once.
    """
    from flaxcomp.checkpoint.weights import keep
    from flaxcomp.cli.catalog import RoomCatalog
    from flaxcomp.cli.pools import pool_file
    from flaxcomp.schedule.run_folder import check_writable
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.sweep.expand import check_size, expand
    from flaxcomp.sweep.load import load_sweep

    loaded = load_sweep(sweep, overrides)
    _check_packages(executor, exports=loaded.sweep.export is not None and not train_only)
    if not yes:
        check_size(loaded)
    catalog = RoomCatalog(beside=sweep.parent)
    trials = list(expand(loaded, catalog))
    _check_data(trials)
    pool = pool_file(loaded, sweep)
    paths = RunPaths.at(out or Path("runs") / loaded.sweep.name)
    check_writable(paths)
    for content, source in catalog.sources().items():
        keep(source, content, paths.weights(content))
    summary = _train(loaded, trials, paths, executor, address, store_url)
    _tell(summary, paths)
    if not train_only and summary.count("finished"):
        _after_training(ctx, loaded, paths, pool)
    if summary.count("failed") or summary.count("blocked"):
        ctx.exit(1)


def _check_packages(executor: str, *, exports: bool) -> None:
    from flaxcomp.cli.packages import EXPORT, TRAINING, need

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


def _train(loaded: "LoadedSweep", trials: "list[Trial]", paths: "RunPaths", executor: str, address: str | None,
           store_url: str | None) -> "Summary":  # fmt: skip
    import msgspec

    from flaxcomp.cli.progress import Tally, make_display
    from flaxcomp.schedule.controller import Controller, Summary, acquire
    from flaxcomp.schedule.environment import describe_environment
    from flaxcomp.store.records import Store

    sweep, sweep_json = loaded.sweep, msgspec.json.encode(loaded.sweep)
    names = {trial.id: _label(trial) for trial in trials}
    with Store.create(paths, name=sweep.name, sweep_text=loaded.text, sweep_json=sweep_json, url=store_url) as store:
        lease = acquire(store)
        try:
            store.update_sweep(lease, sweep_text=loaded.text, sweep_json=sweep_json)
            describe_environment(paths)
            store.add_trials(lease, trials)
            statuses = store.statuses()
            if all(statuses[trial.id] in ("finished", "failed", "blocked") for trial in trials):
                click.echo(f"{len(trials)} trials; nothing is left to train", err=True)
                return Summary({trial.id: statuses[trial.id] for trial in trials})
            workers = _make_executor(executor, address, loaded)
            try:
                tally = Tally(sweep.metrics[0], lambda trial: names.get(trial, trial), _work_of(trials, executor))
                with make_display(tally) as display:
                    trimmer = _make_trimmer(loaded, paths, store)
                    controller = Controller(store, paths, trials, workers, display, sweep.resources, sweep.retry, trimmer)
                    with _stop_on_interrupt(controller):
                        return controller.run(lease)
            finally:
                workers.close()
        finally:
            store.release(lease)


def _work_of(trials: "list[Trial]", executor: str) -> "Callable[[str], float]":
    """How much work a trial is, for the time left. Imports JAX, here and not in a thread: imports of C code must not race."""
    if executor == "ray":  # the workers have begun: the accelerator's memory is theirs, not this process's
        os.environ["JAX_PLATFORMS"] = "cpu"
    from flaxcomp.train.cost import relative_work

    by_signature = {trial.signature: relative_work(trial.config) for trial in {t.signature: t for t in trials}.values()}
    work = {trial.id: by_signature[trial.signature] for trial in trials}
    return lambda trial: work.get(trial, 1.0)


def _make_executor(kind: str, address: str | None, loaded: "LoadedSweep") -> "Executor":
    if kind == "inline":
        from flaxcomp.schedule.inline import InlineExecutor

        return InlineExecutor()
    from flaxcomp.schedule.ray_executor import RayExecutor

    return RayExecutor(loaded.sweep.resources, address)


def _make_trimmer(loaded: "LoadedSweep", paths: "RunPaths", store: "Store") -> "Trimmer | None":
    from flaxcomp.report.winners import select
    from flaxcomp.schedule.retention import Trimmer

    retention, export = loaded.sweep.retention, loaded.sweep.export
    if retention is None:
        return None

    def chosen(rule: str) -> list[str]:
        return select(store.frame(epochs=False), rule)

    return Trimmer(retention, paths, front=lambda: chosen("front"), winners=lambda: chosen(export.select) if export else [])


@contextmanager
def _stop_on_interrupt(controller: "Controller") -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops cleanly, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def on_signal(number: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        controller.request_stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _after_training(ctx: click.Context, loaded: "LoadedSweep", paths: "RunPaths", pool: Path | None) -> None:
    """Export, measure and report, as the commands of those names do; what was measured is reported even if a device failed."""
    from flaxcomp.cli.commands import bench, export, front, report

    problem: UserError | None = None
    if loaded.sweep.export is not None:
        ctx.invoke(export.command, run=paths.root, quiet=True)
    if pool is not None:
        try:
            ctx.invoke(bench.command, what=(paths.root,), pool=pool, quiet=True)
        except UserError as error:
            problem = error
    ctx.invoke(report.command, run=paths.root)
    ctx.invoke(front.command, run=paths.root)
    click.echo(f"Report: {paths.report / 'index.html'}")
    if problem is not None:
        raise problem


def _label(trial: "Trial") -> str:
    config = trial.config
    parts = [str(config.model["name"])]
    if config.distill:
        parts.append(f"T={config.distill.temperature:g}")
    parts.append(f"seed={config.seed}")
    return " ".join(parts)
