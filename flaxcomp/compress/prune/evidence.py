"""Gathers what a criterion needs to know of a network's channels."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcomp.compress.prune.criteria import Criterion, Evidence, Floats
from flaxcomp.compress.prune.follow import flat
from flaxcomp.compress.prune.groups import Group, Grouping
from flaxcomp.compress.prune.probe import Probe, reads
from flaxcomp.errors import UserError

Tree = Any  # a pytree of arrays
Scores = dict[str, Floats]

_BATCH = 100


class Scorer:
    """The scores of one network's channels by one criterion, compiled once and good for any weights.

    Args:
        criterion: from `flaxcomp.compress.prune.criteria`.
        grouping: of the network.
        network: in eval mode, with arrays or with their shapes alone.
        images, labels: what to score on, [n, h, w, c] and int [n]; of use to some criteria only.
        inputs: from such images to what the network sees, float32.
        seed: of criteria that draw numbers.
    """

    def __init__(
        self, criterion: Criterion, grouping: Grouping, network: nnx.Module, images: Any, labels: Any,
        *, inputs: Callable[[Any], jax.Array] = jnp.asarray, seed: int = 0,
    ) -> None:  # fmt: skip
        self.criterion, self.grouping, self.seed = criterion, grouping, seed
        self._images, self._labels = images, labels
        self._probe = probe = Probe(network, reads(grouping))
        self._norms = jax.jit(lambda params, stats, x: probe.norms(params, stats, inputs(x)))
        self._gradients = jax.jit(lambda params, stats, x, y: probe.gradients(params, stats, inputs(x), y))

    def scores(self, params: Tree, stats: Tree) -> Scores:
        """By free group, a number for each channel, larger for what matters more.

        Args:
            params, stats: of the network, nested mappings of arrays; channels that are gone may be zero.
        """
        found = self._of_images(params, stats)
        arrays = dict(flat(params))
        scores = {}
        for group in self.grouping.free:
            needs = self.criterion.NEEDS
            evidence = Evidence(
                size=group.size,
                random=np.random.default_rng([self.seed, zlib.crc32(group.name.encode())]),
                filters=filters(group, self.grouping, arrays) if needs == "filters" else (),
                scales=scales(group, self.grouping, arrays) if needs == "scales" else (),
                activations=found.get(group.name) if needs == "activations" else None,
                gradients=found.get(group.name) if needs == "gradients" else None,
            )
            scores[group.name] = np.asarray(self.criterion.score(evidence), np.float64)
            if np.isnan(scores[group.name]).any():
                raise UserError(f"the scores of group {group.name} are no numbers: the training of the network has diverged")
        return scores

    def _of_images(self, params: Tree, stats: Tree) -> Mapping[str, Floats]:
        """By group, what images say: [images, channels]."""
        if self.criterion.NEEDS not in ("activations", "gradients"):
            return {}
        parts = []
        for first in range(0, len(self._images), _BATCH):
            last = min(first + _BATCH, len(self._images))
            index = np.resize(np.arange(first, last), min(_BATCH, len(self._images)))  # the rest of the last batch repeats
            x = jnp.asarray(self._images[index])
            if self.criterion.NEEDS == "activations":
                values = self._norms(params, stats, x)
            else:
                values = self._gradients(params, stats, x, jnp.asarray(self._labels[index]))
            parts.append(np.asarray(values)[: last - first])
        return self._probe.where.split(np.concatenate(parts))


def filters(group: Group, grouping: Grouping, arrays: Mapping[str, Any]) -> tuple[Floats, ...]:
    """Of each layer that makes the channels its weights for each, [channels, weights]; `arrays` are the parameters by path."""
    found = []
    for axis, positions in group.members.items():
        if axis.role not in ("out", "depthwise") or axis.leaf not in arrays:
            continue
        array = np.moveaxis(np.asarray(arrays[axis.leaf]), axis.axis, 0)
        begin = 0 if axis.block is None else axis.block * (len(array) // grouping.grouped[axis.leaf, axis.axis])
        found.append(array[positions + begin].reshape(group.size, -1))
    return tuple(found)


def scales(group: Group, grouping: Grouping, arrays: Mapping[str, Any]) -> tuple[Floats, ...]:
    """The scales of the batch norms on the channels, each [channels]: the largest where a channel has several places."""
    found = []
    for axis, positions in group.members.items():
        if axis.leaf in arrays and is_scale(axis.leaf, grouping):
            found.append(np.abs(np.asarray(arrays[axis.leaf]))[positions].max(1))
    return tuple(found)


def is_scale(leaf: str, grouping: Grouping) -> bool:
    """Whether an array is the scale of a batch norm: one with a running variance beside it."""
    layer, _, name = leaf.rpartition("/")
    return name == "scale" and f"{layer}/var" in grouping.shapes
