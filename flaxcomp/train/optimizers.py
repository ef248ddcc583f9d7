"""Optimizers and learning-rate schedules whose numbers are inputs of the compiled program, not part of it."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxcomp.sweep.spec import Optimizer, Schedule

Hyper = dict[str, jax.Array]
Tree = Any  # a pytree of arrays

HYPER_PARAMETERS = ("learning_rate", "weight_decay", "momentum", "beta1", "beta2", "decay", "epsilon")


def make_optimizer(spec: Optimizer, hyper: Hyper) -> optax.GradientTransformation:
    """Return the update rule without its learning rate: `step -rate * update` is left to the caller.

    Args:
        spec: only `name` and `nesterov` are read; they decide the program.
        hyper: scalars by the names of HYPER_PARAMETERS, traced.

    Returns:
        L2 weight decay (added to the gradient), then Adam (Kingma and Ba 2015, algorithm 1), RMSProp (epsilon inside the root;
        momentum over the scaled gradient, before the learning rate) or SGD with momentum, Nesterov's form if wanted.
    """
    rules = {
        "adam": lambda: optax.scale_by_adam(hyper["beta1"], hyper["beta2"], hyper["epsilon"]),
        "rmsprop": lambda: optax.chain(
            optax.scale_by_rms(hyper["decay"], hyper["epsilon"]), optax.trace(hyper["momentum"], nesterov=False)
        ),
        "sgd": lambda: optax.trace(hyper["momentum"], nesterov=spec.nesterov),
    }
    return optax.chain(optax.add_decayed_weights(hyper["weight_decay"]), rules[spec.name]())


def make_rate(spec: Schedule, epochs: int | Fraction, steps_per_epoch: int) -> Callable[[Any], Any]:
    """Return the factor of the learning rate as a function of the step (0-based), float32.

    constant 1; cosine final + (1 - final) (1 + cos(pi step / total)) / 2; multi_step factor^(milestones passed);
    exponential factor^floor(epoch / every_epochs).
    """
    total = int(epochs * steps_per_epoch)
    # Counted in whole numbers: XLA divides by a constant by multiplying with its reciprocal, and floor then falls one short.
    span = max(Fraction(spec.every_epochs * steps_per_epoch).limit_denominator(100), Fraction(1, 100))

    def rate(number: Any) -> Any:
        step = jnp.asarray(number, jnp.float32)
        if spec.name == "cosine":
            return spec.final + (1 - spec.final) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total, 1.0)))
        if spec.name == "multi_step":
            marks = jnp.asarray([m * steps_per_epoch for m in spec.milestones], jnp.float32)
            return jnp.power(jnp.float32(spec.factor), (step >= marks).sum())
        if spec.name == "exponential":
            return jnp.power(jnp.float32(spec.factor), jnp.asarray(number) * span.denominator // span.numerator)
        return jnp.ones_like(step)

    return rate


def updated(
    optimizer: optax.GradientTransformation, rate: jax.Array, params: Tree, gradient: Tree, state: Tree
) -> tuple[Tree, Tree]:
    """Parameters and the optimizer's state after a step of `make_optimizer`."""
    update, after = optimizer.update(gradient, state, params)
    return jax.tree.map(lambda p, u: p - rate * u, params, update), after
