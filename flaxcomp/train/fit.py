"""Short trainings of several networks of one architecture side by side: what searches for smaller networks are made of."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.lessons import Lessons
from flaxcomp.train.pack import DISPATCH_SECONDS
from flaxcomp.train.program import Model, Program, State, Tree


class Stop(Exception):  # noqa: N818  nothing is wrong
    """A search was asked to stop; what it has kept so far is what it goes on from.

    Attributes:
        state: of a training that was interrupted, None of what is none.
        step: which step of it would have come next.
    """

    def __init__(self, state: State | None = None, step: int = 0) -> None:
        super().__init__("asked to stop")
        self.state, self.step = state, step


class Fit:
    """Trains members that differ in their weights and masks alone; all see the same batches.

    Args:
        program: of the architecture.
        config: of all members.
        lessons, teachers: what they learn from, as `Teachers.lessons` and `places` give it for one trial.
        should_stop: asked between dispatches.
    """

    def __init__(
        self, program: Program, config: TrialConfig, lessons: Lessons, teachers: Sequence[int], should_stop: Callable[[], bool]
    ) -> None:
        self.program, self._config = program, config
        self._lessons, self._teachers, self._should_stop = lessons, teachers, should_stop
        self._steps_a_dispatch = 1

    def state(self, models: Sequence[Model], masks: Sequence[Tree] | None = None) -> State:
        """The state of step 0.

        Args:
            models: the weights of each member: {"params", "stats"}.
            masks: for each a tree like its parameters, of arrays that these can be multiplied by; what is zero there is and
                stays zero, so the network trains as the one without it does.
        """
        state: State = {name: _stack([model[name] for model in models]) for name in ("params", "stats")}
        state["loss_sum"] = jnp.zeros(len(models), jnp.float32)
        if masks is not None:
            state["mask"] = _stack(masks)
            state["params"] = jax.tree.map(jnp.multiply, state["params"], state["mask"])
        return self.program.begin(state, self._hyper(len(models), 0), 0)

    def template(self, state: State, step: int) -> State:
        """A state in the form that it has before a step, counted from the start: every stage has an optimizer of its own."""
        stage = self.program.stage_at(max(step - 1, 0))  # the one that a step is the first of begins in `train`
        return self.program.begin(state, self._hyper(len(state["loss_sum"]), stage), stage)

    def train(self, state: State, steps: int, first: int = 0) -> State:
        """The state after `steps` more steps; the one given is used up.

        Args:
            first: which step of the training comes first: batches, augmentation and learning rate depend on it.

        Raises:
            Stop: it was asked to.
        """
        program, members = self.program, len(state["loss_sum"])
        step, last = first, first + steps
        epoch, order = -1, None
        while step < last:
            if self._should_stop():
                raise Stop(state, step)
            stage = program.stage_at(step)
            hyper = self._hyper(members, stage)
            if stage and step == program.stages[stage].first:
                state = program.begin(state, hyper, stage)
            if step // program.steps_per_epoch != epoch:
                epoch = step // program.steps_per_epoch
                order = program.order(hyper, epoch)
            assert order is not None
            start = epoch * program.steps_per_epoch
            ends = [last, step + self._steps_a_dispatch, start + program.steps_per_epoch]
            ends += [program.stages[stage].last] if step < program.stages[stage].last else []
            state = self._dispatch(state, hyper, order, epoch, step - start, min(ends) - start, stage)
            step = min(ends)
        return state

    def _dispatch(self, state: State, hyper: Tree, order: jax.Array, epoch: int, first: int, last: int, stage: int) -> State:
        compiled, began = self.program.compilations(), time.perf_counter()
        state = self.program.train(state, hyper, order, self._lessons, epoch, first, last, stage)
        jax.block_until_ready(state["loss_sum"])
        if self.program.compilations() == compiled:  # else the time says nothing about training
            seconds = max(time.perf_counter() - began, 1e-6)
            self._steps_a_dispatch = max(1, int(DISPATCH_SECONDS * (last - first) / seconds))
        return state

    def accuracy(self, state: State, part: Literal["validation", "test"] = "validation") -> npt.NDArray[np.float64]:
        """The accuracy of each member, [members]. A search looks at the held-out images only."""
        confusion = self.program.evaluate(state, part)["confusion"]
        correct: npt.NDArray[np.float64] = np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2))
        return correct

    def models(self, state: State) -> list[Model]:
        """The weights of each member, in host memory."""
        held = jax.device_get({name: state[name] for name in ("params", "stats")})
        return [jax.tree.map(lambda a, i=i: a[i], held) for i in range(len(state["loss_sum"]))]

    def _hyper(self, members: int, stage: int) -> dict[str, jax.Array]:
        return self.program.hyper([self._config] * members, [self._teachers] * members, stage)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)
