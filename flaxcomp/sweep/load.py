"""Reads a sweep file and refuses what is wrong in it, before anything runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flaxcomp.errors import SweepFileError, suggest
from flaxcomp.sweep.check import check
from flaxcomp.sweep.columns import (
    METHOD_COLUMNS,
    RESULT_COLUMNS,
    TEXT_COLUMNS,
    TOP5_COLUMNS,
    config_columns,
    model_options,
    with_teachers_own,
)
from flaxcomp.sweep.dependencies import check_dependencies
from flaxcomp.sweep.document import Node, Place, Route, parse, read_text, show
from flaxcomp.sweep.expressions import Expression, ExpressionError, compile_expression
from flaxcomp.sweep.overrides import apply_overrides
from flaxcomp.sweep.parameters import Block, Choices, Parameter, read_blocks
from flaxcomp.sweep.search import check_search
from flaxcomp.sweep.spec import Sweep, TrialForm

_ALL = "`flaxcomp results RUN --format csv` has all as columns"


@dataclass(frozen=True)
class LoadedSweep:
    """A checked sweep file.

    Attributes:
        sweep: what it says, `--set` included.
        text: the file as it was read, byte for byte.
        file: its name as the user gave it.
        document: its values with their lines, `--set` included.
        blocks: the grids whose union it is.
        exclude: its compiled exclusions.
    """

    sweep: Sweep
    text: str
    file: str
    document: Node
    blocks: tuple[Block, ...]
    exclude: tuple[Expression, ...]

    def error(self, message: str, route: Route) -> SweepFileError:
        """An error that names the line of the value at `route`."""
        return self.document.place.at(route).error(message)


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> LoadedSweep:
    """Read and check a sweep file.

    Args:
        path: a YAML file of at most 1 MiB.
        overrides: changes `PATH=VALUE[,VALUE...]`, as `--set` takes them.

    Raises:
        SweepFileError: whatever is wrong, with file and line. Models, data sets and what only whole trials show
            (a missing `distill.teacher`) are checked by `expand`.
    """
    return load_text(read_text(path, str(path)), str(path), overrides)


def load_text(text: str, file: str, overrides: Sequence[str] = ()) -> LoadedSweep:
    """Check a sweep file's text, see `load_sweep`; JSON is YAML, so a sweep encoded as JSON is read as well."""
    document = parse(text, file)
    if not isinstance(document.value, dict):
        raise document.place.error(f"a sweep file must be a mapping that starts with `version: 1`, got {show(document.value)}")
    document = apply_overrides(document, overrides)
    where = document.place.at
    check(document.value, Sweep, where)
    sweep = msgspec.convert(document.value, Sweep)
    check(sweep.base, TrialForm, lambda route: where(("base", *route)), partial=True)
    _check_together(sweep, document)
    blocks = read_blocks(Node(sweep.parameters, where(("parameters",))), method=sweep.method)
    check_dependencies(sweep, document, ((p.path[0], _nest(p.path, value), at) for p, value, at in _listed(blocks)))
    exclude = _check_columns(sweep, document, blocks)
    if sweep.method == "optuna":
        check_search(sweep, document, blocks)
    return LoadedSweep(sweep, text, file, document, blocks, exclude)


def _check_together(sweep: Sweep, document: Node) -> None:
    place = document.place
    if sweep.method != "grid" and sweep.trials is None:
        raise place.at(("method",)).error(f"`method: {sweep.method}` needs `trials`, how many to draw")
    if sweep.method == "grid" and sweep.trials is not None:
        raise place.at(("trials",)).error(
            "`trials` is for `method: random` and `optuna`; a grid has as many as its parameters make"
        )
    if sweep.method != "optuna" and sweep.sampler is not None:
        raise place.at(("sampler",)).error(f"`sampler` is for `method: optuna`, got `method: {sweep.method}`")
    if sweep.benchmark is not None and sweep.export is None:
        raise place.at(("benchmark",)).error("`benchmark` needs `export`, which makes the files that it measures")


def _check_columns(sweep: Sweep, document: Node, blocks: Sequence[Block]) -> tuple[Expression, ...]:
    """Compile all expressions and refuse unknown columns in them and in the metrics."""
    varied = [_nest(parameter.path, value) for parameter, value, _ in _listed(blocks)]
    config = {*config_columns(), *model_options([sweep.base, sweep.teachers, *varied])}
    config |= {name for block in blocks for parameter in block if (name := ".".join(parameter.path)).startswith("model.")}
    recorded = (*RESULT_COLUMNS, *TOP5_COLUMNS, *METHOD_COLUMNS)
    results = config | {*recorded}
    for index, metric in enumerate(sweep.metrics):
        place = document.place.at(("metrics", index, "name"))
        if metric.name not in results:
            raise place.error(f"unknown metric {show(metric.name)}.{suggest(metric.name[:80], recorded, _ALL)}")
        if metric.name in TEXT_COLUMNS:
            raise place.error(f"a metric must be a number, which {metric.name} is not; `constraints` may read it")
    _compile(sweep.constraints, results, "constraints", document)
    return _compile(sweep.exclude, config, "exclude", document)


def _compile(texts: Sequence[str], known: set[str], key: str, document: Node) -> tuple[Expression, ...]:
    expressions = []
    for index, text in enumerate(texts):
        place = document.place.at((key, index))
        try:
            expression = compile_expression(text)
        except ExpressionError as error:
            raise place.error(f"{key}[{index}]: {error}") from None
        for name in sorted(expression.names):
            if known.isdisjoint(with_teachers_own([name])):
                raise place.error(f"{key}[{index}] reads the unknown column {show(name)}.{suggest(name, known, _ALL)}")
        expressions.append(expression)
    return tuple(expressions)


def _listed(blocks: Sequence[Block]) -> Iterator[tuple[Parameter, Any, Place]]:
    """Every parameter with each of the values that it lists, and their places."""
    for block in blocks:
        for parameter in block:
            if isinstance(parameter.source, Choices) and isinstance(parameter.source.values, list):
                for key, value in enumerate(parameter.source.values):
                    yield parameter, value, parameter.place_of(key)


def _nest(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for step in reversed(path):
        value = {step: value}
    nested: dict[str, Any] = value
    return nested
