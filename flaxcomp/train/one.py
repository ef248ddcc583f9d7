"""One trial's training as pure functions: initialise, train some steps, evaluate.

What differs between the trials of a pack (seed, learning rate, temperature, ...) is an input, `hyper`; what decides the program
(architecture, batch size, loss, ...) is read from the configuration. `flaxcomp.train.program` compiles them for packs.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from flaxcomp import distill
from flaxcomp.data.arrays import split_validation
from flaxcomp.data.augment import augment
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.abstract import abstract
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train import hints
from flaxcomp.train.batches import in_batches
from flaxcomp.train.hints import Bridge, output_of, recording
from flaxcomp.train.hooks import Hooks
from flaxcomp.train.inputs import input_shape, normalise
from flaxcomp.train.lessons import Classroom, Lesson, Lessons, Seen
from flaxcomp.train.names import by_name, name_of
from flaxcomp.train.optimizers import make_optimizer, updated
from flaxcomp.train.phases import Stage, stages
from flaxcomp.train.resident import Resident
from flaxcomp.train.variant import PLAIN, Variant

Tree = Any  # a pytree of arrays
# params, stats, opt, loss_sum; perhaps mask, what the parameters are multiplied by after each step, and hint, {params, opt} of
# the regressor
State = dict[str, Tree]
Model = dict[str, Tree]  # params, stats

_TOP = 5

# Streams of randomness of one trial; a name keeps its number for ever, or old trials could not be repeated.
_INITIAL, _ORDER, _STEP, _HINT = 0, 1, 2, 3  # 4: CramNet's


@dataclass(frozen=True)
class Split:
    """Indices into the training images: what is trained on and what is held out, int32 [n]."""

    train: jax.Array
    validation: jax.Array


class OneTrial:
    """The functions of one trial; those of its signature have the same.

    Args:
        config: of the trial.
        data: the data set.
        teachers: of the teachers, in the order of `distill.teachers`, where their networks may be asked
            (`flaxcomp.train.lessons.Networks`) and not their logits alone.
        variant: what the training does besides.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: Resident,
        teachers: Sequence["OneTrial"] = (),
        variant: Variant = PLAIN,
    ) -> None:
        self.config, self.data, self.info = config, data, data.info
        self._variant = variant
        spec = config.dataset
        usable = min(len(data.train_images), spec.train_limit or len(data.train_images))
        train, validation = split_validation(usable, spec.validation.fraction, spec.validation.seed)
        self.split = Split(jnp.asarray(train), jnp.asarray(validation))
        self.batch_size = config.train.batch_size
        if self.batch_size > len(train):
            raise UserError(f"train.batch_size must be at most {len(train)}, the images to train on, got {self.batch_size}")
        self.steps_per_epoch = len(train) // self.batch_size
        self.image_shape = input_shape(spec, self.info)
        self.bridge = self._bridge(teachers)
        self.stages = stages(config, self.image_shape, self.info.num_classes, self.steps_per_epoch, self.bridge)
        self.steps = self.stages[-1].last
        self._train_graph, self._still_graph, self._eval_graph, self._hooks, self._stats = self._graphs()
        self._loss = distill.load(config.distill.loss) if config.distill else None
        self._loss_options = distill.losses()[config.distill.loss] if config.distill else frozenset()
        self._classroom = Classroom(config, teachers, self.split.train) if config.distill else None
        self._auxiliary_weight: float = getattr(registry.config_of(config.model), "auxiliary_weight", 0.0)

    def network(self, model: Model, images: jax.Array) -> jax.Array:
        """Logits float32 [n, classes] of one network in eval mode for images in [0, 255], normalised as in its training."""
        return self.shown(model, images)[0]

    def shown(
        self, model: Model, images: jax.Array, *, mode: Literal["eval", "train"] = "eval", layer: str | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """As `network`, and the output of a layer, float32 [n, ...].

        Args:
            mode: `train`: batch norms normalise by the mean and variance of these images; all else is as in eval mode.
            layer: None for none.
        """
        x = self._inputs(images)
        graph = self._eval_graph if mode == "eval" else self._batch_graph
        network = nnx.merge(graph, self._cast(model["params"]), model["stats"])
        with recording(network, layer or "") as record:
            logits: jax.Array = network(self._cast(x))
        return logits.astype(jnp.float32), output_of(record, layer) if layer else None

    def _bridge(self, teachers: Sequence["OneTrial"]) -> Bridge | None:
        if self.config.distill is None or self.config.distill.hint is None:
            return None
        own, theirs = (hints.layers(p.config.model, p.image_shape, p.info.num_classes) for p in (self, teachers[0]))
        return Bridge(self.config.distill.hint, own, theirs)

    @functools.cached_property
    def _batch_graph(self) -> Any:
        """The network in eval mode but for its batch norms, which use the batch's statistics."""
        network = abstract(self.config.model, self.image_shape, self.info.num_classes)
        network.eval()
        network.set_attributes(use_running_average=False, raise_if_not_found=False)
        return nnx.graphdef(network)

    def _graphs(self) -> tuple[Any, Any, Any, Hooks, Tree]:
        """The network as it trains, as it trains with frozen statistics, and in eval mode; what it does besides; and the shapes
        of what it has besides its parameters."""
        plain = abstract(self.config.model, self.image_shape, self.info.num_classes)
        network = self._variant.wrapped(plain, self.image_shape)
        self._set_momentum(network)
        network.train()
        train_graph, hooks = nnx.graphdef(network), Hooks(network, self.steps)
        network.set_attributes(use_running_average=True, raise_if_not_found=False)
        still_graph = nnx.graphdef(network)
        network.eval()
        eval_graph, _, stats = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        return train_graph, still_graph, eval_graph, hooks, nnx.to_pure_dict(stats)

    def _set_momentum(self, network: nnx.Module) -> None:
        momentum = self.config.train.batch_norm_momentum
        if momentum is None:
            return
        try:
            network.set_attributes(nnx.BatchNorm, momentum=momentum)
        except ValueError:
            name = self.config.model["name"]
            raise UserError(f"train.batch_norm_momentum must be left out for {name}, which has no batch norm") from None

    def _build(self, key: jax.Array) -> nnx.Module:
        return registry.build(self.config.model, self.image_shape, self.info.num_classes, nnx.Rngs(params=key))

    def init_one(self, hyper: dict[str, jax.Array]) -> State:
        key = jax.random.fold_in(jax.random.key(hyper["seed"]), _INITIAL)
        _, params, stats = nnx.split(self._build(key), nnx.Param, ...)  # type: ignore[misc]
        params, built = nnx.to_pure_dict(params), by_name(nnx.to_pure_dict(stats))
        # What the variant has besides begins as zeros.
        stats = jax.tree_util.tree_map_with_path(lambda p, s: built.get(name_of(p), jnp.zeros(s.shape, s.dtype)), self._stats)
        return self.begin_one(self.stages[0], {"params": params, "stats": stats, "loss_sum": jnp.zeros((), jnp.float32)}, hyper)

    def begin_one(self, stage: Stage, state: State, hyper: Tree) -> State:
        optimizer = make_optimizer(stage.optimizer, hyper)
        begun = {**state, "opt": optimizer.init(stage.pick(state["params"]))}
        if self.bridge is not None:
            own = jax.random.fold_in(jax.random.key(hyper["seed"]), _HINT)
            regressor = state["hint"]["params"] if "hint" in state else self.bridge.regressor(own)
            begun["hint"] = {"params": regressor, "opt": optimizer.init(regressor)}
        return begun

    def order_one(self, hyper: dict[str, jax.Array], epoch: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(hyper["seed"]), _ORDER), epoch)
        return jax.random.permutation(key, self.split.train)[: self.steps_per_epoch * self.batch_size]

    def train_one(self, stage: Stage, state: State, hyper: Tree, order: jax.Array, epoch: jax.Array, first: jax.Array,
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
            lesson = self._lesson(stage, Seen(seen, index, keys[0]), hyper, lessons)
            before = self._hooks.before_step(state["params"], state["stats"], number)

            def loss(trained: Tree, regressor: Tree) -> tuple[jax.Array, Tree]:
                params = stage.put(state["params"], trained)
                output = self._apply(graph, params, before, x, number, nnx.Rngs(dropout=keys[1]), stage)

                def loss_of(logits: jax.Array) -> jax.Array:
                    if self._loss is None or lesson is None:
                        each: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
                    else:
                        options = {name: hyper[name] for name in self._loss_options}
                        each = self._loss(logits, lesson.logits, labels[index], **options)
                    return each.mean()

                total = jnp.zeros(())
                if stage.hints != "alone":
                    main, *auxiliary = output.logits
                    total = sum((self._auxiliary_weight * loss_of(logits) for logits in auxiliary), loss_of(main))
                if self.bridge is not None and lesson is not None and lesson.hint is not None and output.hint is not None:
                    total += hyper["hint_weight"] * self.bridge.error(regressor, output.hint, lesson.hint).mean()
                if self._variant.penalty is not None:
                    total = total + self._variant.penalty(params, before)
                return self._hooks.penalised(total, params, before, number), output.stats

            trained, regressor = stage.pick(state["params"]), state.get("hint", {}).get("params", {})
            (value, stats), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(trained, regressor)
            rate = hyper["learning_rate"] * stage.rate(number)
            trained, opt = updated(optimizer, rate, trained, gradients[0], state["opt"])
            params = stage.put(state["params"], trained)
            if "mask" in state:  # so that what is masked stays out as if it were not there
                params = jax.tree.map(jnp.multiply, params, state["mask"])
            after = {**state, "params": params, "stats": stats, "opt": opt, "loss_sum": state["loss_sum"] + value}
            if stage.hints:
                learned = updated(optimizer, rate, regressor, gradients[1], state["hint"]["opt"])
                after["hint"] = dict(zip(("params", "opt"), learned, strict=True))
            return after

        trained: State = jax.lax.fori_loop(first, last, step, state)
        return trained

    def evaluate_one(self, model: Model, index: jax.Array, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        def batch(index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            logits = self.network(model, images[index])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
            own = jnp.take_along_axis(logits, labels[index][:, None], -1)
            rank = (~(logits <= own)).sum(-1)  # a NaN is larger than all, so a diverged network is not in luck
            return logits.argmax(-1), loss, rank < _TOP

        n, classes = len(index), self.info.num_classes
        predicted, loss, among_top = in_batches(batch, index)
        confusion = jnp.zeros((classes, classes), jnp.int32).at[labels[index], predicted[:n]].add(1)
        figures = {"confusion": confusion, "loss": loss[:n].mean()}
        return figures if classes <= _TOP else figures | {"top5": among_top[:n].sum()}

    def _lesson(self, stage: Stage, seen: Seen, hyper: Tree, lessons: Lessons) -> Lesson | None:
        if self._classroom is None:
            return None
        layer = self.bridge.teacher_layer if self.bridge is not None and stage.hints else None
        return self._classroom.ask(lessons, seen, hyper, layer)

    def _apply(
        self, graph: Any, params: Tree, stats: Tree, x: jax.Array, number: jax.Array, rngs: nnx.Rngs, stage: Stage
    ) -> "_Output":
        """Forward in training mode."""
        network = nnx.merge(graph, self._cast(params), stats)
        layer = self.bridge.student_layer if self.bridge is not None and stage.hints else ""
        with recording(network, layer) as record:
            output = network(self._cast(x), rngs=rngs, **self._hooks.options(number))
        main, auxiliary = output if isinstance(output, tuple) else (output, [])
        _, _, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        logits = [each.astype(jnp.float32) for each in (main, *auxiliary)]
        return _Output(logits, nnx.to_pure_dict(rest), output_of(record, layer) if layer else None)

    def _inputs(self, images: jax.Array) -> jax.Array:
        x: jax.Array = normalise(images, self.config.dataset, self.info, jnp)
        return x

    def _cast(self, tree: Tree) -> Tree:
        if self.config.train.dtype == "float32":
            return tree
        return jax.tree.map(lambda a: a.astype(self.config.train.dtype), tree)


class _Output(NamedTuple):
    """What a network in training mode puts out.

    Attributes:
        logits: float32 [n, classes], then those of auxiliary heads.
        stats: the new statistics.
        hint: of the layer that learns from the teacher's, [n, ...]; None where none does.
    """

    logits: list[jax.Array]
    stats: Tree
    hint: jax.Array | None
