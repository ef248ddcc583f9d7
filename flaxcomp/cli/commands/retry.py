"""`flaxcomp retry`: give failed trials another chance."""

import os
import socket
from pathlib import Path

import click

from flaxcomp.cli.trials import trials_named
from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store


@click.command(name="retry")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--trial",
    "trials",
    multiple=True,
    metavar="ID",
    help="Only this trial, by the beginning of its id, and what blocks it; may be repeated.",
)
def command(run: Path, trials: tuple[str, ...]) -> None:
    """Make failed trials of RUN pending again, and those that they block. A controller at work takes them up by itself.

    A finished trial that is named, but whose network was removed, is trained again, too.
    """
    paths = RunPaths.at(run)
    with Store.open(paths) as store:
        statuses, gone = store.statuses(), list[str]()
        trials = trials_named(trials, statuses)
        for trial in trials:
            if statuses[trial] == "finished" and not paths.model(trial).is_dir():
                gone.append(trial)
            elif statuses[trial] not in ("failed", "blocked"):
                raise UserError(f"Only failed and blocked trials can be tried again, trial {trial} is {statuses[trial]}.")
        wanted = list(trials) or None
        owner = store.controller()
        if owner is not None:
            if gone:
                raise UserError(f"The removed networks of {', '.join(gone)} can be asked for when no controller is at work, "
                                f"here is {owner}: wait, or end it with `flaxcomp stop`.")  # fmt: skip
            store.request_retry(wanted)
            click.echo(f"Asked {owner} to try them again.")
            return
        lease = store.acquire(host=socket.gethostname(), pid=os.getpid())
        try:
            store.repeat(lease, gone)
            count = len(gone) + store.reset_failed(lease, wanted)
        finally:
            store.release(lease)
        click.echo(
            f"{count} trials are pending again; the next `flaxcomp run` takes them up." if count else "No trial has failed."
        )
