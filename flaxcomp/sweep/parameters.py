"""What `parameters` varies. Its forms:

    seed: {range: [0, 10]}                                          start, stop (exclusive) and perhaps step, as in Python
    train.epochs: {value: 20}                                       one value
    distill: {values: [null, {teacher: big}]}                       any part of a trial, whole sections too, which it replaces
    train: {optimizer: {learning_rate: {values: [1e-3, 1e-2]}}}     nested, also in the style of W&B with `parameters:` between
    train.optimizer.learning_rate: {min: 1e-4, max: 1e-1, distribution: log_uniform}   not in a grid

A list of such mappings is the union of several grids. Where one parameter sets a section to null, parameters inside that
section do not apply.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any, Literal, get_args

from flaxcomp.errors import SweepFileError, suggest
from flaxcomp.sweep.check import check, describe, has_keys, kind_at
from flaxcomp.sweep.document import Node, Place, Route, dotted, show
from flaxcomp.sweep.spec import TrialForm

FORM_KEYS = ("values", "value", "range", "min", "max", "distribution")

Distribution = Literal["uniform", "log_uniform", "int_uniform"]
Path = tuple[str, ...]
Key = int | float  # which value of a parameter: the position of a choice, or the drawn number itself

_SIGNIFICANT = 6  # digits of drawn numbers: readable, and the same on every machine


@dataclass(frozen=True)
class Steps(Sequence[float]):
    """`range` with fractions: `[0, 1, 0.1]` is 0.0, 0.1, 0.2, ... as one writes them."""

    start: float
    step: float
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return float(Decimal(repr(self.start)) + index * Decimal(repr(self.step)))


@dataclass(frozen=True)
class Choices:
    """Values of which a grid takes each, and a random search any, all equally likely.

    Attributes:
        values: the values; a `range` may be far longer than memory.
        count: how many (`len` fails on the longest ranges).
        route: where they stand inside the parameter's form.
    """

    values: Sequence[Any]
    count: int
    route: Route

    def draw(self, share: float) -> int:
        return int(share * self.count)

    def value(self, key: Key) -> Any:
        return self.values[int(key)]


@dataclass(frozen=True)
class Interval:
    """Numbers between two bounds; `int_uniform` includes both."""

    low: float
    high: float
    distribution: Distribution

    def draw(self, share: float) -> Key:
        """The number at a share in [0, 1) of the probability."""
        if self.distribution == "int_uniform":
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        if self.distribution == "log_uniform":
            number = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            number = self.low + share * (self.high - self.low)
        return self.nearest(number)

    def nearest(self, number: float) -> Key:
        """A number inside the bounds as trials have it."""
        if self.distribution == "int_uniform":
            return int(number)
        return min(max(float(f"{number:.{_SIGNIFICANT}g}"), self.low), self.high)

    def value(self, key: Key) -> Key:
        return key


@dataclass(frozen=True)
class Parameter:
    """One part of a trial and the values that it takes."""

    path: Path
    source: Choices | Interval
    place: Place

    def place_of(self, key: Key, inside: Route = ()) -> Place:
        """The place of one of its values, or of a part of it."""
        if isinstance(self.source, Interval):
            return self.place
        index = (int(key),) if self.source.route == ("values",) else ()
        return self.place.at((*self.source.route, *index, *inside))


Block = tuple[Parameter, ...]


def read_blocks(parameters: Node, *, method: str) -> tuple[Block, ...]:
    """Read the parameters of a sweep: one block, or several whose grids are united.

    Raises:
        SweepFileError: unknown path, faulty form, wrong or impossible value, nothing to vary.
    """
    blocks: list[Block] = []
    for forms in read_forms(parameters):
        block = tuple(Parameter(path, _source(path, form, method), form.place) for path, form in forms.items())
        for parameter in block:
            _check_values(parameter)
        blocks.append(block)
    return tuple(blocks)


def read_forms(parameters: Node) -> list[dict[Path, Node]]:
    """The forms of each block by their paths, nesting undone.

    Raises:
        SweepFileError: an unknown path, a path that stands twice, something that is no form, an empty list.
    """
    value, place = parameters.value, parameters.place
    if not isinstance(value, list):
        return [_read_block(parameters)]
    if not value:
        raise place.error("parameters is an empty list, so there is nothing to train; leave it out to train the base alone")
    return [_read_block(Node(block, place.at((index,)))) for index, block in enumerate(value)]


def _read_block(block: Node) -> dict[Path, Node]:
    if not isinstance(block.value, dict):
        raise block.place.error(f"parameters must map paths such as train.epochs to values, got {show(block.value)}")
    forms: dict[Path, Node] = {}
    for path, form in _find_forms(block, ()):
        if path in forms:
            raise form.place.error(f"{dotted(path)} is varied twice, first in line {forms[path].place.line}")
        forms[path] = form
    return forms


def _find_forms(node: Node, path: Path) -> Iterator[tuple[Path, Node]]:
    value, place = node.value, node.place
    if path:
        kind = kind_at(TrialForm, path, lambda _: place)
        if not isinstance(value, dict) or not value:
            raise place.error(f"{dotted(path)}: a parameter is written {{values: [...]}} or {{value: ...}}, got {show(value)}")
        if any(key in FORM_KEYS for key in value):
            yield path, node
            return
        if not has_keys(kind):
            raise _unknown_key(next(iter(value)), node, path)
    for key, item in value.items():
        inner = Node(item, place.at((key,)))
        if key != "parameters":
            yield from _find_forms(inner, (*path, *key.split(".")))
        elif isinstance(item, dict):  # W&B's way to nest
            yield from _find_forms(inner, path)
        else:
            raise inner.place.error(f"{dotted((*path, key))} must be a mapping, got {show(item)}")


def _source(path: Path, form: Node, method: str) -> Choices | Interval:
    name, value = dotted(path), form.value
    for key in value:
        if key not in FORM_KEYS:
            raise _unknown_key(key, form, path)
    ways = [key for key in ("values", "value", "range") if key in value]
    if ways and len(value) > 1:
        others = ", ".join(key for key in value if key != ways[0])
        raise form.place.error(f"{name}: {ways[0]!r} stands alone, got also {others}")
    if "value" in value:
        return Choices([value["value"]], 1, ("value",))
    if "values" in value:
        choices = value["values"]
        if not isinstance(choices, list) or not choices:
            raise form.place.at(("values",)).error(f"{name}: values must be a list of one value or more, got {show(choices)}")
        return Choices(choices, len(choices), ("values",))
    if "range" in value:
        return _range(name, value["range"], form.place.at(("range",)))
    if method == "grid":
        raise form.place.error(
            f"{name}: min and max are for `method: random` and `optuna`; a grid takes values, value or range"
        )
    return _interval(path, form)


def _unknown_key(key: str, form: Node, path: Path) -> SweepFileError:
    message = f"unknown key {show(key)} in the parameter {dotted(path)}.{suggest(key[:80], FORM_KEYS)}"
    return form.place.at((key,)).error(message)


def _range(name: str, bounds: Any, place: Place) -> Choices:
    if not isinstance(bounds, list) or len(bounds) not in (2, 3) or not all(map(_is_number, bounds)):
        raise place.error(f"{name}: a range is [start, stop] or [start, stop, step], stop exclusive, got {show(bounds)}")
    start, stop, step = (*bounds, 1)[:3]
    if step == 0:
        raise place.error(f"{name}: a range's step must not be 0")
    exact = [Decimal(repr(bound)) for bound in (start, stop, step)]
    with localcontext(prec=400):  # enough for the ratio of any two floats, so that no point is gained or lost
        count = int(((exact[1] - exact[0]) / exact[2]).to_integral_value(ROUND_CEILING))
    if count <= 0:
        raise place.error(f"{name}: the range {show(bounds)} is empty; its stop is exclusive")
    integers = all(isinstance(bound, int) for bound in (start, stop, step))
    return Choices(range(start, stop, step) if integers else Steps(start, step, count), count, ("range",))


def _interval(path: Path, form: Node) -> Interval:
    name, value, place = dotted(path), form.value, form.place
    low, high = value.get("min"), value.get("max")
    if not (_is_number(low) and _is_number(high)):
        raise place.error(f"{name} needs min and max, both numbers, got {show(low)} and {show(high)}")
    integers = isinstance(low, int) and isinstance(high, int)
    takes_floats = "a number" in describe(kind_at(TrialForm, path, lambda _: place))
    distribution = value.get("distribution", "int_uniform" if integers and not takes_floats else "uniform")
    if distribution not in get_args(Distribution):
        raise place.at(("distribution",)).error(
            f"{name}: unknown distribution {show(distribution)}.{suggest(str(distribution)[:80], get_args(Distribution))}"
        )
    if low >= high:
        raise place.error(f"{name}: min must be below max, got {low} and {high}")
    if distribution == "log_uniform" and low <= 0:
        raise place.at(("min",)).error(f"{name}: log_uniform needs min > 0, got {low}")
    if distribution == "int_uniform" and not integers:
        raise place.error(f"{name}: int_uniform needs whole numbers, got {low} and {high}")
    return Interval(low, high, distribution)


def _check_values(parameter: Parameter) -> None:
    """Check every listed value; of ranges and intervals the ends and one between."""
    source, path = parameter.source, parameter.path
    kind = kind_at(TrialForm, path, lambda _: parameter.place)
    keys: Iterable[Key]
    if isinstance(source, Interval):
        keys = [source.low, source.high, source.draw(0.382)]
    elif isinstance(source.values, list):
        keys = range(source.count)
    else:
        keys = {0, source.count // 2, source.count - 1}
    for key in keys:
        where = functools.partial(_place_in_value, parameter, key)
        check(source.value(key), kind, where, path, partial=True)


def _place_in_value(parameter: Parameter, key: Key, route: Route) -> Place:
    return parameter.place_of(key, route[len(parameter.path) :])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
