"""Hints: a layer of the student learns to foretell a layer of its teacher (FitNets, Romero et al. 2015).

Layers bear the names that `flaxcomp.train.names` gives to parameters: `stem`, `blocks.3`, `blocks.3.pointwise.conv`.
The outputs of any module of any network can be recorded; nothing needs to be declared in a network.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Literal

from flaxcomp.errors import UserError, suggest
from flaxcomp.models.abstract import abstract
from flaxcomp.sweep.spec import Hint
from flaxcomp.train.names import by_name, few

Tree = Any  # a pytree of arrays
Shape = tuple[int, ...]

MIDDLE = "middle"
_MAP = 3  # axes of one image's feature map


@dataclass
class Recording:
    """What modules put out while a network was called.

    Attributes:
        outputs: in the order in which the modules ended, by name; a module that is called twice has two.
        outermost: names of the modules that no other module, but the network itself, has called.
    """

    names: dict[int, str]
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    outermost: list[str] = field(default_factory=list)
    _depth: int = 0

    def call(self, module: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._depth += 1
        try:
            output = function(module, *args, **kwargs)
        finally:
            self._depth -= 1
        name = self.names[id(module)]
        self.outputs.setdefault(name, []).append(output)
        if not self._depth and name not in self.outermost:
            self.outermost.append(name)
        return output


_recording: ContextVar[Recording] = ContextVar("recording")


@contextlib.contextmanager
def recording(network: nnx.Module, layer: str | None = None) -> Iterator[Recording]:
    """Within this context, calls of a network's modules are recorded: of all, or of one layer.

    Args:
        network: one that nobody else calls meanwhile, as `nnx.merge` makes in a trace. Its modules are made instances of
            subclasses for the time being.
        layer: its name; one that is not there is not recorded.
    """
    found = {".".join(map(str, path)): module for path, module in nnx.iter_modules(network) if path and callable(module)}
    wanted = {name: module for name, module in found.items() if layer in (None, name)}
    record = Recording({id(module): name for name, module in wanted.items()})
    token = _recording.set(record)
    try:
        for module in wanted.values():
            object.__setattr__(module, "__class__", _recorded_kind(type(module)))
        yield record
    finally:
        _recording.reset(token)
        for module in wanted.values():
            object.__setattr__(module, "__class__", type(module).__mro__[1])


@functools.cache
def _recorded_kind(kind: type[nnx.Module]) -> type[nnx.Module]:
    plain_call: Callable[..., Any] = kind.__call__  # callable, or it would not be asked for

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _recording.get().call(self, plain_call, args, kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def output_of(record: Recording, layer: str) -> jax.Array:
    """The one output of a layer, float32 [n, ...].

    Raises:
        UserError: it was not called, or more than once, or its output is no array.
    """
    outputs = record.outputs.get(layer, [])
    if len(outputs) != 1 or not isinstance(outputs[0], jax.Array):
        what = "is not called" if not outputs else "puts out more than one array"
        raise UserError(f"distill.hint: the layer {layer} cannot be a hint: it {what} when the network is")
    array: jax.Array = outputs[0].astype(jnp.float32)
    return array


def layers(model: dict[str, Any], shape: Shape, classes: int) -> tuple[dict[str, Shape], list[str]]:
    """The layers that may be hints, and among them the blocks that follow one another.

    Args:
        model: name and options. shape: of one image. classes: of the data set.

    Returns:
        {name: shape of its output for one image}, and the names of those feature maps whose modules the network itself calls.
    """
    network = abstract(model, shape, classes)  # type: ignore[arg-type]
    network.eval()
    graph, state = nnx.split(network)
    order: list[str] = []

    def outputs(state: Tree, image: jax.Array) -> dict[str, jax.Array]:
        network: Any = nnx.merge(graph, state)
        with recording(network) as record:
            network(image)
        order.extend(record.outermost)
        return {name: out[0] for name, out in record.outputs.items() if len(out) == 1 and isinstance(out[0], jax.Array)}

    image = jax.ShapeDtypeStruct((1, *model.get("input_shape", shape)), jnp.float32)
    shapes = {name: tuple(out.shape[1:]) for name, out in jax.eval_shape(outputs, state, image).items()}
    return shapes, [name for name in order if len(shapes.get(name, ())) == _MAP]


def upstream(model: dict[str, Any], shape: Shape, classes: int, layer: str) -> frozenset[str]:
    """Names of the parameters that a layer's output depends on: its own, and those of what comes before it."""
    network = abstract(model, shape, classes)  # type: ignore[arg-type]
    network.eval()
    graph, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]

    def output(params: Tree, rest: Tree, image: jax.Array) -> jax.Array:
        network: Any = nnx.merge(graph, params, rest)
        with recording(network, layer) as record:
            network(image)
        return output_of(record, layer)

    pure = nnx.to_pure_dict(params)
    image = jax.ShapeDtypeStruct((1, *model.get("input_shape", shape)), jnp.float32)
    program = jax.make_jaxpr(output)(pure, nnx.to_pure_dict(rest), image).jaxpr
    needed = {variable for variable in program.outvars if not isinstance(variable, Literal)}
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(variable for variable in equation.invars if not isinstance(variable, Literal))
    return frozenset(name for name, variable in zip(by_name(pure), program.invars, strict=False) if variable in needed)


