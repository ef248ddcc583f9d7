"""The distillation losses against their formulas in NumPy."""

import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcomp import distill
from flaxcomp.sweep.combinations import LOSSES
from flaxcomp.sweep.spec import Distill

NAMES = sorted(module.name for module in pkgutil.iter_modules(distill.__path__))


def softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp(z / temperature - (z / temperature).max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4)) * 3, rng.normal(size=(5, 4)) * 3, rng.integers(0, 4, 5)


def test_files_and_the_sweep_file_know_the_same_losses() -> None:
    assert NAMES == ["hinton", "soft_mse"]
    for name in NAMES:
        assert Distill(teacher="t", loss=name).loss == name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_reads_what_sweeps_think_it_reads(logits: tuple[np.ndarray, np.ndarray, np.ndarray], name: str) -> None:
    student, teacher, labels = map(jnp.asarray, logits)
    one, other = (distill.load(name)(student, teacher, labels, jnp.float32(2), jnp.float32(weight)) for weight in (0.2, 0.7))
    assert (not np.array_equal(one, other)) == ("hard_weight" in LOSSES[name])


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_mse(logits: tuple[np.ndarray, np.ndarray, np.ndarray], temperature: float) -> None:
    student, teacher, labels = logits
    expected = ((softmax(student, temperature) - softmax(teacher, temperature)) ** 2).sum(-1)
    got = distill.load("soft_mse")(
        jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(labels), jnp.float32(temperature), jnp.float32(0.5)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "hard_weight"), [(1.0, 0.0), (2.0, 0.2), (5.0, 1.0)])
def test_hinton(logits: tuple[np.ndarray, np.ndarray, np.ndarray], temperature: float, hard_weight: float) -> None:
    student, teacher, labels = logits
    hard = -np.log(softmax(student, 1.0)[np.arange(5), labels])
    soft = -(softmax(teacher, temperature) * np.log(softmax(student, temperature))).sum(-1)
    expected = hard_weight * hard + (1 - hard_weight) * temperature**2 * soft
    got = distill.load("hinton")(
        jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(labels), jnp.float32(temperature), jnp.float32(hard_weight)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_soft_gradient_of_hinton_hardly_depends_on_the_temperature(logits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Hinton et al. 2015, section 2: multiplying by T^2 keeps the soft targets' share of the gradient."""
    student, teacher, labels = (jnp.asarray(a) for a in logits)
    loss = distill.load("hinton")
    gradients = [jax.grad(lambda s, t=t: loss(s, teacher, labels, t, 0.0).sum())(student) for t in (50.0, 100.0)]
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_that_equals_its_teacher_has_no_soft_gradient(
    name: str, logits: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    teacher, labels = jnp.asarray(logits[1]), jnp.asarray(logits[2])
    gradient = jax.grad(lambda s: distill.load(name)(s, teacher, labels, 3.0, 0.0).sum())(teacher)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
