"""The output feature maps of a network's layers, found in its traced program: no architecture declares them.

A layer's output is what its convolution or matrix product has become once biases, batch norm and activation have been applied:
the chain of element-wise operations that see nothing of the image but this product. It ends where pooling, another layer, a
sum with another layer's output or a concatenation begins.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.extend.core import Literal

from flaxcomp.models import layers

Tree = Any

# Primitives that run a program of their own, which may be written out in their place.
CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat",
         "remat2", "checkpoint"}  # fmt: skip
_PRODUCTS = {"conv_general_dilated", "dot_general"}
_ELEMENTWISE = {
    "add", "sub", "mul", "div", "max", "min", "exp", "exp2", "logistic", "tanh", "neg", "sign", "sqrt", "rsqrt", "cbrt",
    "integer_pow", "pow", "select_n", "convert_element_type", "stop_gradient", "erf", "log", "log1p", "expm1", "square", "abs",
    "gt", "lt", "ge", "le", "eq", "ne", "and", "or", "not", "clamp", "round", "floor", "ceil", "copy", "optimization_barrier",
    "reduce_precision", "name",
}  # fmt: skip


@dataclass(frozen=True)
class Output:
    """Where a layer's output feature maps are.

    Attributes:
        layer: its path in the network, as `blocks/0/conv`; a layer that runs several times has `#2` and so on behind it.
        kernel: the path of its kernel. shape: of one image, [h, w, c] or [features].
        place: which of the program's values it is.
    """

    layer: str
    kernel: str
    shape: tuple[int, ...]
    place: int


class _Step(NamedTuple):
    """An equation whose inputs are numbered values, or constants."""

    equation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


class _Constant(NamedTuple):
    value: Any


@dataclass
class _Chain:
    """The values that a layer's product becomes by itself, in the program's order."""

    kernel: str
    values: list[int]
    last_use: dict[int, int] = field(default_factory=dict)  # of a value: the last of the chain that is made of it


class Traced:
    """A network's program for a batch of images, with the places of its layers' outputs.

    Args:
        network: with arrays or with their shapes alone, in the mode in which it is to run.
        images: their shape, [n, h, w, c], and type.
        random: whether the network is given random numbers for dropout, as in training mode.

    Attributes:
        outputs: of all layers whose output is not the network's own, in the program's order.
        last: the kernels of the layers whose output is the network's own.
    """

    def __init__(self, network: nnx.Module, images: jax.ShapeDtypeStruct, *, random: bool = False) -> None:
        graph, state = nnx.split(network)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state))
        key = [jax.eval_shape(lambda: jax.random.key(0))] if random else []

        def forward(state: Tree, x: jax.Array, *key: jax.Array) -> Tree:
            merged: Any = nnx.merge(graph, state)
            result = merged(x, rngs=nnx.Rngs(dropout=key[0])) if key else merged(x)
            return result, nnx.to_pure_dict(nnx.state(merged))

        with layers.plain_forms():
            closed, shape = jax.make_jaxpr(forward, return_shape=True)(shapes, images, *key)
        self._tree = jax.tree.structure(shape)
        self._steps: list[_Step] = []
        self._numbers = itertools.count()
        self._inputs = [next(self._numbers) for _ in closed.jaxpr.invars]
        self._shapes = dict(zip(self._inputs, (v.aval.shape for v in closed.jaxpr.invars), strict=True))
        self._results = self._flatten(closed.jaxpr, closed.consts, self._inputs)
        paths = [
            "/".join(str(getattr(k, "key", k)) for k in path) for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]
        ]
        own = len(jax.tree.leaves(shape[0]))  # of the results; the others are the network's state
        found = _Finder(self._steps, self._shapes, dict(zip(self._inputs, paths, strict=False)), self._inputs[len(paths)])
        chains = found.chains(self._results[:own])
        self.last = tuple(chain.kernel for chain in chains if set(chain.values) & set(self._results[:own]))
        self.outputs = tuple(self._named(chains, images.shape[0]))

    def __call__(
        self, state: Tree, images: jax.Array, masks: Mapping[str, jax.Array], *key: jax.Array
    ) -> tuple[Tree, Tree, dict[str, jax.Array]]:
        """Run the program.

        Args:
            state: the network's, as nested dicts. images: of the shape that was traced. key: for dropout.
            masks: by layer, what its output is multiplied by, of one image's shape or [c].

        Returns:
            What the network returns; its new state; the outputs of all layers, masked, [n, h, w, c] or [n, features].
        """
        layer_at = {output.place: output.layer for output in self.outputs}
        values = dict(zip(self._inputs, [*jax.tree.leaves(state), images, *key], strict=True))
        seen = {}
        for equation, inputs, numbers in self._steps:
            given = [i.value if isinstance(i, _Constant) else values[i] for i in inputs]
            with equation.ctx.manager:
                made = equation.primitive.bind(*given, **equation.primitive.get_bind_params(equation.params))
            values.update(zip(numbers, made if equation.primitive.multiple_results else [made], strict=True))
            if (layer := layer_at.get(numbers[0] if numbers else -1)) is not None:
                if layer in masks:
                    values[numbers[0]] = values[numbers[0]] * masks[layer].astype(values[numbers[0]].dtype)
                seen[layer] = values[numbers[0]]
        results = [r.value if isinstance(r, _Constant) else values[r] for r in self._results]
        result, new = jax.tree.unflatten(self._tree, results)
        return result, new, seen

    def _flatten(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """Number the values of a program and of those that it calls."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(_Constant, consts), strict=True))
        values.update(zip(jaxpr.invars, given, strict=True))

        def read(variable: Any) -> Any:
            return _Constant(variable.val) if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            inputs = tuple(read(variable) for variable in equation.invars)
            params = equation.params
            inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
            if equation.primitive.name in CALLS and inner is not None:
                made = self._flatten(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
            else:
                made = [next(self._numbers) for _ in equation.outvars]
                self._shapes.update(zip(made, (v.aval.shape for v in equation.outvars), strict=True))
                self._steps.append(_Step(equation, inputs, tuple(made)))
            values.update(zip(equation.outvars, made, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _named(self, chains: Sequence[_Chain], batch: int) -> Iterator[Output]:
        runs: dict[str, int] = {}
        for chain in chains:
            shape = self._shapes[chain.values[-1]]
            if chain.kernel in self.last or len(shape) < 2 or shape[0] != batch:
                continue
            layer = chain.kernel.rpartition("/")[0]
            runs[layer] = runs.get(layer, 0) + 1
            name = layer if runs[layer] == 1 else f"{layer}#{runs[layer]}"
            yield Output(name, chain.kernel, tuple(shape[1:]), chain.values[-1])


class _Finder:
    """Follows each layer's product through the program.

    Args:
        shapes: of all values. leaves: which values are the network's own, with their paths. image: which value is the images.
    """

    def __init__(self, steps: Sequence[_Step], shapes: dict[int, Any], leaves: dict[int, str], image: int) -> None:
        self._steps, self._shapes = steps, shapes
        self._kernels: dict[int, tuple[str, ...]] = {v: (path,) if len(shapes[v]) > 1 else () for v, path in leaves.items()}
        self._seen = {image}  # values that depend on the images
        self._chains: list[_Chain] = []
        self._chain_of: dict[int, _Chain] = {}
        self._statistics: dict[int, _Chain] = {}  # means over a batch of what one layer made: batch norm in training mode
        self._escaped: set[int] = set()

    def chains(self, results: Sequence[Any]) -> list[_Chain]:
        """A chain for each layer, cut where its output is: the last value is that."""
        for step in self._steps:
            self._follow(step)
        self._escaped.update(r for r in results if not isinstance(r, _Constant))
        for chain in self._chains:
            chain.values = chain.values[: self._output(chain) + 1]
        return self._chains

    def _follow(self, step: _Step) -> None:
        given = [i for i in step.inputs if not isinstance(i, _Constant)]
        seen = [i for i in given if i in self._seen]
        kernels = tuple(dict.fromkeys(k for i in given if i not in self._seen for k in self._kernels.get(i, ())))
        if not seen:
            self._kernels.update(dict.fromkeys(step.outputs, kernels))
            return
        self._seen.update(step.outputs)
        name = step.equation.primitive.name
        owners = {id(c): c for i in seen if (c := self._chain_of.get(i) or self._statistics.get(i)) is not None}
        whole = [i for i in seen if i in self._chain_of]
        alone = len(owners) == 1 and all(i in self._chain_of or i in self._statistics for i in seen)
        over_batch = name.startswith("reduce_") and 0 in step.equation.params.get("axes", ())
        if name in _PRODUCTS and len(seen) == 1 and kernels:
            self._escaped.update(seen)
            chain = _Chain(kernels[0], [step.outputs[0]])
            self._chains.append(chain)
            self._chain_of[step.outputs[0]] = chain
        elif alone and (over_batch or not whole):
            self._statistics.update(dict.fromkeys(step.outputs, next(iter(owners.values()))))
        elif alone and name in _ELEMENTWISE and all(self._shapes[i] == self._shapes[step.outputs[0]] for i in whole):
            chain = next(iter(owners.values()))
            chain.values.append(step.outputs[0])
            chain.last_use.update(dict.fromkeys(whole, len(chain.values) - 1))
            self._chain_of[step.outputs[0]] = chain
        else:
            self._escaped.update(seen)

    def _output(self, chain: _Chain) -> int:
        """The last value of the chain through which all passes that others see of it."""
        last = next((i for i, value in enumerate(chain.values) if value in self._escaped), len(chain.values) - 1)
        for end in range(last, 0, -1):
            if all(chain.last_use.get(value, 0) <= end for value in chain.values[:end]):
                return end
        return 0
