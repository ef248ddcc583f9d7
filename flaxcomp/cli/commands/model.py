"""`flaxcomp model`: an architecture's layers, parameters and multiply-adds, and which of its channels go together."""

import json
from typing import TYPE_CHECKING, Any

import click

from flaxcomp.errors import SweepFileError, UserError

if TYPE_CHECKING:
    from flaxcomp.models.counting import Counts


@click.command()
@click.argument("name")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--groups", is_flag=True, help="Print which channels pruning must remove together, instead of the layers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: config, params, macs, flops, layers, ...")
def command(name: str, options: tuple[str, ...], groups: bool, as_json: bool) -> None:
    """Print the layers and sizes of an architecture; without options as it was published.

    A list is written with commas: input_shape=32,32,3; a single value with one at the end: widths=4,

    MACs are multiply-adds of convolutions and dense layers for one image; FLOPs twice those, plus one for each number that any
    other arithmetic yields.

    With --groups, below each group stand the axes of the arrays that its channels lie on, and how often, and which entries of
    the option `widths` count them.
    """
    from flaxcomp.cli.packages import need
    from flaxcomp.models import registry

    model = {"name": name, **dict(_option(text) for text in options)}
    config = registry.config_of(model)
    need(("jax", "flax"), "flaxcomp model")
    from flaxcomp.models.counting import count

    if groups:
        _print_groups(model, config, as_json)
        return
    shape, classes = getattr(config, "input_shape"), getattr(config, "num_classes")  # noqa: B009  of every Classifier
    counts = count(model, shape, classes)
    if as_json:
        click.echo(json.dumps(_document(name, config, counts), indent=2))
    else:
        _print(name, config, counts)


def _option(text: str) -> tuple[str, Any]:
    """Read `key=value`; the value as in a sweep file, a list also with commas alone.

    Raises:
        UserError: it is not of that form.
    """
    from flaxcomp.sweep.document import parse

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"an option of a model must be KEY=VALUE, got {text!r}")
    is_list = "," in value and not value.startswith("[")
    try:
        return key, parse(f"[{value}]" if is_list else value, "").value
    except SweepFileError as error:
        raise UserError(f"the value of an option must be YAML, got {text!r}: {error.problem}") from None


def _print_groups(model: dict[str, Any], config: Any, as_json: bool) -> None:
    from flaxcomp.cli import channels
    from flaxcomp.compress.prune.coupling import couple

    coupling = couple(model, config.input_shape, config.num_classes)
    if as_json:
        click.echo(json.dumps({"name": model["name"], **channels.document(coupling)}, indent=2))
    else:
        click.echo("\n".join(channels.lines(coupling)))


def _document(name: str, config: Any, counts: "Counts") -> dict[str, Any]:
    import dataclasses

    import msgspec

    return {"name": name, "config": msgspec.to_builtins(msgspec.structs.asdict(config)), **dataclasses.asdict(counts)}


def _print(name: str, config: Any, counts: "Counts") -> None:
    import msgspec

    for key, value in msgspec.to_builtins(msgspec.structs.asdict(config)).items():
        click.echo(f"{key}: {value}")
    width = max(len(layer.name) for layer in counts.layers)
    click.echo(f"\n{name:{width}}  {'output':>14}  {'parameters':>12}  {'MACs':>14}")
    for layer in counts.layers:
        shape = "x".join(map(str, layer.output_shape)) if layer.output_shape else ""
        macs = f"{layer.macs:,}" if layer.macs else ""
        click.echo(f"{layer.name:{width}}  {shape:>14}  {layer.trainable_params:>12,}  {macs:>14}".rstrip())
    click.echo(f"\ntrainable parameters {counts.trainable_params:,}, all {counts.params:,}, "
               f"MACs {counts.macs:,}, FLOPs {counts.flops:,}")  # fmt: skip