class Bridge:
    """From a layer of a student to one of its teacher.

    The larger feature map is averaged over windows where it is a whole number of times the smaller one's size. Where
    channels differ, a regressor of 1x1 convolution with bias makes the student's as many as the teacher's.

    Args:
        hint: as the sweep file has it.
        student, teacher: what `layers` returns of them.

    Raises:
        UserError: there is no such layer, or the two do not fit: both shapes.
    """

    def __init__(
        self, hint: Hint, student: tuple[dict[str, Shape], list[str]], teacher: tuple[dict[str, Shape], list[str]]
    ) -> None:
        self.student_layer = _chosen(hint.student_layer, *student, "distill.hint.student_layer")
        self.teacher_layer = _chosen(hint.teacher_layer, *teacher, "distill.hint.teacher_layer")
        (*here, self._in), (*there, self._out) = student[0][self.student_layer], teacher[0][self.teacher_layer]
        if len(here) != len(there) or any(max(a, b) % min(a, b) for a, b in zip(here, there, strict=True)):
            raise UserError(
                f"distill.hint: a whole number of times the size of one layer's output must be the other's, but the student's "
                f"{self.student_layer} has {[*here, self._in]} and the teacher's {self.teacher_layer} {[*there, self._out]} "
                f"(height, width, channels); name other layers"
            )
        self._size = tuple(min(a, b) for a, b in zip(here, there, strict=True))

    def regressor(self, key: jax.Array) -> dict[str, jax.Array]:
        """Initial parameters, {} where channels agree."""
        if self._in == self._out:
            return {}
        kernel = jax.random.normal(key, (self._in, self._out)) / math.sqrt(self._in)
        return {"kernel": kernel, "bias": jnp.zeros(self._out)}

    def error(self, regressor: dict[str, jax.Array], student: jax.Array, teacher: jax.Array) -> jax.Array:
        """Half the squared error, 1/2 ||t - r(s)||^2 (equation 3), as a mean over positions and channels instead of a sum.

        So `distill.hint.weight` means the same for small layers and large ones.

        Args:
            regressor: as `regressor` made it.
            student, teacher: outputs of the layers, [n, ...].

        Returns:
            [n].
        """
        guessed, wanted = self._pooled(student), self._pooled(teacher)
        if regressor:
            guessed = guessed @ regressor["kernel"] + regressor["bias"]
        error: jax.Array = 0.5 * ((wanted - guessed) ** 2).reshape(len(wanted), -1).mean(-1)
        return error

    def _pooled(self, x: jax.Array) -> jax.Array:
        if x.shape[1:-1] == self._size:
            return x
        n, height, width, channels = x.shape
        h, w = self._size
        return x.reshape(n, h, height // h, w, width // w, channels).mean((2, 4))


def _chosen(name: str, shapes: dict[str, Shape], blocks: list[str], key: str) -> str:
    if name == MIDDLE:
        if not blocks:
            raise UserError(f"{key} must be a name: the network has no blocks in whose middle it could be. "
                            f"There are {few(shapes)}.")  # fmt: skip
        return blocks[len(blocks) // 2]
    if name not in shapes:
        raise UserError(f"{key}: no layer is called {name!r}.{suggest(name[:80], shapes, f'There are {few(shapes)}.')}")
    return name
