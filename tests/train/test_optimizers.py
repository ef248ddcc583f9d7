"""Optimizers against optax's own, schedules against their formulas at every step."""

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from flaxcomp.sweep.combinations import OPTIMIZERS, SCHEDULES
from flaxcomp.sweep.ids import OPTIMIZER_INPUTS
from flaxcomp.sweep.spec import Optimizer, Schedule
from flaxcomp.train.optimizers import HYPER_PARAMETERS, make_optimizer, make_rate

RATE, DECAY = 0.03, 0.01
CASES = {
    "adam": (Optimizer(name="adam", beta1=0.8, beta2=0.95, epsilon=1e-5), optax.adam(RATE, 0.8, 0.95, 1e-5)),
    "rmsprop": (Optimizer(name="rmsprop", decay=0.8, momentum=0.7), optax.rmsprop(RATE, 0.8, 1e-8, momentum=0.7)),
    "rmsprop without momentum": (Optimizer(name="rmsprop"), optax.rmsprop(RATE, 0.9, 1e-8)),
    "sgd": (Optimizer(name="sgd"), optax.sgd(RATE)),
    "momentum": (Optimizer(name="sgd", momentum=0.9), optax.sgd(RATE, 0.9)),
    "nesterov": (Optimizer(name="sgd", momentum=0.9, nesterov=True), optax.sgd(RATE, 0.9, nesterov=True)),
}


def test_the_programs_inputs_are_what_ids_leave_out_of_a_signature() -> None:
    assert set(HYPER_PARAMETERS) == set(OPTIMIZER_INPUTS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_reads_what_sweeps_think_it_reads(name: str) -> None:
    changed = {"momentum": 0.5, "nesterov": True, "beta1": 0.5, "beta2": 0.5, "decay": 0.5, "epsilon": 0.1}
    base = Optimizer(name=name, momentum=0.25)  # type: ignore[arg-type]

    def after_steps(spec: Optimizer) -> Any:
        rule = make_optimizer(spec, {name: jnp.float32(getattr(spec, name)) for name in HYPER_PARAMETERS})
        state, update = rule.init(jnp.ones(2)), None
        for gradient in ([1.0, -2.0], [0.5, 3.0]):
            update, state = rule.update(jnp.asarray(gradient), state, jnp.ones(2))
        return np.asarray(update)

    reads = {key for key, value in changed.items()
             if not np.array_equal(after_steps(base), after_steps(replace(base, **{key: value})))}  # fmt: skip
    assert reads == OPTIMIZERS[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_reads_what_sweeps_think_it_reads(name: str) -> None:
    changed = {"milestones": (1,), "factor": 0.5, "every_epochs": 2.0, "final": 0.5}
    base = Schedule(name=name, milestones=(2,))  # type: ignore[arg-type]

    def rates(spec: Schedule) -> list[float]:
        return [float(make_rate(spec, 3, 2)(step)) for step in range(6)]

    reads = {key for key, value in changed.items() if rates(base) != rates(replace(base, **{key: value}))}
    assert reads == SCHEDULES[name]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weight_decay", [0.0, DECAY])
def test_the_same_steps_as_optax_with_numbers_fixed_in_the_program(case: str, weight_decay: float) -> None:
    spec, reference = CASES[case]
    reference = optax.chain(optax.add_decayed_weights(weight_decay), reference)
    hyper = {name: jnp.float32(getattr(spec, name)) for name in HYPER_PARAMETERS} | {"weight_decay": jnp.float32(weight_decay)}
    start = {"w": jnp.asarray([1.0, -2.0, 0.5]), "b": jnp.asarray(0.1)}

    def gradient(params: Any) -> Any:
        return jax.grad(lambda p: ((p["w"] * jnp.asarray([3.0, 0.1, -1.0]) + p["b"]) ** 2).sum())(params)

    def steps(hyper: dict[str, jax.Array]) -> tuple[Any, Any]:
        ours = theirs = start
        rule = make_optimizer(spec, hyper)
        our_state, their_state = rule.init(start), reference.init(start)
        for _ in range(6):
            update, our_state = rule.update(gradient(ours), our_state, ours)
            ours = jax.tree.map(lambda p, u: p - RATE * u, ours, update)
            update, their_state = reference.update(gradient(theirs), their_state, theirs)
            theirs = optax.apply_updates(theirs, update)
        return ours, theirs

    ours, theirs = jax.jit(steps)(hyper)
    for name in start:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=1e-6)
    assert np.abs(ours["w"] - start["w"]).max() > 0.05


def table(spec: Schedule, epochs: int, steps: int) -> np.ndarray[Any, Any]:
    """The factor at every step, as a compiled program computes it."""
    rate = jax.jit(jax.vmap(make_rate(spec, epochs, steps)))
    return np.asarray(rate(jnp.arange(epochs * steps, dtype=jnp.int32)))


def test_constant() -> None:
    assert (table(Schedule(), 2, 7) == 1).all()


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_goes_from_one_to_its_final_share(final: float) -> None:
    factors = table(Schedule(name="cosine", final=final), 3, 40)
    assert factors[0] == 1
    assert factors[60] == pytest.approx(final + (1 - final) / 2)
    assert factors[-1] == pytest.approx(final, abs=1e-3)
    assert (np.diff(factors) <= 0).all()
    after_the_end = make_rate(Schedule(name="cosine", final=final), 3, 40)(500)
    assert float(after_the_end) == pytest.approx(final)


def test_multi_step_falls_with_the_first_step_of_a_milestone() -> None:
    factors = table(Schedule(name="multi_step", milestones=(1, 3), factor=0.1), 4, 41)
    np.testing.assert_allclose(factors, [1.0] * 41 + [0.1] * 82 + [0.01] * 41, rtol=1e-6)
    assert (table(Schedule(name="multi_step"), 1, 5) == 1).all()


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 500), every=st.sampled_from([1.0, 2.0, 0.5, 0.25, 1.5, 3.0]))
def test_exponential_falls_at_the_very_step(steps: int, every: float) -> None:
    """Division by a constant is a product with its reciprocal in XLA: 82 / 82 came out below 1, and the rate a step late."""
    factors = table(Schedule(name="exponential", factor=0.5, every_epochs=every), 12, steps)
    spans = [math.floor(Fraction(step) / (Fraction(every) * steps)) for step in range(12 * steps)]
    np.testing.assert_allclose(factors, 0.5 ** np.asarray(spans, np.float64), rtol=1e-5)


def test_exponential_of_the_mobilenet_study() -> None:
    factors = table(Schedule(name="exponential", factor=0.94, every_epochs=2.0), 6, 41)
    np.testing.assert_allclose(factors[[0, 81, 82, 163, 164, 245]], [1, 1, 0.94, 0.94, 0.94**2, 0.94**2], rtol=1e-6)
