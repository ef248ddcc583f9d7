"""How the parts of a channel hang together that grouped convolutions have tied over their groups.

A channel that is tied over groups is several in truth, which meet different groups of different layers. Two networks of
different widths correspond only where these parts do, so the wiring is part of what tells groups of channels apart, and the
order of a channel's places follows it.
"""

from collections import defaultdict
from typing import Any

from flaxcomp.compress.prune.reading import Axis, Reading

Wiring = tuple[Any, ...]


class Parts:
    """The channels of a network as they are where nothing is tied over groups.

    Args:
        reading: of the network with all axes of grouped convolutions `apart`.
    """

    def __init__(self, reading: Reading) -> None:
        self._grouped = reading.grouped
        self._roots = {axis: reading.labels.roots(ids).tolist() for axis, ids in reading.channels.items()}
        places: dict[int, dict[Axis, int]] = defaultdict(lambda: defaultdict(int))
        for axis, roots in self._roots.items():
            for root in roots:
                places[root][axis] += 1
        self._kinds = {root: tuple(sorted(counts.items(), key=repr)) for root, counts in places.items()}

    def order(self, places: dict[Axis, list[int]]) -> tuple[dict[Axis, list[int]], Wiring]:
        """A channel's positions in the order of its parts, and its wiring.

        Args:
            places: its positions by axis.
        """
        met = {axis: [self._at(axis, position) for position in positions] for axis, positions in places.items()}
        first: dict[int, int] = {}
        for parts in met.values():
            for roots in parts:
                for root in roots:
                    first.setdefault(root, len(first))
        ranks = {root: i for i, root in enumerate(sorted(first, key=lambda root: (repr(self._kinds[root]), first[root])))}
        ordered: dict[Axis, list[int]] = {}
        wires = []
        for axis, positions in places.items():
            wired = [tuple(ranks[root] for root in roots) for roots in met[axis]]
            pairs = sorted(zip(wired, positions, strict=True))
            ordered[axis] = [position for _, position in pairs]
            wires.append(tuple(wire for wire, _ in pairs))
        return ordered, (tuple(self._kinds[root] for root in ranks), tuple(wires))

    def _at(self, axis: Axis, position: int) -> tuple[int, ...]:
        """The parts at a position: those of all groups where a kernel's inputs are tied."""
        if axis in self._roots:
            return (self._roots[axis][position],)
        groups = self._grouped[axis.leaf, axis.axis]
        if axis.role == "in":
            return tuple(self._roots[axis._replace(block=group)][position] for group in range(groups))
        block, place = divmod(position, len(self._roots[axis._replace(block=0)]))
        return (self._roots[axis._replace(block=block)][place],)
