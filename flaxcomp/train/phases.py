"""The phases of a training on the line of its steps: which parameters train when, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcomp import distill
from flaxcomp.errors import UserError
from flaxcomp.models.abstract import abstract
from flaxcomp.sweep.spec import Distill, Optimizer, Phase, Train, TrialConfig
from flaxcomp.train.hints import Bridge, upstream
from flaxcomp.train.names import by_name, matching, name_of
from flaxcomp.train.optimizers import HYPER_PARAMETERS, make_rate

Tree = Any  # a pytree of arrays
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Stage:
    """A phase, or the whole of a training that has none.

    Attributes:
        first, last: its steps, [first, last), counted from the start of the training.
        optimizer: only what decides the program is read of it.
        rate: the factor of the learning rate as a function of the step, counted from the start of the training.
        trained: names of the parameters that train; None: all.
        freeze_statistics: batch norms use their running statistics and keep them.
        hints: a layer learns from the teacher's: `alone`, or `beside` the loss; "": it does not.
    """

    first: int
    last: int
    optimizer: Optimizer
    rate: Callable[[Any], Any]
    trained: frozenset[str] | None = None
    freeze_statistics: bool = False
    hints: Literal["", "alone", "beside"] = ""

    def pick(self, params: Tree) -> Tree:
        """The parameters that train, by name, or the tree itself where all do; these alone have gradients and moments."""
        if self.trained is None:
            return params
        return {name: leaf for name, leaf in by_name(params).items() if name in self.trained}

    def put(self, params: Tree, trained: Tree) -> Tree:
        """`params` with what `pick` took replaced."""
        if self.trained is None:
            return trained
        return jax.tree_util.tree_map_with_path(lambda path, leaf: trained.get(name_of(path), leaf), params)


def stages(config: TrialConfig, shape: Shape, classes: int, steps_per_epoch: int, bridge: Bridge | None = None) -> list[Stage]:
    """The phases of a training. Hints alone are the first stage, in which only what leads to their layer is trained.

    Args:
        config: of the trial.
        shape: height, width and channels of what the network sees.
        classes: of the data set.
        steps_per_epoch: how many.
        bridge: of the hints, where there are any.

    Raises:
        UserError: a pattern matches no parameter, or hints alone would last as long as the training.
    """
    train = config.train
    alone = config.distill.hint.epochs if config.distill and config.distill.hint else 0
    if alone and not train.phases and alone >= train.epochs:
        raise UserError(f"distill.hint.epochs must be less than the {train.epochs} of the training, got {alone}")
    hints: Literal["", "beside"] = "beside" if bridge is not None and not alone else ""
    if not train.phases:
        first, last = alone * steps_per_epoch, train.epochs * steps_per_epoch
        rates = [make_rate(train.schedule, epochs, steps_per_epoch) for epochs in (alone, train.epochs - alone)]
        ordinary = Stage(first, last, train.optimizer, _later(rates[1], first), hints=hints)
        if bridge is None or not alone:
            return [ordinary]
        guided = upstream(config.model, shape, classes, bridge.student_layer)
        return [Stage(0, first, train.optimizer, rates[0], guided, hints="alone"), ordinary]
    found: list[Stage] = []
    for index, phase in enumerate(train.phases):
        first = found[-1].last if found else 0
        steps = steps_of(phase, steps_per_epoch)
        rate = _later(make_rate(phase.schedule, Fraction(steps, steps_per_epoch), steps_per_epoch), first)
        trained = _trained(phase, f"train.phases[{index}].train", config.model, shape, classes)
        found.append(Stage(first, first + steps, phase.optimizer, rate, trained, phase.freeze_statistics, hints))
    return found


def steps_of(phase: Phase, steps_per_epoch: int) -> int:
    return phase.steps or (phase.epochs or 0) * steps_per_epoch


def optimizer_of(train: Train, stage: int) -> Optimizer:
    """The optimizer of a stage with its numbers."""
    return train.phases[stage].optimizer if train.phases else train.optimizer


def stacked(
    configs: Sequence[TrialConfig], teachers: Sequence[int] | Sequence[Sequence[int]], stage: int
) -> dict[str, jax.Array]:
    """What differs between trials in a stage, {name: [trials]}: numbers of its optimizer and distillation, seed, teachers.

    `teacher` and `weights` have a second axis, the teachers of a trial.
    """
    optimizers = [optimizer_of(config.train, stage) for config in configs]
    columns: dict[str, list[Any]] = {name: [getattr(o, name) for o in optimizers] for name in HYPER_PARAMETERS}
    learned = [config.distill or Distill(teacher="") for config in configs]
    columns |= {name: [getattr(each, name) for each in learned] for name in distill.options()}
    columns["hint_weight"] = [each.hint.weight if each.hint else 0.0 for each in learned]
    columns["weights"] = [each.weights or [1 / len(each.teachers)] * len(each.teachers) for each in learned]
    arrays = {name: jnp.asarray(np.asarray(values, np.float32)) for name, values in columns.items()}
    arrays["seed"] = jnp.asarray(np.asarray([c.seed for c in configs], np.uint32))
    arrays["teacher"] = jnp.asarray(np.asarray(teachers, np.int32).reshape(len(configs), -1))
    return arrays


def class_axes(model: dict[str, Any], shape: Shape, classes: int) -> dict[str, tuple[int, ...]]:
    """The parameters of the last layer (and of auxiliary heads), which are those whose shape depends on the number of classes.

    Returns:
        {name: the axes that do}.
    """
    classes = model.get("num_classes", classes)
    here, other = (_shapes({**model, "num_classes": n}, shape, n) for n in (classes, classes + 1))
    axes = {name: tuple(i for i, (a, b) in enumerate(zip(here[name], other[name], strict=True)) if a != b) for name in here}
    return {name: found for name, found in axes.items() if found}


def _shapes(model: dict[str, Any], shape: Shape, classes: int) -> dict[str, tuple[int, ...]]:
    network = abstract(model, shape, classes)
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    return {name: tuple(leaf.shape) for name, leaf in by_name(params).items()}


def _trained(phase: Phase, key: str, model: dict[str, Any], shape: Shape, classes: int) -> frozenset[str] | None:
    if phase.train == "all":
        return None
    names = _shapes(model, shape, classes)
    if phase.train == "last":
        layers = {name.rpartition(".")[0] for name in class_axes(model, shape, classes)}
        return frozenset(name for name in names if name.rpartition(".")[0] in layers)
    return frozenset[str]().union(*(matching(pattern, names, key) for pattern in phase.train))


def _later(rate: Callable[[Any], Any], first: int) -> Callable[[Any], Any]:
    return (lambda step: rate(step - first)) if first else rate
