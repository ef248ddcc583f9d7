"""The trainings within a search: with network slimming's penalty, of masked channels between two steps, or in full.

They can be killed: what they have reached is kept every half a minute, and they go on from there bit for bit.
"""

import time
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
from msgspec.structs import replace

from flaxcomp.checkpoint.trees import flatten, unflatten
from flaxcomp.compress.method import Workshop
from flaxcomp.compress.prune.follow import flat
from flaxcomp.sweep.compression.prune import Prune
from flaxcomp.train.fit import Fit, Stop
from flaxcomp.train.job import Event
from flaxcomp.train.program import Model, State, Tree
from flaxcomp.train.variant import Variant

_KEEP_S = 30.0
_CHUNK_S = 5.0  # of training between two looks at the clock


def sparse(workshop: Workshop, model: dict[str, Any], weights: Model) -> Generator[Event, None, Model]:
    """Train with the penalty of network slimming (Liu et al. 2017, equation 1): lambda times the sum of all |gamma|."""
    block = _block(workshop)
    fit = workshop.fit(workshop.tuning(model, block.tune_learning_rate), slimming(block.penalty))
    steps = block.penalty_epochs * fit.program.steps_per_epoch
    state = yield from train(workshop, fit, fit.state([weights]), steps, name="penalty")
    return fit.models(state)[0]


def tune(
    workshop: Workshop, model: dict[str, Any], weights: Model, mask: Tree, step: int
) -> Generator[Event, None, tuple[Model, float]]:
    """Train what a step has left, its removed channels held at zero; batches go on where the last step's ended.

    Returns:
        The weights, and their accuracy on the held-out images.
    """
    block = _block(workshop)
    fit = workshop.fit(workshop.tuning(model, block.tune_learning_rate))
    steps = block.tune_steps
    if steps is None:
        steps = (1 if block.tune_epochs is None else block.tune_epochs) * fit.program.steps_per_epoch
    state = fit.state([weights], [mask])
    state = yield from train(workshop, fit, state, steps, name=f"tune-{step}", first=(step - 1) * steps)
    return fit.models(state)[0], float(fit.accuracy(state)[0])


def retrain(workshop: Workshop, model: dict[str, Any], step: int) -> Generator[Event, None, tuple[Model, float]]:
    """Train the narrower network from random weights, as the trial says (Greffe 2019, algorithm 3).

    Returns:
        The weights, and their accuracy on the held-out images.
    """
    config = replace(workshop.plain, model=model, train=replace(workshop.plain.train, init_from=None))
    fit = workshop.fit(config)
    (weights,) = fit.models(fit.program.init(fit.program.hyper([config], [0])))
    state = yield from train(workshop, fit, fit.state([weights]), fit.program.steps, name=f"retrain-{step}")
    return fit.models(state)[0], float(fit.accuracy(state)[0])


def slimming(penalty: float) -> Variant:
    """Training with so much times the sum over all batch norms of |scale|."""

    def term(params: Tree, stats: Tree) -> jax.Array:
        norms = {path.rpartition("/")[0] for path, _ in flat(stats) if path.endswith("/var")}
        scales = [leaf for path, leaf in flat(params) if path.endswith("/scale") and path.rpartition("/")[0] in norms]
        return penalty * sum((jnp.abs(scale).sum() for scale in scales), jnp.zeros(()))

    return Variant(key=f"slimming {penalty!r}", penalty=term)


def train(
    workshop: Workshop, fit: Fit, state: State, steps: int, *, name: str, first: int = 0
) -> Generator[Event, None, State]:
    """Train so many steps; what was reached is kept under `name`, and an earlier attempt's taken up.

    Raises:
        Stop: it was asked to.
    """
    done, kept = 0, workshop.kept(name)
    if kept is not None:
        arrays, done = kept
        state = jax.tree.map(jnp.asarray, unflatten(arrays, fit.template(state, first + done)))
    chunk, saved = 1, time.monotonic()
    while done < steps:
        began, part = time.monotonic(), min(chunk, steps - done)
        try:
            state = fit.train(state, part, first + done)
        except Stop as stop:
            workshop.keep(name, flatten(stop.state), stop.step - first)
            raise
        done, now = done + part, time.monotonic()
        chunk = max(1, min(4 * chunk, int(part * _CHUNK_S / max(now - began, 1e-6))))
        if now - saved > _KEEP_S and done < steps:
            workshop.keep(name, flatten(state), done)
            yield workshop.note(f"{name}: {done} of {steps} steps")
            saved = time.monotonic()
    return state


def _block(workshop: Workshop) -> Prune:
    block = workshop.config.prune
    assert block is not None
    return block
