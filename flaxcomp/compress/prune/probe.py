"""Gates on the channels of any network, and what channels carry: found by running its traced program.

A gate multiplies one channel wherever a convolution or dense layer reads it; it is 1 in the network as it is. At 0 the channel
is gone from the whole network, exactly as pruning removes it. Whatever stands between (batch norm, activation, pooling,
depthwise convolution, Squeeze-and-Excitation, the sums of skip connections) needs no rule of its own: only reading is changed.
The derivative of an image's loss by a gate is, for a channel that one layer reads, sum_ij a_ij dL/da_ij over the positions of
the activation that this layer sees: the signal of Theis et al. 2018 and, but for the number of positions, of Molchanov et
al. 2017. Where several layers read a channel, such as all blocks of a stage tied by skip connections, one gate stands before
all of them and the derivative is the sum over them, before any square or absolute value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.extend.core import Literal, jaxprs_in_params

from flaxcomp.compress.prune.follow import flat
from flaxcomp.compress.prune.groups import Grouping
from flaxcomp.compress.prune.labels import Ids
from flaxcomp.errors import UserError
from flaxcomp.models import layers
from flaxcomp.models.counting import same_weight

Tree = Any  # a pytree of arrays
Tap = Callable[[str, jax.Array], jax.Array]  # a kernel's path and what it is about to multiply -> what it multiplies

_PRODUCTS = {"conv_general_dilated", "dot_general"}


@dataclass(frozen=True, eq=False)
class Reads:
    """Where the groups' channels are read.

    Attributes:
        names: of the groups. first: the number of each one's first channel among all, and the number of all at the end.
        channels: by the path of a kernel, the number of the channel at each input, -1 where none may go: int32 [inputs].
    """

    names: tuple[str, ...]
    first: tuple[int, ...]
    channels: dict[str, Ids]

    def split(self, values: Any) -> dict[str, Any]:
        """Arrays whose last axis is all channels, by group."""
        pairs = zip(self.names, self.first, self.first[1:], strict=False)
        return {name: values[..., begin:end] for name, begin, end in pairs}


def reads(grouping: Grouping) -> Reads:
    """Find the inputs of convolutions and dense layers on which the channels of the free groups lie."""
    sizes = [group.size for group in grouping.free]
    first = [0, *np.cumsum(sizes).tolist()]
    channels: dict[str, Ids] = {}
    for group, begin in zip(grouping.free, first, strict=False):
        for axis, positions in group.members.items():
            if axis.role != "in":
                continue
            shape, groups = grouping.shapes[axis.leaf], grouping.grouped.get((axis.leaf, axis.axis), 1)
            part = shape[axis.axis]
            at = channels.setdefault(axis.leaf, np.full(part * groups, -1, np.int32))
            blocks = range(groups) if axis.block is None else [axis.block]  # tied over the groups, or one's own
            for block in blocks:
                at[positions + block * part] = begin + np.arange(group.size, dtype=np.int32)[:, None]
    return Reads(tuple(group.name for group in grouping.free), tuple(first), channels)


class Probe:
    """A network whose channels can be gated and looked at.

    Args:
        network: in eval mode, with arrays or with their shapes alone.
        where: its channels, see `reads`.
    """

    def __init__(self, network: nnx.Module, where: Reads) -> None:
        graph, params, _ = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        self._graph: Any = graph
        self._paths = [path for path, _ in flat(nnx.to_pure_dict(params))]
        self.where = where

    def logits(self, params: Tree, stats: Tree, x: jax.Array, gates: jax.Array) -> jax.Array:
        """Forward with gates.

        Args:
            params, stats: of the network, nested mappings.
            x: normalised images float32 [n, h, w, c].
            gates: of each image, for each channel: float32 [n, channels].

        Returns:
            float32 [n, classes].
        """

        def gate(kernel: str, read: jax.Array) -> jax.Array:
            at = self.where.channels[kernel]
            open_ = jnp.concatenate([gates, jnp.ones((len(gates), 1))], 1)[:, at]  # -1: the last column
            gated: jax.Array = read * open_.reshape(len(gates), *[1] * (read.ndim - 2), -1)
            return gated

        return self._run(params, stats, x, gate)

    def gradients(self, params: Tree, stats: Tree, x: jax.Array, labels: jax.Array) -> jax.Array:
        """The derivative of each image's cross-entropy by each channel's gate, float32 [n, channels]."""

        def loss(gates: jax.Array) -> jax.Array:
            logits = self.logits(params, stats, x, gates)
            each: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return each.sum()  # images do not mix in eval mode

        gradient: jax.Array = jax.grad(loss)(jnp.ones((len(x), self.where.first[-1])))
        return gradient

    def norms(self, params: Tree, stats: Tree, x: jax.Array) -> jax.Array:
        """Of each image the L2 norm of each channel's activations, over positions and all that read it: [n, channels]."""
        total = jnp.zeros((len(x), self.where.first[-1] + 1))

        def look(kernel: str, read: jax.Array) -> jax.Array:
            nonlocal total
            squares = jnp.square(read).sum(tuple(range(1, read.ndim - 1)))  # [n, inputs]
            total = total.at[:, self.where.channels[kernel]].add(squares)
            return read

        self._run(params, stats, x, look)
        return jnp.sqrt(total[:, :-1])

    def _run(self, params: Tree, stats: Tree, x: jax.Array, tap: Tap) -> jax.Array:
        def forward(params: Tree, stats: Tree, x: jax.Array) -> jax.Array:
            logits: jax.Array = nnx.merge(self._graph, params, stats)(x)
            return logits

        with layers.plain_forms():
            program = jax.make_jaxpr(forward)(params, stats, x)
        names = dict(zip(program.jaxpr.invars, self._paths, strict=False))
        met: set[str] = set()

        def tapped(kernel: str, read: jax.Array) -> jax.Array:
            met.add(kernel)
            return tap(kernel, read)

        channels = self.where.channels
        kernels = {path: (leaf.shape, channels[path].size) for path, leaf in flat(params) if path in channels}
        leaves = jax.tree.leaves((params, stats, x))
        (logits,) = _evaluate(program.jaxpr, program.consts, leaves, names, _Taps(tapped, kernels))
        used = {
            variable for equation in program.jaxpr.eqns for variable in equation.invars if not isinstance(variable, Literal)
        }
        idle = {path for variable, path in zip(program.jaxpr.invars, self._paths, strict=False) if variable not in used}
        if lacking := kernels.keys() - met - idle:  # auxiliary heads are idle in eval mode
            raise UserError(f"{min(lacking)}: what it reads could not be followed for activations and gradients; choose a "
                            "criterion of weights, or ignore its channels")  # fmt: skip
        result: jax.Array = logits.astype(jnp.float32)
        return result


