"""The weights with which a sub-problem begins."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from flaxcomp.compress.cramnet.problems import SubProblem
from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.prune.follow import flat, leaves_of
from flaxcomp.compress.prune.groups import Group
from flaxcomp.compress.prune.surgery import plan, sliced
from flaxcomp.errors import UserError
from flaxcomp.models import registry

Shape = tuple[int, int, int]


def starting(
    network: nnx.Module, before: dict[str, Any], problem: SubProblem, shape: Shape, classes: int, key: jax.Array, largest: bool
) -> nnx.Module:
    """The network with the sub-problem's layer as it is to be, in eval mode.

    Arrays that keep their shape keep their values; what is new begins at random, as in any training. With `largest` a layer
    that is re-sized begins with those of its channels that have the largest L1 norm, and the next layer with their inputs.

    Args:
        network: as it is so far, of the model `before`.
        key: of the random weights.
    """
    after = problem.solved(before)
    known = leaves_of(_narrowed(network, before, problem, shape, classes) if largest else network)
    fresh = registry.build(after, shape, classes, nnx.Rngs(params=key))
    graph, state = nnx.split(fresh)
    pure = nnx.to_pure_dict(state)
    leaves = [known[name] if name in known and known[name].shape == leaf.shape else leaf for name, leaf in flat(pure)]
    started: nnx.Module = nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(pure), leaves))
    started.eval()
    return started


def _narrowed(network: nnx.Module, model: dict[str, Any], problem: SubProblem, shape: Shape, classes: int) -> nnx.Module:
    """The network with the largest channels of the layer alone; what replaces it is not there yet."""
    coupling = couple(model, shape, classes)
    groups = [group for group in coupling.groups if problem.entry in group.widths]
    scores = {group.name: _norms(group, network) for group in groups}
    keep = {name: np.argsort(-norms, kind="stable")[: round(norms.size * problem.target / problem.width)]
            for name, norms in scores.items()}  # fmt: skip
    cut = plan(coupling, keep, scores)
    wanted = list(registry.default_widths(model) or ())
    wanted[problem.entry] = problem.target
    if list(registry.default_widths(cut.model) or ()) != wanted:
        raise UserError(f"cramnet.initialisation must be random: the {problem.width} channels of layer {problem.layer} cannot "
                        f"be narrowed to {problem.target} by leaving some out")  # fmt: skip
    return sliced(network, cut)


def _norms(group: Group, network: nnx.Module) -> Any:
    """The sum of absolute weights that make each channel."""
    leaves = leaves_of(network)
    total = np.zeros(group.size)
    for axis, positions in group.members.items():
        if axis.role == "out":
            others = tuple(i for i in range(leaves[axis.leaf].ndim) if i != axis.axis)
            norms = np.abs(np.asarray(leaves[axis.leaf], np.float64)).sum(others)
            total += norms[positions].sum(1)
    return total
