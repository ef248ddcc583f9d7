"""Trainings that others need: teachers, and what initial weights come from. None may need itself."""

from collections.abc import Iterable, Iterator
from typing import Any

from flaxcomp.errors import suggest
from flaxcomp.sweep.check import check
from flaxcomp.sweep.document import Node, Place, Route, dotted, show
from flaxcomp.sweep.spec import SourceForm, Sweep

MAX_CHAIN = 20  # teachers of teachers

# Where a training names another that it needs.
_LINKS = (("distill", "teacher"), ("train", "init_from", "trial"))


def check_dependencies(sweep: Sweep, document: Node, varied: Iterable[tuple[str, dict[str, Any], Place]]) -> None:
    """Check the named trainings, and that every name used is one of theirs and leads back to itself never.

    Args:
        sweep: the sweep.
        document: its values with their lines.
        varied: the section, its nested value and the place of every value that a parameter lists.

    Raises:
        SweepFileError: with the line.
    """
    walk = _Walk(sweep, document.place)
    for name, teacher in sweep.teachers.items():
        check(teacher, SourceForm, document.place.at, ("teachers", name))
        walk.follow(teacher, ("teachers", name), document.place, (name,))
    walk.follow(sweep.base, ("base",), document.place, ())
    for section, value, place in varied:
        if section in ("distill", "train"):
            walk.follow(value, (), place, ())


class _Walk:
    """From trainings to those that they need, and on. A name whose trainings are known to end is not walked again."""

    def __init__(self, sweep: Sweep, place: Place) -> None:
        self._sweep, self._place = sweep, place
        self._heights: dict[str, int] = {}  # of named trainings: how many follow one another from there

    def follow(self, training: Any, route: Route, root: Place, seen: tuple[str, ...], depth: int = 0) -> int:
        """Walk on from a training; the length of its longest chain.

        Args:
            training: its plain value.
            route: where it stands in `root`.
            seen: the names on the way to it.
            depth: how many trainings are on the way.
        """
        height = 0
        for link, other in _needs(training):
            where = (*route, *link)
            place = root.at(where)
            if depth >= MAX_CHAIN:
                raise place.error(f"a chain of teachers may have {MAX_CHAIN} members at most: {dotted(where)}")
            if isinstance(other, str):
                height = max(height, 1 + self._named(other, place, seen, depth))
            else:
                height = max(height, 1 + self.follow(other, where, root, seen, depth + 1))
        return height

    def _named(self, name: str, place: Place, seen: tuple[str, ...], depth: int) -> int:
        if name in seen:
            cycle = (*seen[seen.index(name) :], name)
            raise place.error(f"trainings need each other in a circle: {' -> '.join(cycle)}")
        teachers = self._sweep.teachers
        if name not in teachers:
            known = suggest(name[:80], teachers) or " Name them under `teachers:`, or write the training here as a mapping."
            raise place.error(f"unknown teacher {show(name)}.{known}")
        if name not in self._heights:
            self._heights[name] = self.follow(teachers[name], ("teachers", name), self._place, (*seen, name), depth + 1)
        if depth + 1 + self._heights[name] > MAX_CHAIN:
            raise place.error(f"a chain of teachers may have {MAX_CHAIN} members at most")
        return self._heights[name]


def _needs(training: Any) -> Iterator[tuple[Route, Any]]:
    for link in _LINKS:
        value = training
        for step in link:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, list):
            yield from (((*link, index), item) for index, item in enumerate(value))
        elif value is not None:
            yield link, value