@dataclass(frozen=True)
class _Taps:
    """What to call where a kernel of this shape is multiplied by so many inputs."""

    tap: Tap
    kernels: Mapping[str, tuple[tuple[int, ...], int]]

    def at(self, equation: Any, kernel: str | None) -> bool:
        if equation.primitive.name not in _PRODUCTS or kernel is None or kernel not in self.kernels:
            return False
        left, right = (variable.aval.shape for variable in equation.invars)
        return bool((right, left[-1]) == self.kernels[kernel])


def _evaluate(jaxpr: Any, consts: Sequence[Any], given: Sequence[Any], names: dict[Any, str], taps: _Taps) -> list[Any]:
    """Evaluate a program; inner ones that hold products are evaluated in its place."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, given, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        known = [None if isinstance(v, Literal) else names.get(v) for v in equation.invars]
        if taps.at(equation, known[1] if len(known) > 1 else None):
            inputs[0] = taps.tap(str(known[1]), inputs[0])
        elif (weight := same_weight(equation, known)) is not None:
            names[equation.outvars[0]] = weight
        inner = _inner(equation)
        if inner is not None:
            body, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            names.update({v: name for v, name in zip(body.invars, known, strict=True) if name})
            outputs = _evaluate(body, constants, inputs, names, taps)
        else:
            found = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
            outputs = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _inner(equation: Any) -> Any:
    """The program of a call that holds a product and takes just the equation's inputs; loops are left alone."""
    if equation.primitive.name in ("scan", "while", "cond"):
        return None
    inner = [equation.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in equation.params]
    if not inner or not _has_products(getattr(inner[0], "jaxpr", inner[0])):
        return None
    return inner[0]


def _has_products(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name in _PRODUCTS or any(map(_has_products, jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )
