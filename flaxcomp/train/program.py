"""The compiled program of a pack: initialise, train some steps, evaluate, for several trials at once.

Everything that differs between the trials of a pack (seed, learning rate, temperature, ...) is an input; what decides the
program (architecture, batch size, loss, ...) is read from the first trial, whose signature the others share.
A trial's numbers depend on its own configuration alone: not on its pack, nor on how its steps are cut into dispatches.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from flaxcomp import distill
from flaxcomp.data.arrays import split_validation
from flaxcomp.data.augment import augment
from flaxcomp.errors import UserError
from flaxcomp.models import layers, registry
from flaxcomp.models.abstract import abstract
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.hooks import Hooks
from flaxcomp.train.inputs import input_shape, normalise
from flaxcomp.train.names import by_name, name_of
from flaxcomp.train.optimizers import make_optimizer
from flaxcomp.train.phases import Stage, stacked, stages
from flaxcomp.train.resident import Resident
from flaxcomp.train.variant import PLAIN, Variant

Tree = Any  # a pytree of arrays
State = dict[str, Tree]  # params, stats, opt, loss_sum; perhaps mask, what the parameters are multiplied by after each step
Model = dict[str, Tree]  # params, stats
Lessons = Any  # logits of the teachers float32 [teachers, training images, classes], the Model of the one teacher, or None

EVALUATION_BATCH = 500
_TOP = 5

# Streams of randomness of one trial; a name keeps its number for ever, or old trials could not be repeated.
_INITIAL, _ORDER, _STEP = 0, 1, 2


@dataclass(frozen=True)
class Split:
    """Indices into the training images: what is trained on and what is held out, int32 [n]."""

    train: jax.Array
    validation: jax.Array


class Program:
    """The functions of packs of one signature, compiled at their first call for so many trials.

    Args:
        config: any trial of them.
        data: the data set.
        teacher: the `network` of the teacher's own program, for students whose images change at random: `lessons` is its
            Model then, and else the teachers' logits of every training image.
        variant: what the training does besides.
        execution: `vmap` computes a step of all trials at once, `map` trains one trial after the other inside the
            program, whose small state then stays in the processor's cache.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: Resident,
        teacher: Callable[[Model, jax.Array], jax.Array] | None = None,
        variant: Variant = PLAIN,
        execution: Literal["vmap", "map"] | None = None,
    ) -> None:
        self.config, self.data, self.info = config, data, data.info
        self.teacher, self._variant = teacher, variant
        self.execution = execution or ("map" if jax.default_backend() == "cpu" else "vmap")
        spec = config.dataset
        usable = min(len(data.train_images), spec.train_limit or len(data.train_images))
        train, validation = split_validation(usable, spec.validation.fraction, spec.validation.seed)
        self.split = Split(jnp.asarray(train), jnp.asarray(validation))
        self.batch_size = config.train.batch_size
        if self.batch_size > len(train):
            raise UserError(f"train.batch_size must be at most {len(train)}, the images to train on, got {self.batch_size}")
        self.steps_per_epoch = len(train) // self.batch_size
        self.image_shape = input_shape(spec, self.info)
        self.stages = stages(config, self.image_shape, self.info.num_classes, self.steps_per_epoch)
        self.steps = self.stages[-1].last
        self._train_graph, self._still_graph, self._eval_graph, self._hooks, self._stats = self._graphs()
        self._loss = distill.load(config.distill.loss) if config.distill else None
        self._auxiliary_weight: float = getattr(registry.config_of(config.model), "auxiliary_weight", 0.0)

    # What a pack does, from outside; every first axis is the trial.

    def hyper(self, configs: Sequence[TrialConfig], teachers: Sequence[int], stage: int = 0) -> dict[str, jax.Array]:
        """Stack what differs between trials in a stage: {name: [members]}."""
        return stacked(configs, teachers, stage)

    @functools.cached_property
    def init(self) -> Callable[[dict[str, jax.Array]], State]:
        """hyper -> state of step 0."""
        return jax.jit(jax.vmap(self._init))

    def begin(self, state: State, hyper: dict[str, jax.Array], stage: int) -> State:
        """The state at the beginning of a stage: the optimizer starts anew."""
        begun: State = self._jitted_begin[stage](state, hyper)
        return begun

    @functools.cached_property
    def _jitted_begin(self) -> list[Any]:
        return [jax.jit(jax.vmap(functools.partial(self._begin, stage))) for stage in self.stages]

    @functools.cached_property
    def order(self) -> Callable[[dict[str, jax.Array], int], jax.Array]:
        """(hyper, epoch) -> image indices int32 [members, steps * batch]; depends on the seed and the epoch alone."""
        return jax.jit(self._each(self._order, 1))

    def train(
        self, state: State, hyper: dict[str, jax.Array], order: jax.Array, lessons: Lessons, epoch: int, first: int, last: int,
        stage: int = 0,
    ) -> State:  # fmt: skip
        """Return the state after the steps [first, last) of the epoch, all in one stage; the state given is used up.

        Args:
            hyper: of the stage.
            order: of the epoch, from `order`.
            lessons: what the students learn from besides the labels; see `teacher`.
        """
        images, labels = self.data.train_images, self.data.train_labels
        trained: State = self._jitted_train[stage](state, hyper, order, epoch, first, last, images, labels, lessons)
        return trained

    def compilations(self) -> int:
        """How often the training step was compiled."""
        return sum(jitted._cache_size() for jitted in self._jitted_train)

    @functools.cached_property
    def _jitted_train(self) -> list[Any]:
        """A program for each stage."""
        trains = [functools.partial(self._train, stage) for stage in self.stages]
        return [jax.jit(self._traced(self._each(train, 3)), donate_argnums=0) for train in trains]

    @functools.cached_property
    def evaluate(self) -> Callable[[State, Literal["validation", "test"]], dict[str, np.ndarray[Any, Any]]]:
        """(state, part) -> {"confusion": [members, true, predicted], "loss": mean cross-entropy [members]}.

        With more than five classes also "top5" [members]: of how many images fewer than five logits are larger than the
        label's; so those that equal it do no harm.
        """
        jitted = jax.jit(self._traced(self._each(self._evaluate, 1)))

        def run(state: State, part: Literal["validation", "test"]) -> dict[str, Any]:
            if part == "test":
                images, labels = self.data.test_images, self.data.test_labels
                index = jnp.arange(len(labels), dtype=jnp.int32)
            else:
                images, labels, index = self.data.train_images, self.data.train_labels, self.split.validation
            model = {"params": state["params"], "stats": state["stats"]}
            figures: dict[str, Any] = jax.device_get(jitted(model, index, images, labels))
            return figures

        return run

    @functools.cached_property
    def keep_best(self) -> Callable[[Tree, Tree, jax.Array], Tree]:
        """(best, candidate, better [members]) -> candidate where better, else best."""

        def choose(best: Tree, candidate: Tree, better: jax.Array) -> Tree:
            return jax.tree.map(lambda b, c: jnp.where(better.reshape(-1, *[1] * (b.ndim - 1)), c, b), best, candidate)

        return jax.jit(choose)

    @functools.cached_property
    def all_logits(self) -> Callable[[Model], jax.Array]:
        """One network -> its logits of all training images, float32 [n, classes]."""

        def logits(model: Model, images: jax.Array) -> jax.Array:
            def batch(index: jax.Array) -> jax.Array:
                return self.network(model, images[index])

            out: jax.Array = _in_batches(batch, jnp.arange(len(images)))
            return out[: len(images)]

        jitted = jax.jit(self._traced(logits))
        return lambda model: jitted(model, self.data.train_images)

    def learning_rate_factor(self, step: int) -> float:
        """What the schedule multiplies the learning rate by at a step counted from the start."""
        return float(self.stages[self.stage_at(step)].rate(step))

    def stage_at(self, step: int) -> int:
        """The stage that a step counted from the start belongs to; the last one also after the end."""
        return next((i for i, stage in enumerate(self.stages) if step < stage.last), len(self.stages) - 1)

    def network(self, model: Model, images: jax.Array) -> jax.Array:
        """Logits float32 [n, classes] of one network in eval mode for images in [0, 255], normalised as in its training."""
        x = self._inputs(images)
        logits: jax.Array = nnx.merge(self._eval_graph, self._cast(model["params"]), model["stats"])(self._cast(x))
        return logits.astype(jnp.float32)

    # One trial.

    def _graphs(self) -> tuple[Any, Any, Any, Hooks, Tree]:
        """The network as it trains, as it trains with frozen statistics, and in eval mode; what it does besides; and the shapes
        of what it has besides its parameters."""
        plain = abstract(self.config.model, self.image_shape, self.info.num_classes)
        network = self._variant.wrapped(plain, self.image_shape)
        network.train()
        train_graph, hooks = nnx.graphdef(network), Hooks(network, self.steps)
        network.set_attributes(use_running_average=True, raise_if_not_found=False)
        still_graph = nnx.graphdef(network)
        network.eval()
        eval_graph, _, stats = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        return train_graph, still_graph, eval_graph, hooks, nnx.to_pure_dict(stats)

    def _build(self, key: jax.Array) -> nnx.Module:
        return registry.build(self.config.model, self.image_shape, self.info.num_classes, nnx.Rngs(params=key))

    def _init(self, hyper: dict[str, jax.Array]) -> State:
        key = jax.random.fold_in(jax.random.key(hyper["seed"]), _INITIAL)
        _, params, stats = nnx.split(self._build(key), nnx.Param, ...)  # type: ignore[misc]
        params, built = nnx.to_pure_dict(params), by_name(nnx.to_pure_dict(stats))
        # What the variant has besides begins as zeros.
        stats = jax.tree_util.tree_map_with_path(lambda p, s: built.get(name_of(p), jnp.zeros(s.shape, s.dtype)), self._stats)
        return self._begin(self.stages[0], {"params": params, "stats": stats, "loss_sum": jnp.zeros((), jnp.float32)}, hyper)

    def _begin(self, stage: Stage, state: State, hyper: Tree) -> State:
        optimizer = make_optimizer(stage.optimizer, hyper)
        return {**state, "opt": optimizer.init(stage.pick(state["params"]))}

    def _order(self, hyper: dict[str, jax.Array], epoch: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(hyper["seed"]), _ORDER), epoch)
        return jax.random.permutation(key, self.split.train)[: self.steps_per_epoch * self.batch_size]

    def _train(self, stage: Stage, state: State, hyper: Tree, order: jax.Array, epoch: jax.Array, first: jax.Array,
               last: jax.Array, images: jax.Array, labels: jax.Array, lessons: Lessons) -> State:  # fmt: skip
        key = jax.random.fold_in(jax.random.key(hyper["seed"]), _STEP)
        optimizer = make_optimizer(stage.optimizer, hyper)
        graph = self._still_graph if stage.freeze_statistics else self._train_graph

        def step(i: jax.Array, state: State) -> State:
            index = jax.lax.dynamic_slice(order, (i * self.batch_size,), (self.batch_size,))
            number = epoch * self.steps_per_epoch + i
            keys = jax.random.split(jax.random.fold_in(key, number))
            seen = augment(images[index].astype(jnp.float32), self.config.train.augment, keys[0])
            x = self._inputs(seen)
            target = None if self._loss is None else self._soft_target(seen, index, hyper, lessons)
            before = self._hooks.before_step(state["params"], state["stats"], number)

            def loss(trained: Tree) -> tuple[jax.Array, Tree]:
                params = stage.put(state["params"], trained)
                (main, *auxiliary), stats = self._apply(graph, params, before, x, number, nnx.Rngs(dropout=keys[1]))

                def loss_of(logits: jax.Array) -> jax.Array:
                    if self._loss is None or target is None:
                        each: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
                    else:
                        each = self._loss(logits, target, labels[index], hyper["temperature"], hyper["hard_weight"])
                    return each.mean()

                total = sum((self._auxiliary_weight * loss_of(logits) for logits in auxiliary), loss_of(main))
                if self._variant.penalty is not None:
                    total = total + self._variant.penalty(params, before)
                return self._hooks.penalised(total, params, before, number), stats

            trained = stage.pick(state["params"])
            (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
            update, opt = optimizer.update(gradient, state["opt"], trained)
            rate = hyper["learning_rate"] * stage.rate(number)
            params = stage.put(state["params"], jax.tree.map(lambda p, u: p - rate * u, trained, update))
            if "mask" in state:  # so that what is masked stays out as if it were not there
                params = jax.tree.map(jnp.multiply, params, state["mask"])
            return {**state, "params": params, "stats": stats, "opt": opt, "loss_sum": state["loss_sum"] + value}

        trained: State = jax.lax.fori_loop(first, last, step, state)
        return trained

    def _evaluate(self, model: Model, index: jax.Array, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        def batch(index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            logits = self.network(model, images[index])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
            own = jnp.take_along_axis(logits, labels[index][:, None], -1)
            rank = (~(logits <= own)).sum(-1)  # a NaN is larger than all, so a diverged network is not in luck
            return logits.argmax(-1), loss, rank < _TOP

        n, classes = len(index), self.info.num_classes
        predicted, loss, among_top = _in_batches(batch, index)
        confusion = jnp.zeros((classes, classes), jnp.int32).at[labels[index], predicted[:n]].add(1)
        figures = {"confusion": confusion, "loss": loss[:n].mean()}
        return figures if classes <= _TOP else figures | {"top5": among_top[:n].sum()}

    def _soft_target(self, seen: jax.Array, index: jax.Array, hyper: Tree, lessons: Lessons) -> jax.Array:
        if self.teacher is not None:
            return self.teacher(lessons, seen)
        target: jax.Array = lessons[hyper["teacher"], index]
        return target

    def _apply(
        self, graph: Any, params: Tree, stats: Tree, x: jax.Array, number: jax.Array, rngs: nnx.Rngs
    ) -> tuple[list[jax.Array], Tree]:
        """Forward in training mode: logits float32 [n, classes], then those of auxiliary heads, and the new statistics."""
        network = nnx.merge(graph, self._cast(params), stats)
        output = network(self._cast(x), rngs=rngs, **self._hooks.options(number))
        main, auxiliary = output if isinstance(output, tuple) else (output, [])
        _, _, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        return [logits.astype(jnp.float32) for logits in (main, *auxiliary)], nnx.to_pure_dict(rest)

    def _inputs(self, images: jax.Array) -> jax.Array:
        x: jax.Array = normalise(images, self.config.dataset, self.info, jnp)
        return x

    def _cast(self, tree: Tree) -> Tree:
        if self.config.train.dtype == "float32":
            return tree
        return jax.tree.map(lambda a: a.astype(self.config.train.dtype), tree)

    # How the trials of a pack are computed.

    def _each(self, function: Callable[..., Any], own: int) -> Callable[..., Any]:
        """Run `function` for every trial: its first `own` arguments have a trial axis, the others are common."""

        def over_trials(*args: Any) -> Any:
            trials, common = args[:own], args[own:]
            if self.execution == "map":
                return jax.lax.map(lambda one: function(*one, *common), trials)
            return jax.vmap(lambda *one: function(*one, *common))(*trials)

        return over_trials

    def _traced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        forms = layers.fast_forms if self._variant.wrap is None else layers.plain_forms

        @functools.wraps(function)
        def with_forms(*args: Any) -> Any:
            with forms():
                return function(*args)

        return with_forms


def _in_batches(function: Callable[[jax.Array], Any], index: jax.Array) -> Any:
    """Apply `function` to batches of `index`, [n]; returns results [>= n, ...], the rest of the last batch being repeats."""
    n = len(index)
    size = min(EVALUATION_BATCH, n)
    batches = jnp.resize(index, (-(-n // size), size))
    results = jax.lax.map(function, batches)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)
