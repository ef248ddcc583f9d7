r"""The resource-weighted penalty on batch norm's scales, for any network whose channels are coupled.

A layer with `I` of its input and `O` of its output channels alive costs `C I O`, C being what one pair of them costs. Its
penalty (Gordon et al. 2018) is linear in the scales of the channels that go in and come out,

    G = C (sum of |gamma| in) O + C I (sum of |gamma| out),

where the numbers of alive channels, those with |gamma| above a threshold, are taken anew in every step and have no gradient.
A depthwise layer costs `C O` and adds `C sum of |gamma|`. Channels tied by skips, or read through several batch norms, are
one: in place of |gamma| stands the largest of theirs, a group LASSO with the maximum norm. Channels that no
batch norm scales, and those that must stay, are always alive and not penalised.

The penalty of a network is the sum over its layers, divided here by the cost of all layers when everything is alive: so a
strength means the same for networks of different sizes and for multiply-adds as for parameters.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from flaxcomp.compress.prune.evidence import is_scale
from flaxcomp.compress.prune.follow import flat
from flaxcomp.compress.prune.groups import Grouping
from flaxcomp.compress.prune.labels import Ids

Scales = dict[str, dict[str, Ids]]
Vector = NDArray[np.float64]


def scales_of(grouping: Grouping) -> Scales:
    """Where the scales of channels that may go lie.

    Returns:
        {group: {path of a batch norm's scale: positions [channels, places]}}; groups without batch norm are left out.
    """
    found = {
        group.name: {axis.leaf: positions for axis, positions in group.members.items() if is_scale(axis.leaf, grouping)}
        for group in grouping.free
    }
    return {name: places for name, places in found.items() if places}


def magnitudes(scales: Scales, params: Any) -> dict[str, jax.Array]:
    """The largest |gamma| of each channel by group, [channels]; the maximum norm over what is tied. Its gradient at 0 is 0."""
    leaves = {path: leaf * jnp.sign(leaf) for path, leaf in flat(params) if leaf.ndim == 1}  # |x|, whose gradient at 0 is 1
    return {
        name: jnp.max(jnp.concatenate([leaves[leaf][ids] for leaf, ids in places.items()], axis=1), axis=1)
        for name, places in scales.items()
    }


@dataclass(frozen=True, eq=False)
class Resource:
    """What the layers of a network cost, as a function of how many channels of each group are alive.

    Layer t costs `cost[t] (inputs[t] . n + whole[t]) (outputs[t] . n)`, n being the numbers of alive channels by group.

    Attributes:
        groups: names, in the order of the arrays' last axis.
        sizes: channels of each group, [groups].
        cost: of each layer when all is alive, [layers]; of a grouped convolution with parts of its own, of each part.
        inputs, outputs: which share of a layer's inputs and outputs one channel of a group is, [layers, groups].
        whole: 1 for depthwise layers, whose inputs are their outputs and counted there; else 0, [layers].
    """

    groups: tuple[str, ...]
    sizes: Vector
    cost: Vector
    inputs: Vector
    outputs: Vector
    whole: Vector

    @classmethod
    def of(cls, grouping: Grouping, costs: Mapping[str, float]) -> "Resource":
        """For the layers whose kernels are named.

        Args:
            grouping: of the network's channels.
            costs: what each layer costs, by the path of its kernel.
        """
        rows = [row for kernel, cost in costs.items() for row in _rows(grouping, kernel, cost)]
        cost, inputs, outputs, whole = (np.array(column, float) for column in zip(*rows, strict=True))
        sizes = np.array([group.size for group in grouping.groups], float)
        return cls(tuple(group.name for group in grouping.groups), sizes, cost, inputs, outputs, whole)

    def total(self, alive: Mapping[str, float]) -> float:
        """The cost with so many channels of each group; groups not named have all."""
        n = np.array([alive.get(name, size) for name, size in zip(self.groups, self.sizes, strict=True)])
        return float((self.cost * (self.inputs @ n + self.whole) * (self.outputs @ n)).sum())

    def penalty(self, gammas: Mapping[str, jax.Array], threshold: float) -> jax.Array:
        """The penalty, a scalar; 2 for a network without depthwise layers, all of whose channels have |gamma| 1.

        Args:
            gammas: by group, as `magnitudes` gives them; groups not named are alive and add nothing.
            threshold: above which a channel is alive.
        """
        alive, sums = [], []
        for name, size in zip(self.groups, self.sizes, strict=True):
            gamma = gammas.get(name)
            alive.append(jnp.float32(size) if gamma is None else (gamma > threshold).sum().astype(jnp.float32))
            sums.append(jnp.float32(0) if gamma is None else gamma.sum())
        n, r = jax.lax.stop_gradient(jnp.stack(alive)), jnp.stack(sums)
        inputs, outputs = self.inputs.astype(np.float32), self.outputs.astype(np.float32)
        each = (inputs @ r) * (outputs @ n) + (inputs @ n + self.whole.astype(np.float32)) * (outputs @ r)
        share = (self.cost / self.cost.sum()).astype(np.float32)
        penalty: jax.Array = (share * each).sum()
        return penalty


_Row = tuple[float, Vector, Vector, float]


def _rows(grouping: Grouping, kernel: str, cost: float) -> list[_Row]:
    """A row for a layer, or for each part of a grouped convolution whose parts choose their channels for themselves."""
    sides: dict[tuple[str, int | None], Vector] = defaultdict(lambda: np.zeros(len(grouping.groups)))
    positions: Counter[tuple[str, int | None]] = Counter()
    for index, group in enumerate(grouping.groups):
        for axis, ids in group.members.items():
            if axis.leaf == kernel:
                sides[axis.role, axis.block][index] += ids.shape[1]
                positions[axis.role, axis.block] += ids.size
    shares = {side: places / positions[side] for side, places in sides.items()}
    if ("depthwise", None) in shares:
        return [(cost, np.zeros(len(grouping.groups)), shares["depthwise", None], 1.0)]
    if not shares:  # nothing was followed into it: its cost is the same whatever goes
        return []
    blocks: list[int | None] = [*sorted({block for _, block in shares if block is not None})] or [None]

    def share(role: str, block: int | None) -> Vector:
        return shares[role, block] if (role, block) in shares else shares[role, None]

    return [(cost / len(blocks), share("in", block), share("out", block), 0.0) for block in blocks]
