"""`flaxcomp stop`: end a controller cleanly."""

import time
from pathlib import Path

import click

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

POLL_S = 0.5


@click.command(name="stop")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Return when the controller has ended.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Seconds to wait at most; implies --wait.")
def command(run: Path, wait: bool, timeout_s: float | None) -> None:
    """Ask the controller of RUN to save checkpoints and end. The same `flaxcomp run` goes on later."""
    with Store.open(RunPaths.at(run)) as store:
        owner = store.controller()
        if owner is None:
            click.echo("No controller is at work on this run.")
            return
        store.request_stop()
        click.echo(f"Asked {owner} to stop.")
        if not wait and timeout_s is None:
            return
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        # Another controller that began meanwhile is not the one that was asked.
        while (now := store.controller()) is not None and now.acquired_at == owner.acquired_at:
            if deadline is not None and time.monotonic() > deadline:
                raise UserError(
                    f"{owner} has not ended within {timeout_s:g} s: it may be saving; wait longer, or end the process."
                )
            time.sleep(POLL_S)
        click.echo("It has ended.")
