"""The training of one sub-problem: two sets of parameters, between what comes before and what comes behind, both frozen."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.compress.cramnet.cutting import Cut, Line, Names
from flaxcomp.compress.cramnet.inputs import LIMIT, Inputs, collect, precision
from flaxcomp.compress.cramnet.loss import loss
from flaxcomp.compress.prune.follow import flat
from flaxcomp.models import layers
from flaxcomp.sweep.spec import Optimizer
from flaxcomp.train.optimizers import HYPER_PARAMETERS, make_optimizer

Tree = Any  # a pytree of arrays
State = dict[str, Tree]  # trained: parameters by name; rest: batch statistics and the like; opt; loss_sum

DISPATCH_SECONDS = 0.7
_GROWTH = 16  # a dispatch has at most so many times the steps of the one before it


@dataclass(frozen=True)
class Lessons:
    """What all sub-problems learn from.

    Attributes:
        images: uint8 [N, h, w, c].
        index: of the images to train on, int32 [n]; their place in it is what everything else is indexed by.
        labels: int32 [n].
        logits: of the original network, float32 [n, classes].
        normalise: images as the networks see them.
    """

    images: jax.Array
    index: jax.Array
    labels: jax.Array
    logits: jax.Array
    normalise: Callable[[jax.Array], jax.Array]


class Training:
    """The training of one sub-problem. No dropout acts in it; batch norms of the layers that train see their batch.

    Args:
        network: with the layer as it is to be, shapes alone; its modes are changed.
        around: the layers that train.
        lessons: what it learns from.
        batch_size: images a step.
        optimizer: RMSProp and its numbers (3.2.1).
        limit: bytes that the inputs may take, see `flaxcomp.compress.cramnet.inputs`.
    """

    def __init__(
        self, network: nnx.Module, around: set[str], lessons: Lessons, batch_size: int, optimizer: Optimizer, limit: int = LIMIT
    ) -> None:
        self.lessons, self.batch_size = lessons, batch_size
        self.steps_per_epoch = len(lessons.index) // batch_size
        self._optimizer, self._steps_a_dispatch = optimizer, 1
        _set_modes(network, around)
        graph, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
        self._params, self._rest = params, rest
        self._names = [name for name, _ in flat(params)]
        self.trained: Names = frozenset(name for name in self._names if name.rpartition("/")[0] in around)
        images = jax.ShapeDtypeStruct((batch_size, *lessons.images.shape[1:]), jnp.float32)
        seen = jax.eval_shape(lessons.normalise, images)

        def forward(params: Tree, rest: Tree, x: jax.Array) -> Any:
            merged: Any = nnx.merge(graph, params, rest)
            logits = merged(x)
            return logits, nnx.to_pure_dict(nnx.split(merged, nnx.Param, ...)[2])  # type: ignore[misc]

        with layers.fast_forms():
            program = jax.make_jaxpr(forward)(params, rest, seen)
        line = Line.of(program, self._names + [name for name, _ in flat(rest)])
        self.cut, self._dtype = _fitting(line.cuts(self.trained), len(lessons.index), limit)
        self._early, self._late = self.cut.early(), self.cut.late()
        self._train: Any = jax.jit(self._steps, donate_argnums=0)

    def inputs(self, params: Tree, rest: Tree) -> Inputs:
        """Compute what the steps begin with, once, where that is worth its bytes."""
        if self.cut.is_trivial:
            return Inputs(None, "uint8", 0)
        arrays = [*jax.tree.leaves(params), *jax.tree.leaves(rest)]

        def early(places: jax.Array) -> Sequence[jax.Array]:
            return self._early(*arrays, self._seen(places))

        kept = collect(early, self.cut.passing, len(self.lessons.index), self._dtype)
        if kept is None:
            return Inputs(None, "computed anew", 0)
        return Inputs(kept, jnp.dtype(self._dtype).name, sum(array.nbytes for array in kept))

    def begin(self, params: Tree, rest: Tree) -> State:
        """The state before the first step."""
        trained = {name: leaf for name, leaf in flat(params) if name in self.trained}
        opt = make_optimizer(self._optimizer, self._hyper()).init(trained)
        own = jax.tree.map(jnp.copy, {"trained": trained, "rest": rest})  # `run` uses its state up
        return {**own, "opt": opt, "loss_sum": jnp.zeros((), jnp.float32)}

    def result(self, state: State, params: Tree) -> tuple[Tree, Tree]:
        """All parameters with those that were trained in their places, and the batch statistics."""
        leaves = [state["trained"].get(name, leaf) for name, leaf in flat(params)]
        return jax.tree.unflatten(jax.tree.structure(params), leaves), state["rest"]

    def order(self, key: jax.Array) -> jax.Array:
        """The places of an epoch's images, int32 [steps * batch]."""
        return jax.random.permutation(key, len(self.lessons.index))[: self.steps_per_epoch * self.batch_size]

    def run(
        self, state: State, params: Tree, inputs: Inputs, order: jax.Array, last: int, should_stop: Callable[[], bool]
    ) -> State | None:
        """Train the steps [0, last) of an epoch; None when stopped between dispatches. The state given is used up."""
        fixed = {name: leaf for name, leaf in flat(params) if name not in self.trained}
        step = 0
        while step < last:
            if should_stop():
                return None
            until, compiled, began = min(step + self._steps_a_dispatch, last), self._train._cache_size(), time.perf_counter()
            lessons = (self.lessons.images, self.lessons.index, self.lessons.labels, self.lessons.logits)
            state = self._train(state, fixed, order, step, until, inputs.kept, lessons)
            jax.block_until_ready(state["loss_sum"])
            seconds, steps, step = time.perf_counter() - began, until - step, until
            if self._train._cache_size() == compiled:  # else the time is that of compiling
                fitting = int(DISPATCH_SECONDS * steps / max(seconds, 1e-6))
                self._steps_a_dispatch = max(1, min(fitting, _GROWTH * self._steps_a_dispatch))
        return state

    def _steps(
        self, state: State, fixed: dict[str, jax.Array], order: jax.Array, first: jax.Array, last: jax.Array,
        kept: tuple[jax.Array, ...] | None, lessons: tuple[jax.Array, ...],
    ) -> State:  # fmt: skip
        images, index, labels, logits = lessons
        optimizer = make_optimizer(self._optimizer, self._hyper())

        def step(i: jax.Array, state: State) -> State:
            places = jax.lax.dynamic_slice(order, (i * self.batch_size,), (self.batch_size,))

            def objective(trained: dict[str, jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
                leaves = [trained[name] if name in trained else fixed[name] for name in self._names]
                arrays = [*leaves, *jax.tree.leaves(state["rest"])]
                passing = self._passing(arrays, places, kept, images[index[places]])
                out, *rest = self._late(*arrays, *passing)
                return loss(logits[places], out, labels[places]).mean(), rest

            (value, rest), gradient = jax.value_and_grad(objective, has_aux=True)(state["trained"])
            update, opt = optimizer.update(gradient, state["opt"], state["trained"])
            rate = self._optimizer.learning_rate
            trained = jax.tree.map(lambda p, u: p - rate * u, state["trained"], update)
            whole = jax.tree.unflatten(jax.tree.structure(state["rest"]), rest)
            return {"trained": trained, "rest": whole, "opt": opt, "loss_sum": state["loss_sum"] + value}

        after: State = jax.lax.fori_loop(first, last, step, state)
        return after

    def _passing(
        self, arrays: Sequence[jax.Array], places: jax.Array, kept: tuple[jax.Array, ...] | None, images: jax.Array
    ) -> Sequence[jax.Array]:
        if kept is None:
            return self._early(*arrays, self.lessons.normalise(images))
        return [whole[places].astype(shape.dtype) for whole, shape in zip(kept, self.cut.passing, strict=True)]

    def _seen(self, places: jax.Array) -> jax.Array:
        return self.lessons.normalise(self.lessons.images[self.lessons.index[places]])

    def _hyper(self) -> dict[str, jax.Array]:
        return {name: jnp.float32(getattr(self._optimizer, name)) for name in HYPER_PARAMETERS}


def _fitting(cuts: Sequence[Cut], images: int, limit: int) -> tuple[Cut, Any]:
    """The last cut whose values fit into `limit` bytes, and the type that they fit as; or the first, which is the images."""
    for cut in cuts[:-1]:
        dtype = precision(cut.passing, images, limit)
        if dtype is not None:
            return cut, dtype
    return cuts[-1], None


def _set_modes(network: nnx.Module, around: set[str]) -> None:
    network.eval()
    for path, module in nnx.iter_modules(network):
        if isinstance(module, nnx.BatchNorm) and "/".join(map(str, path)) in around:
            module.use_running_average = False
