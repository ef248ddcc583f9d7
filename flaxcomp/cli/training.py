"""Training a sweep into its run folder: what `flaxcomp run` does before export."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from flaxcomp import durable
from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.cli.progress import Tally, make_display
from flaxcomp.cli.sweeps import keep_inputs
from flaxcomp.cli.work import Work
from flaxcomp.errors import UserError
from flaxcomp.schedule import controller
from flaxcomp.schedule.controller import Controller, Summary, acquire, needed
from flaxcomp.schedule.environment import describe_environment
from flaxcomp.schedule.heartbeat import beating
from flaxcomp.schedule.retention import Trimmer
from flaxcomp.schedule.searching import Search, merged
from flaxcomp.store.frame import TRIAL_COLUMNS
from flaxcomp.store.lease import Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.expand import Trial
from flaxcomp.sweep.load import LoadedSweep

if TYPE_CHECKING:
    from flaxcomp.schedule.executor import Executor


_ENDED = ("finished", "stopped", "failed", "blocked")


@dataclass(frozen=True)
class Wanted:
    """What is to be trained, and where it goes.

    Attributes:
        trials: all of them; of a search those that are known so far, which grow.
        overrides: the `--set` that `loaded` contains.
        pool: the device pool that the sweep names.
        store_url: as for `Store.create`.
        catalog: what knows the files that the sweep names, of which the run folder gets copies; a search makes
            its trials with it.
    """

    loaded: LoadedSweep
    trials: list[Trial]
    paths: RunPaths
    overrides: tuple[str, ...] = ()
    pool: Path | None = None
    store_url: str | None = None
    catalog: RoomCatalog | None = None


def train(wanted: Wanted, start_executor: "Callable[[], Executor]") -> Summary:
    """Train what is not finished; a second process that tries to is refused from the first moment on."""
    sweep, paths, trials = wanted.loaded.sweep, wanted.paths, wanted.trials
    text, sweep_json = wanted.loaded.text, msgspec.json.encode(sweep)
    with Store.create(paths, name=sweep.name, sweep_text=text, sweep_json=sweep_json, overrides=wanted.overrides,
                      url=wanted.store_url) as store:  # fmt: skip
        lease = acquire(store)
        try:
            with beating(store, lease, controller.LEASE_TTL_S / 4):
                store.update_sweep(lease, sweep_text=text, sweep_json=sweep_json, overrides=wanted.overrides)
                if wanted.pool is not None:
                    durable.write_bytes(paths.pool_file, wanted.pool.read_bytes())
                if wanted.catalog is not None:
                    keep_inputs(wanted.catalog, paths)
                describe_environment(paths)
                search = None
                if sweep.method == "optuna" and wanted.catalog is not None:
                    search = Search(wanted.loaded, wanted.catalog, store)
                    trials[:] = search.begin(lease)
                store.add_trials(lease, trials)
                _give_up_lost_winners(wanted, store, lease)
                statuses = store.statuses()
                trimmer = _make_trimmer(wanted, store)
                _trim(trimmer, wanted, store, lease, statuses)
                more = _more(search, trials)
                if all(statuses[trial.id] in _ENDED for trial in trials) and not more(lease):
                    click.echo(f"{len(trials)} trials; nothing is left to train", err=True)
                    return Summary({trial.id: statuses[trial.id] for trial in trials})
                workers = start_executor()
            try:
                with Work(trials) as work, make_display(_tally(wanted, work, store)) as display:
                    chief = Controller(store, paths, tuple(trials), workers, display, sweep.resources, sweep.retry, trimmer,
                                       sweep.early_stop, more)  # fmt: skip
                    with _stop_on_interrupt(chief):
                        return chief.run(lease)
            finally:
                workers.close()
        finally:
            store.release(lease)


def _more(search: Search | None, trials: list[Trial]) -> Callable[[Lease], list[Trial]]:
    """What a search suggests next, added to the trials that are known; nothing without one."""

    def more(lease: Lease) -> list[Trial]:
        new = search.more(lease) if search is not None else []
        trials[:] = merged(trials, new)
        return new

    return more


def trim_again(wanted: Wanted) -> None:
    """Keep to `retention` after something else than training has grown the run folder."""
    if wanted.loaded.sweep.retention is None:
        return
    with Store.open(wanted.paths) as store:
        lease = acquire(store)
        try:
            _trim(_make_trimmer(wanted, store), wanted, store, lease, store.statuses())
        finally:
            store.release(lease)


def _tally(wanted: Wanted, work: Work, store: Store) -> Tally:
    known: dict[str, Trial] = {}

    def find(trial: str) -> Trial | None:
        if trial not in known:  # a search may have added it
            known.update((each.id, each) for each in wanted.trials[len(known) :])
        return known.get(trial)

    def label(trial: str) -> str:
        return _label(found) if (found := find(trial)) else trial

    def competes(trial: str) -> bool:
        return (found := find(trial)) is not None and found.role == "trial"

    metric = wanted.loaded.sweep.metrics[0]
    tally = Tally(metric, label, work, competes=competes)
    best = store.best(metric.name, largest=metric.goal == "maximize") if metric.name in TRIAL_COLUMNS else None
    if best is not None and competes(best["trial"]):
        tally.best = (best["value"], best["trial"])
    return tally


def _give_up_lost_winners(wanted: Wanted, store: Store, lease: Lease) -> None:
    """What `export.select` chooses now, but `retention` removed before it was exported, is trained again."""
    from flaxcomp.export.lacking import without_network

    export = wanted.loaded.sweep.export
    if export is None:
        return
    statuses = store.statuses()
    gone = {trial.id for trial in wanted.trials
            if statuses[trial.id] == "finished" and not wanted.paths.model(trial.id).is_dir()}  # fmt: skip
    if not gone:
        return
    chosen = [trial for trial in _chosen(store, [export.select]) if trial in gone]
    if lost := without_network(store, wanted.paths, chosen, export):
        store.repeat(lease, lost)
        said = f"{len(lost)} networks that are to be exported are gone and are trained again"
        store.log_event(lease, "note", said)
        click.echo(said, err=True)


def _chosen(store: Store, rules: list[str]) -> set[str]:
    """The trials that any of the rules selects now; all of them where the rules need figures that are not known yet."""
    from flaxcomp.report.winners import select

    frame, found = store.frame(epochs=False), set[str]()
    for rule in dict.fromkeys(rules):
        try:
            found.update(select(frame, rule))
        except UserError:  # said where it matters: by the export
            found.update(select(frame, "all"))
    return found


def _make_trimmer(wanted: Wanted, store: Store) -> Trimmer | None:
    retention, export = wanted.loaded.sweep.retention, wanted.loaded.sweep.export
    if retention is None:
        return None
    rules = [export.select] if export else []
    rules += ["front"] if "front" in retention.keep else []
    return Trimmer(retention, wanted.paths, kept=lambda: _chosen(store, rules) if rules else ())


def _trim(trimmer: Trimmer | None, wanted: Wanted, store: Store, lease: Lease, statuses: Mapping[str, str]) -> None:
    """Keep to a total that was lowered, or that something else than training has passed."""
    if trimmer is not None and (said := trimmer.trim((), needed(wanted.trials, statuses))):
        store.log_event(lease, "note", said)
        click.echo(said, err=True)


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


def make_executor(kind: str, address: str | None, loaded: LoadedSweep) -> "Executor":
    """Start the workers."""
    if kind == "inline":
        from flaxcomp.schedule.inline import InlineExecutor

        return InlineExecutor()
    from flaxcomp.schedule.ray_executor import RayExecutor

    workers = RayExecutor(loaded.sweep.resources, address)
    os.environ["JAX_PLATFORMS"] = "cpu"  # the workers have begun: the accelerator's memory is theirs, not this process's
    return workers


def _label(trial: "Trial") -> str:
    config = trial.config
    parts = [str(config.model["name"])]
    if config.distill:
        parts.append(f"T={config.distill.temperature:g}")
    if method := method_of(config):
        parts.append(method)
    parts.append(f"seed={config.seed}")
    return " ".join(parts)
