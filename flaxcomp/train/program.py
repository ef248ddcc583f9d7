"""The compiled program of a pack: initialise, train some steps, evaluate, for several trials at once.

The first trial's configuration decides it, whose signature the others share. A trial's numbers depend on its own configuration
alone: not on its pack, nor on how its steps are cut into dispatches.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxcomp.models import layers
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.batches import in_batches
from flaxcomp.train.lessons import Lessons
from flaxcomp.train.members import Sizes
from flaxcomp.train.one import Model, OneTrial, State, Tree
from flaxcomp.train.phases import stacked
from flaxcomp.train.resident import Resident
from flaxcomp.train.variant import PLAIN, Variant

__all__ = ["Lessons", "Model", "Program", "State", "Tree"]


class Program(OneTrial):
    """The functions of packs of one signature, compiled at their first call for so many trials.

    Args:
        config: any trial of them.
        data, teachers, variant: see `OneTrial`.
        execution: `vmap` computes a step of all trials at once, `map` trains one trial after the other inside the
            program, whose small state then stays in the processor's cache.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: Resident,
        teachers: Sequence["Program"] = (),
        variant: Variant = PLAIN,
        execution: Literal["vmap", "map"] | None = None,
    ) -> None:
        super().__init__(config, data, teachers, variant)
        self.execution = execution or ("map" if jax.default_backend() == "cpu" else "vmap")
        self.sizes = Sizes()

    # From outside; every first axis is the trial.

    def hyper(
        self, configs: Sequence[TrialConfig], teachers: Sequence[int] | Sequence[Sequence[int]], stage: int = 0
    ) -> dict[str, jax.Array]:
        """Stack what differs between trials in a stage: {name: [members]}; `teachers`: their places in a table of logits."""
        return stacked(configs, teachers, stage)

    @functools.cached_property
    def init(self) -> Callable[[dict[str, jax.Array]], State]:
        """hyper -> state of step 0."""
        return jax.jit(jax.vmap(self.init_one))

    def begin(self, state: State, hyper: dict[str, jax.Array], stage: int) -> State:
        """The state at the beginning of a stage: the optimizer starts anew."""
        begun: State = self._jitted_begin[stage](state, hyper)
        return begun

    @functools.cached_property
    def _jitted_begin(self) -> list[Any]:
        return [jax.jit(jax.vmap(functools.partial(self.begin_one, stage))) for stage in self.stages]

    @functools.cached_property
    def order(self) -> Callable[[dict[str, jax.Array], int], jax.Array]:
        """(hyper, epoch) -> image indices int32 [members, steps * batch]; depends on the seed and the epoch alone."""
        return jax.jit(self._each(self.order_one, 1))

    def train(
        self, state: State, hyper: dict[str, jax.Array], order: jax.Array, lessons: Lessons, epoch: int, first: int, last: int,
        stage: int = 0,
    ) -> State:  # fmt: skip
        """Return the state after the steps [first, last) of the epoch, all in one stage; the state given is used up.

        Args:
            hyper: of the stage.
            order: of the epoch, from `order`.
            lessons: what the students learn from besides the labels.
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
        trains = [functools.partial(self.train_one, stage) for stage in self.stages]
        return [jax.jit(self._traced(self._each(train, 3)), donate_argnums=0) for train in trains]

    @functools.cached_property
    def evaluate(self) -> Callable[[State, Literal["validation", "test"]], dict[str, np.ndarray[Any, Any]]]:
        """(state, part) -> {"confusion": [members, true, predicted], "loss": mean cross-entropy [members]}.

        With more than five classes also "top5" [members]: of how many images fewer than five logits are larger than the
        label's; so those that equal it do no harm.
        """
        jitted = jax.jit(self._traced(self._each(self.evaluate_one, 1)))

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
        ask, index = self.logits_of(lambda images, _: images), jnp.arange(len(self.data.train_images))
        return lambda model: ask(model, index, 0)

    def logits_of(self, change: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[Model, jax.Array, int], jax.Array]:
        """(one network, index [n], way) -> its logits of these training images, changed, float32 [n, classes].

        Args:
            change: (images float32 in [0, 255], way) -> those changed.
        """

        def logits(model: Model, index: jax.Array, images: jax.Array, way: jax.Array) -> jax.Array:
            def batch(index: jax.Array) -> jax.Array:
                return self.network(model, change(images[index].astype(jnp.float32), way))

            out: jax.Array = in_batches(batch, index)
            return out[: len(index)]

        jitted = jax.jit(self._traced(logits))
        return lambda model, index, way: jitted(model, index, self.data.train_images, way)

    def learning_rate_factor(self, step: int) -> float:
        """What the schedule multiplies the learning rate by at a step counted from the start."""
        return float(self.stages[self.stage_at(step)].rate(step))

    def stage_at(self, step: int) -> int:
        """The stage that a step counted from the start belongs to; the last one also after the end."""
        return next((i for i, stage in enumerate(self.stages) if step < stage.last), len(self.stages) - 1)

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
