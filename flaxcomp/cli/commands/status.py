"""`flaxcomp status`: how far a run is."""

import shlex
from pathlib import Path
from typing import Any

import click
import msgspec

from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.store.run_file import read_overrides


@click.command(name="status")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: Path, as_json: bool) -> None:
    """Say how far RUN is, what trains now, what failed last, and what is best so far."""
    paths = RunPaths.at(run)
    with Store.open(paths) as store:
        state = read_state(store) | {"overrides": list(read_overrides(paths))}
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(state), indent=2).decode())
    else:
        click.echo("\n".join(lines(state)))


def read_state(store: Store) -> dict[str, Any]:
    """The object that `--json` prints; times in seconds since 1970."""
    with store.snapshot():
        metric = store.sweep().metrics[0]
        best = store.best(metric.name, largest=metric.goal == "maximize")
        owner = store.controller()
        return {
            "name": store.name(),
            "run_id": store.run_id,
            "store": store.url,
            "counts": store.counts(),
            "controller": owner
            and {"host": owner.host, "pid": owner.pid, "since": owner.acquired_at, "heartbeat": owner.heartbeat_at},
            "stop_requested": store.stop_requested(),
            "elapsed_s": store.active_s(),
            "running": store.running(),
            "best": best and {"metric": metric.name, "goal": metric.goal, **best},
            "failures": store.last_failures(),
        }


def lines(state: dict[str, Any]) -> list[str]:
    """The same for people."""
    counts = state["counts"]
    others = [f", {count} {status}" for status, count in counts.items() if count and status != "finished"]
    text = [f"{state['name']}: {counts['finished']} of {sum(counts.values())} trials finished{''.join(others)}"]
    if state["overrides"]:
        text.append(f"changed by {' '.join(f'--set {shlex.quote(override)}' for override in state['overrides'])}")
    owner = state["controller"]
    if owner:
        stopping = ", asked to stop" if state["stop_requested"] else ""
        text.append(f"controller: process {owner['pid']} on {owner['host']}{stopping}; worked {duration(state['elapsed_s'])}")
    else:
        text.append(f"controller: none at work; worked {duration(state['elapsed_s'])}")
    if state["best"]:
        best = state["best"]
        text.append(f"best {best['metric']}: {best['value']:.6g} (trial {best['trial']})")
    if state["running"]:
        text.append("running:" if owner else "broken off; the next `flaxcomp run` goes on with them:")
        text += [running_line(pack) for pack in state["running"]]
    if state["failures"]:
        text.append("last failures:")
        for row in state["failures"]:
            text.append(f"  {row['kind']}: {plural(row['trials'], 'trial')} ({row['trial']}): {last_line(row['error'])}")
    return text


def running_line(pack: dict[str, Any]) -> str:
    worker = f"{pack['worker']}: " if pack["worker"] else ""
    again = f", attempt {pack['attempt']}" if pack["attempt"] > 1 else ""
    trials = plural(pack["trials"], "trial")
    of = f" of {pack['epochs']}" if pack["epochs"] else ""
    return f"  {worker}epoch {pack['epoch']}{of}, {trials}, pack {pack['pack']}{again}"


def duration(seconds: float) -> str:
    """
    >>> duration(59.6), duration(3725), duration(90000)
    ('60 s', '1 h 02 min', '25 h 00 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def last_line(error: str | None, width: int = 160) -> str:
    """A traceback's last line says what happened."""
    line = next((line.strip() for line in reversed((error or "").splitlines()) if line.strip()), "no message")
    return line if len(line) <= width else line[: width - 1] + "…"
