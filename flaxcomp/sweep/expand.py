"""From a checked sweep to its trials, as a stream."""

import math
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flaxcomp.sweep.compression import METHODS
from flaxcomp.sweep.document import Node, Place
from flaxcomp.sweep.expressions import ExpressionError, Row
from flaxcomp.sweep.load import LoadedSweep
from flaxcomp.sweep.parameters import Choices, Key, read_blocks
from flaxcomp.sweep.parts import Part, Parts
from flaxcomp.sweep.resolve import ABSENT, MEMO_LIMIT, Resolver
from flaxcomp.sweep.spec import Sweep
from flaxcomp.sweep.trial import Catalog, Trial

__all__ = ["MAX_POINTS", "Catalog", "Tally", "Trial", "check_size", "count_points", "expand"]

MAX_POINTS = 100_000  # more are refused unless the user says so

Point = tuple[Key, ...]
Section = Callable[[Point], Part]


@dataclass
class Tally:
    """What became of the points of a sweep that are no trial of their own."""

    excluded: int = 0
    repeated: int = 0  # equal to an earlier trial


def count_points(sweep: Sweep) -> int:
    """How many points a sweep has, before `exclude` and before equal ones are made one; by arithmetic, without making them."""
    if sweep.trials is not None:
        return sweep.trials
    blocks = read_blocks(Node(sweep.parameters, Place(sweep.name)), method=sweep.method)
    sources = [[parameter.source for parameter in block] for block in blocks]
    return sum(math.prod(source.count for source in block if isinstance(source, Choices)) for block in sources)


def check_size(loaded: LoadedSweep, limit: int = MAX_POINTS) -> None:
    """Refuse a sweep of more than `limit` points.

    Raises:
        SweepFileError: with the number of points.
    """
    points = count_points(loaded.sweep)
    if points > limit:
        key = "parameters" if loaded.sweep.trials is None else "trials"
        raise loaded.error(f"the sweep has {points:,} points, more than {limit:,}; if that is meant, say --yes", (key,))


def expand(
    loaded: LoadedSweep, catalog: Catalog, tally: Tally | None = None, points: Sequence[Point] | None = None
) -> Iterator[Trial]:
    """Yield the trials of a sweep and what they need, each once, dependencies before what needs them.

    Trials that need no other come first, then those with a teacher, initial weights from another or a network to make
    smaller, then those whose teacher has one. So a teacher that is a trial of the sweep itself has been yielded as that when
    a student asks for it.
    Otherwise the order is the file's, the last parameter varying fastest. Memory is bounded by the ids.

    `exclude` sees the columns of a point with all defaults, but of a model only what the file says. `distill.teacher` is there
    the name that the file gives (an id for an inline teacher); its own columns are `distill.teacher.model.name` and so on.
    So it is with `train.init_from.trial`; `train.init_from.file` and `.checkpoint` are the paths.

    Args:
        loaded: the checked sweep file.
        catalog: knows data sets and models.
        tally: counts excluded and repeated points here.
        points: those to take of a sweep with one block; None: all of a grid, or what is drawn. Of a search they are drawn as if
            it were random, for what it will suggest nobody knows.

    Raises:
        SweepFileError: a section is wrong as a whole, the catalog refuses a data set or a model, an exclusion cannot be
            evaluated, or all points are excluded. It may come after some trials.
    """
    tally = Tally() if tally is None else tally
    resolver = Resolver(loaded, catalog)
    grids = [_Grid(loaded, index, resolver) for index in range(len(loaded.blocks))]
    seen: set[str] = set()
    depth = deepest = 0
    while depth <= deepest:
        for grid in grids:
            if depth and depth not in grid.depths:
                continue
            for point in grid.points() if points is None else points:
                distill, train, methods = grid.distill(point), grid.train(point), grid.methods(point)
                needed = max(distill.depth, train.depth) + len(methods)
                if needed != depth:
                    if needed not in grid.depths:
                        grid.depths.add(needed)
                        deepest = max(deepest, needed)
                    continue
                parts = Parts(grid.dataset(point), distill, grid.model(point), grid.seed(point), train, methods)
                if loaded.exclude and _is_excluded(loaded, (*parts, *grid.blocks(point))):
                    tally.excluded += 1
                    continue
                trial_id = parts.id()
                if trial_id in seen:
                    tally.repeated += 1
                    continue
                resolver.check(parts)
                for ancestor in parts.ancestors:
                    if ancestor.id not in seen:
                        seen.add(ancestor.id)
                        yield ancestor
                seen.add(trial_id)
                yield parts.trial(trial_id, "trial")
        depth += 1
    if not seen:
        raise loaded.error(f"`exclude` leaves none of the {tally.excluded} points", ("exclude",))


