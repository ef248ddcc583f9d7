"""Which channels of a network must go together, from its traced program; no lists of models.

Labels run through the program (`follow`, `rules`); channels that meet are one. Channels in the same arrays are exchangeable and
make a group.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from flax import nnx

from flaxcomp.compress.prune.follow import follow, leaves_of
from flaxcomp.compress.prune.labels import Ids
from flaxcomp.compress.prune.reading import Axis, Reading
from flaxcomp.compress.prune.wiring import Parts, Wiring
from flaxcomp.errors import UserError, suggest

Shape = tuple[int, int, int]
Key = tuple[str | None, Wiring, tuple[tuple[Axis, int], ...]]
IGNORED = "left alone by an override"
LONE = "no convolution or dense layer has them"
FIXED = "no entry of the model's widths counts them"


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the program does not say.

    Attributes:
        ignore: patterns (`*`, `?`) of layers or parameters whose channels all stay, such as `stem/*`.
        tie: pairs of axes, each as `blocks/0/conv/kernel.3`, whose channels go together position by position.
        round_to: for patterns of layers or parameters, a number of which their kept channels must be a multiple.
        equal_count: sets of patterns; all groups that a set matches keep as many channels as the largest of them.
    """

    ignore: tuple[str, ...] = ()
    tie: tuple[tuple[str, str], ...] = ()
    round_to: tuple[tuple[str, int], ...] = ()
    equal_count: tuple[tuple[str, ...], ...] = ()


NO_OVERRIDES = Overrides()


@dataclass(frozen=True, eq=False)
class Group:
    """Exchangeable channels: each lies in the same arrays as the others, and as often.

    Attributes:
        name: the layer that makes them, `#2` and so on behind it where it makes several groups.
        members: for each axis, the positions of each channel on it: [channels, places]. A channel has several places where it
            is flattened, concatenated to itself, or tied over the groups of a convolution.
        frozen: why they must stay, None for those that may go.
        widths: which entries of the model's `widths` count them; none where the count follows from others (`derived`).
        wiring: see `flaxcomp.compress.prune.wiring`; () where no grouped convolution ties channels.
    """

    name: str
    members: dict[Axis, Ids]
    frozen: str | None = None
    widths: tuple[int, ...] = ()
    wiring: Wiring = ()

    @property
    def size(self) -> int:
        """Channels."""
        return len(next(iter(self.members.values())))

    @property
    def key(self) -> Key:
        """What tells it from other groups, also in the same network with other widths."""
        reason = None if self.frozen in (IGNORED, FIXED) else self.frozen  # the program does not say these
        return reason, self.wiring, tuple((axis, positions.shape[1]) for axis, positions in self.members.items())

    def places(self, leaf: str, axis: int) -> int:
        """How many positions each channel has on an axis of an array."""
        return sum(ids.shape[1] for at, ids in self.members.items() if (at.leaf, at.axis) == (leaf, axis))

    def matches(self, pattern: str) -> bool:
        """Whether the pattern is that of its name, or of a layer or parameter that has its channels as outputs."""
        leaves = [axis.leaf for axis in self.members if axis.role != "in"]
        names = {self.name, *leaves, *(leaf.rpartition("/")[0] for leaf in leaves)}
        return any(fnmatchcase(name, pattern) for name in names)


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a network.

    Attributes:
        groups: in the order of the program.
        shapes: of every parameter, batch statistic and other leaf of the state, by path.
        apart: axes of grouped convolutions whose groups choose each for itself.
        grouped: the groups of grouped convolutions, by the kernel's axes.
        notes: what could not be followed.
        overrides: what was asked for.
    """

    groups: tuple[Group, ...]
    shapes: dict[str, tuple[int, ...]]
    apart: frozenset[tuple[str, int]]
    grouped: dict[tuple[str, int], int]
    notes: tuple[str, ...]
    overrides: Overrides = NO_OVERRIDES

    def __getitem__(self, name: str) -> Group:
        """The group of a name.

        Raises:
            UserError: there is none.
        """
        found = {group.name: group for group in self.groups}
        if name not in found:
            raise UserError(f"no group of channels is called {name!r}.{suggest(name, found)}")
        return found[name]

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups of which channels may go."""
        return tuple(group for group in self.groups if group.frozen is None)


@dataclass(frozen=True)
class Kinds:
    """What layers are that do not show it for having a single channel, or one in each group; see `Reading`."""

    grouped: frozenset[tuple[str, int]] = frozenset()
    depthwise: frozenset[str] = frozenset()


def kinds_of(grouping: Grouping) -> Kinds:
    """Of a network's layers, for others of its kind with fewer channels."""
    members = (axis for group in grouping.groups for axis in group.members)
    return Kinds(frozenset(grouping.grouped), frozenset(axis.leaf for axis in members if axis.role == "depthwise"))


