"""`flaxcomp retry`: give failed trials another chance."""

import os
import socket
from pathlib import Path

import click

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store


@click.command(name="retry")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--trial", "trials", multiple=True, metavar="ID", help="Only this trial, and what blocks it; may be repeated.")
def command(run: Path, trials: tuple[str, ...]) -> None:
    """Make failed trials of RUN pending again, and those that they block. A controller at work takes them up by itself."""
    with Store.open(RunPaths.at(run)) as store:
        statuses = store.statuses()
        for trial in trials:
            if trial not in statuses:
                raise UserError(
                    f"No trial {trial!r} in this run: `flaxcomp results RUN --status failed` lists those that failed."
                )
            if statuses[trial] not in ("failed", "blocked"):
                raise UserError(f"Only failed and blocked trials can be tried again, trial {trial} is {statuses[trial]}.")
        wanted = list(trials) or None
        owner = store.controller()
        if owner is not None:
            store.request_retry(wanted)
            click.echo(f"Asked {owner} to try them again.")
            return
        lease = store.acquire(host=socket.gethostname(), pid=os.getpid())
        try:
            count = store.reset_failed(lease, wanted)
        finally:
            store.release(lease)
        click.echo(
            f"{count} trials are pending again; the next `flaxcomp run` takes them up." if count else "No trial has failed."
        )