class _Grid:
    """The points of one block, and the sections that belong to a point."""

    def __init__(self, loaded: LoadedSweep, index: int, resolver: Resolver) -> None:
        self._sweep, self._index = loaded.sweep, index
        self._block, self._blocks = loaded.blocks[index], len(loaded.blocks)
        self._base = Node(loaded.sweep.base, loaded.document.place.at(("base",)))
        self.dataset = self._section("dataset", lambda node, _: resolver.dataset(node))
        self.model = self._section("model", lambda node, _: resolver.model(node))
        self.train = self._section("train", lambda node, point: resolver.train(node, self.dataset(point)), ("dataset",))
        self.seed = self._section("seed", lambda node, _: resolver.seed(node))
        self.distill = self._section("distill", lambda node, point: resolver.distill(node, self.dataset(point)), ("dataset",))
        self._methods = [(name, self._method(name, resolver)) for name in METHODS if self._asks_for(name)]
        self.depths: set[int] = set()  # of the points, as far as they are known; all are after the first walk over them

    def methods(self, point: Point) -> tuple[tuple[str, Part], ...]:
        """The methods of compression that do something at a point."""
        if not self._methods:
            return ()
        found = ((name, section(point)) for name, section in self._methods)
        return tuple((name, part) for name, part in found if part.value is not None)

    def blocks(self, point: Point) -> Iterator[Part]:
        """The blocks of methods at a point, also those that do nothing: `exclude` may name them."""
        return (section(point) for _, section in self._methods)

    def _asks_for(self, name: str) -> bool:
        return self._base.value.get(name) is not None or any(parameter.path[0] == name for parameter in self._block)

    def _method(self, name: str, resolver: Resolver) -> Section:
        def resolve(node: Node, point: Point) -> Part:
            return resolver.method(name, node, self.dataset(point), self.model(point))

        return self._section(name, resolve, ("dataset", "model"))

    def points(self) -> Iterator[Point]:
        if self._sweep.method != "grid":
            return self._draws()
        return _product([parameter.source.count for parameter in self._block if isinstance(parameter.source, Choices)])

    def _draws(self) -> Iterator[Point]:
        """Every block's share of the draws, in turn. More trials, or values for another parameter, change no earlier draw."""
        seed = self._sweep.sampling_seed
        streams = [random.Random(f"{seed} {self._index} {'.'.join(parameter.path)}") for parameter in self._block]
        for _ in range(self._index, self._sweep.trials or 0, self._blocks):
            yield tuple(parameter.source.draw(stream.random()) for parameter, stream in zip(self._block, streams, strict=True))

    def _section(self, name: str, resolve: Callable[[Node, Point], Part], also: tuple[str, ...] = ()) -> Section:
        own = [index for index, parameter in enumerate(self._block) if parameter.path[0] == name]
        own.sort(key=lambda index: len(self._block[index].path))  # what sets a whole comes before what sets a part of it
        keys = [index for index, parameter in enumerate(self._block) if parameter.path[0] in (name, *also)]
        key_of: Callable[[Point], Any] = operator.itemgetter(*keys) if keys else lambda _: None
        memo: dict[Any, Part] = {}

        def section(point: Point) -> Part:
            key = key_of(point)
            part = memo.get(key)
            if part is None:
                if len(memo) >= MEMO_LIMIT:
                    memo.clear()
                part = memo[key] = resolve(self._node(name, own, point), point)
            return part

        return section

    def _node(self, name: str, own: list[int], point: Point) -> Node:
        """The section of the base with the point's values in it."""
        node = Node(self._base.value.get(name, ABSENT[name]), self._base.place.at((name,)))
        nulls: list[tuple[str, ...]] = []
        for index in own:
            parameter, key = self._block[index], point[index]
            path, value = parameter.path, parameter.source.value(key)
            if any(path[: len(null)] == null for null in nulls):
                continue
            if value is None:
                nulls.append(path)
            node = node.with_part(path[1:], Node(value, parameter.place_of(key)))
        return node


def _product(counts: list[int]) -> Iterator[Point]:
    """As `itertools.product` over ranges, which would make a tuple of each range first."""
    if not counts:
        yield ()
        return
    for point in _product(counts[:-1]):
        for last in range(counts[-1]):
            yield (*point, last)


def _is_excluded(loaded: LoadedSweep, parts: Iterable[Part]) -> bool:
    row: Row = {name: value for part in parts for name, value in part.columns.items()}
    for index, expression in enumerate(loaded.exclude):
        try:
            if expression(row):
                return True
        except ExpressionError as error:
            raise loaded.error(f"exclude[{index}]: {error}", ("exclude", index)) from None
    return False