def couple_network(
    network: nnx.Module, input_shape: Shape, overrides: Overrides = NO_OVERRIDES, like: Grouping | None = None,
    kinds: Kinds | None = None,
) -> Grouping:  # fmt: skip
    """The groups of any NNX network from images [n, h, w, c] to logits.

    Args:
        network: with arrays or with their shapes alone; it is left in eval mode.
        input_shape: height, width, channels.
        overrides: what the program does not say.
        like: of the same network with other widths, for groups that can be compared with its.
        kinds: of its layers, where it is known better than from the network; those of `like` if there is one.

    Raises:
        UserError: an override matches nothing, or nothing of the network could be followed.
    """
    apart = like.apart if like else frozenset()
    kinds = kinds or (kinds_of(like) if like else Kinds())
    reading = follow(network, input_shape, apart, kinds.grouped, kinds.depthwise)
    if like is None and (apart := _collapsed(reading)):
        # A shuffle deals out the channels between two grouped convolutions: tied over the groups, all would be one.
        reading = follow(network, input_shape, apart, kinds.grouped, kinds.depthwise)
    if not any(axis.role == "out" for axis in reading.channels):
        raise UserError("the network has no convolution or dense layer whose channels could be followed"
                        + (f": {'; '.join(reading.notes)}" if reading.notes else ""))  # fmt: skip
    parts = None
    if reading.grouped:
        parts = Parts(follow(network, input_shape, frozenset(reading.grouped), kinds.grouped, kinds.depthwise))
    _tie(reading, overrides)
    groups = _name(_groups(reading, parts))
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_of(network).items()}
    _check_patterns(groups, overrides)
    groups = [_ignored(group, overrides) for group in groups]
    return Grouping(tuple(groups), shapes, apart, dict(reading.grouped), tuple(reading.notes), overrides)


def _collapsed(reading: Reading) -> frozenset[tuple[str, int]]:
    """Axes of grouped convolutions all of whose channels ended as one."""
    frozen = reading.labels.frozen()
    found = set()
    for axis, ids in reading.channels.items():
        if (axis.leaf, axis.axis) in reading.grouped and ids.size > 1:
            roots = set(reading.labels.roots(ids).tolist())
            if len(roots) == 1 and frozen.keys().isdisjoint(roots):
                found.add((axis.leaf, axis.axis))
    return frozenset(found)


def _groups(reading: Reading, parts: Parts | None) -> list[Group]:
    """Channels by their structure, in the order in which the program meets the groups."""
    axes = sorted(reading.channels, key=lambda axis: axis.role == "vector")  # products in the program's order, then the rest
    members: dict[int, dict[Axis, list[int]]] = defaultdict(dict)
    for axis in axes:
        for position, root in enumerate(reading.labels.roots(reading.channels[axis]).tolist()):
            members[root].setdefault(axis, []).append(position)
    frozen = reading.labels.frozen()
    alike: dict[Any, list[dict[Axis, list[int]]]] = defaultdict(list)
    for root, places in members.items():
        ordered, wiring = (places, ()) if parts is None else parts.order(places)
        counts = tuple((axis, len(positions)) for axis, positions in ordered.items())
        lone = None if any(axis.role != "vector" for axis in ordered) else LONE
        alike[counts, frozen.get(root, lone), wiring].append(ordered)
    return [
        Group("", {axis: np.array([places[axis] for places in channels], np.int32) for axis, _ in counts}, reason, (), wiring)
        for (counts, reason, wiring), channels in alike.items()
    ]


def _name(groups: list[Group]) -> list[Group]:
    makers = []
    for group in groups:
        made = next((axis for axis in group.members if axis.role in ("out", "depthwise")), next(iter(group.members)))
        makers.append((made.leaf.rpartition("/")[0] or made.leaf) + (" input" if made.role == "in" else ""))
    seen: Counter[str] = Counter()
    named = []
    for group, maker in zip(groups, makers, strict=True):
        seen[maker] += 1
        named.append(dataclasses.replace(group, name=maker if seen[maker] == 1 else f"{maker}#{seen[maker]}"))
    return named


def _tie(reading: Reading, overrides: Overrides) -> None:
    axes = {f"{axis.leaf}.{axis.axis}": ids for axis, ids in reading.channels.items()}
    for pair in overrides.tie:
        for name in pair:
            if name not in axes:
                raise UserError(f"tie: no axis with channels is called {name!r}.{suggest(name, axes)}")
        one, other = (axes[name] for name in pair)
        if one.size != other.size:
            raise UserError(
                f"tie: both axes must have as many channels, got {pair[0]} with {one.size} and {pair[1]} with {other.size}"
            )
        reading.labels.unite(one, other)


def _check_patterns(groups: Sequence[Group], overrides: Overrides) -> None:
    named = {"ignore": overrides.ignore, "round_to": [pattern for pattern, _ in overrides.round_to],
             "equal_count": [pattern for patterns in overrides.equal_count for pattern in patterns]}  # fmt: skip
    for what, patterns in named.items():
        for pattern in patterns:
            if not any(group.matches(pattern) for group in groups):
                raise UserError(f"{what}: {pattern!r} matches no group.{suggest(pattern, [group.name for group in groups])}")
    for pattern, multiple in overrides.round_to:
        if multiple < 1:
            raise UserError(f"round_to: a multiple must be 1 at least, got {multiple} for {pattern!r}")


def _ignored(group: Group, overrides: Overrides) -> Group:
    if group.frozen is None and any(group.matches(pattern) for pattern in overrides.ignore):
        return dataclasses.replace(group, frozen=IGNORED)
    return group
