"""`flaxcomp plan`: what a sweep file would do."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaxcomp.errors import MissingPackageError
from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.sizes import show_size

if TYPE_CHECKING:
    from rich.console import Console

    from flaxcomp.sweep.load import LoadedSweep
    from flaxcomp.sweep.plan import Plan

COST_WIDTH, PIPE_WIDTH = 120, 160
MAX_ROWS, MAX_COLUMNS, MAX_WITH_COST = 40, 8, 5  # of signatures and of what tells them apart; --json has all
MAX_CHAINS = 20

Cost = dict[str, float]


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE[,VALUE]", help="Change the sweep; may be repeated.")
@click.option("--yes", is_flag=True, help="Go on with more than 100,000 points.")
@click.option("--cost", "with_cost", is_flag=True, help="Estimate parameters, MACs, time and disk; needs JAX.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, see below.")
def command(sweep: Path, overrides: tuple[str, ...], yes: bool, with_cost: bool, as_json: bool) -> None:
    """Check a sweep file and print what it would do, without doing it; a run folder stands for its sweep.

    \b
    The JSON object has
      name, file, method
      points        what the grid or the draws make; of these were
      excluded        by `exclude`,
      repeated        equal to another one,
      trials          what is left
                    (`method: optuna` suggests its trials as it goes: these, and all that follows
                    from them here, are an example, drawn at random)
      dependencies  trainings that only other trials need, such as teachers
      unshared      trainings, were those that several trials need not done once for all
      packs         of at most `pack_size` trials, for `workers` workers
      signatures    one object a compile signature: signature, trials, dependencies,
                    packs, differs (the columns that tell it from the others)
      chains        trials that need others: the models trained one after the other, the
                    trial's own last, and how many trials are at the end of it
      early_stop    where the sweep has it: trainings (all), to_the_end_at_least, epochs (of
                    all), epochs_at_least
      cost          with --cost: seconds, disk_bytes of all trials; each signature then has
                    params, trainable_params, macs, step_flops, seconds, disk_bytes of one;
                    of a method that makes networks smaller: as if the network stayed
                    as large, the search not counted
    """
    from flaxcomp.cli.catalog import RoomCatalog
    from flaxcomp.cli.sweeps import given_sweep
    from flaxcomp.sweep.expand import check_size
    from flaxcomp.sweep.load import load_sweep
    from flaxcomp.sweep.plan import make_plan

    given = given_sweep(sweep, overrides)
    loaded = load_sweep(given.file, given.overrides)
    if not yes:
        check_size(loaded)
    plan = make_plan(loaded, RoomCatalog(beside=given.file.parent, copies=given.copies, planning=True))
    costs = _costs(plan) if with_cost else {}
    if as_json:
        click.echo(json.dumps(_document(loaded, plan, costs), indent=2))
    else:
        _print(loaded, plan, costs)


def _costs(plan: "Plan") -> dict[str, Cost]:
    """What one trial of each signature costs."""
    try:
        from flaxcomp.train.cost import estimate
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"--cost needs {error.name}; install flaxcomp[full]") from None
    names = ("params", "trainable_params", "macs", "step_flops", "seconds", "disk_bytes")
    costs = {}
    for signature, group in plan.groups.items():
        cost = estimate(group.example.config)
        costs[signature] = {name: getattr(cost, name) for name in names}
    return costs


def _total(plan: "Plan", costs: dict[str, Cost], name: str) -> float:
    return sum(costs[signature][name] * (group.trials + group.dependencies) for signature, group in plan.groups.items())


def _document(loaded: "LoadedSweep", plan: "Plan", costs: dict[str, Cost]) -> dict[str, Any]:
    document = {
        "name": loaded.sweep.name,
        "file": loaded.file,
        "method": loaded.sweep.method,
        "points": plan.points,
        "excluded": plan.tally.excluded,
        "repeated": plan.tally.repeated,
        "trials": plan.trials,
        "dependencies": plan.dependencies,
        "unshared": plan.unshared,
        "packs": plan.packs,
        "pack_size": plan.pack_size,
        "workers": plan.workers,
        "signatures": [
            {
                "signature": signature,
                "trials": group.trials,
                "dependencies": group.dependencies,
                "packs": group.packs,
                "differs": group.differs,
                **costs.get(signature, {}),
            }
            for signature, group in plan.groups.items()
        ],
    }
    document["chains"] = [{"chain": list(chain), "trials": count} for chain, count in plan.chains.items()]
    if plan.ending is not None:
        names = ("trainings", "to_the_end_at_least", "epochs", "epochs_at_least")
        document["early_stop"] = dict(zip(names, plan.ending, strict=True))
    if costs:
        document["cost"] = {name: _total(plan, costs, name) for name in ("seconds", "disk_bytes")}
    return document


def _print(loaded: "LoadedSweep", plan: "Plan", costs: dict[str, Cost]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    if costs:
        console.width = max(console.width, COST_WIDTH)  # rich would leave out columns instead
    resources = loaded.sweep.resources
    assumed = [f"{name}: auto taken as {value}" for name, value in (("pack", plan.pack_size), ("workers", plan.workers))
               if getattr(resources, name) == "auto"]  # fmt: skip
    repeated = f"{plan.tally.repeated:,} equal to another" if plan.tally.repeated else ""
    example = "drawn at random, as an example: the sampler's depend on results" if loaded.sweep.method == "optuna" else ""
    rows = [
        ("points", f"{plan.points:,}", ", ".join(filter(None, (example, repeated)))),
        ("excluded", f"{plan.tally.excluded:,}", ""),
        ("trials", f"{plan.trials:,}", ""),
        ("dependencies", f"{plan.dependencies:,}", "trained because others need them" if plan.dependencies else ""),
        ("packs", f"{plan.packs:,}", ", ".join(assumed)),
    ]
    if plan.dependencies or plan.chains:
        rows.append(("trainings", f"{plan.trials + plan.dependencies:,}", f"{plan.unshared:,} if nothing were shared"))
    if plan.ending is not None:
        ending = plan.ending
        rows.append(("to the end", f"{ending.fewest:,}", f"at least, by early_stop; at most {ending.trials:,}"))
        rows.append(("epochs", f"{ending.fewest_epochs:,}", f"at least; at most {ending.epochs:,}"))
    if costs:
        rows.append(("time", _duration(_total(plan, costs, "seconds")), "if trained one after the other"))
        rows.append(("disk", show_size(_total(plan, costs, "disk_bytes")), ""))
    console.print(f"[bold]{escape(loaded.sweep.name)}[/bold]  {escape(loaded.file)}")
    summary = Table.grid(padding=(0, 2))
    summary.add_column()
    summary.add_column(justify="right")
    summary.add_column(style="dim")
    for row in rows:
        summary.add_row(*row)
    console.print(summary)

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("signature", no_wrap=True)
    numbers = ["trials", "packs", *(["params", "MACs", "time each", "disk each"] if costs else [])]
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    differing = list(next(iter(plan.groups.values())).differs)[: MAX_WITH_COST if costs else MAX_COLUMNS]
    for name in differing:
        table.add_column(name, overflow="fold")
    for signature, group in list(plan.groups.items())[:MAX_ROWS]:
        cells = [f"{group.trials + group.dependencies:,}", f"{group.packs:,}"]
        if costs:
            cost = costs[signature]
            cells += [f"{cost['params']:,}", f"{cost['macs']:,}", _duration(cost["seconds"]), show_size(cost["disk_bytes"])]
        cells += ["-" if group.differs[name] is None else escape(str(group.differs[name])) for name in differing]
        table.add_row(signature, *cells)
    console.print()
    console.print(table)
    if len(plan.groups) > MAX_ROWS:
        console.print(f"... and {len(plan.groups) - MAX_ROWS} more signatures; --json has all")
    if costs and any(method_of(group.example.config) for group in plan.groups.values()):
        console.print("Methods that make networks smaller: as if those stayed as large, the searches not counted.")
    _print_chains(plan, console)


def _print_chains(plan: "Plan", console: "Console") -> None:
    """What is trained one after the other, first what is needed first."""
    from rich.markup import escape

    if not plan.chains:
        return
    console.print("\n[bold]trained one after the other[/bold]")
    for chain, count in list(plan.chains.items())[:MAX_CHAINS]:
        console.print(f"{count:>6,}  {escape(' > '.join(chain))}", soft_wrap=True)
    if len(plan.chains) > MAX_CHAINS:
        console.print(f"... and {len(plan.chains) - MAX_CHAINS} more chains; --json has all")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
