"""The distillation losses against their formulas in NumPy."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcomp import distill
from flaxcomp.sweep.spec import Distill

NAMES = ["hinton", "logits_mse_ce", "soft_ce", "soft_mse"]
OPTIONS = {"temperature": (2.0, 3.0), "hard_weight": (0.2, 0.7), "temperature_power": (2.0, 0.0)}

Logits = tuple[np.ndarray, np.ndarray, np.ndarray]


def softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp(z / temperature - (z / temperature).max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def hard_ce(student: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.log(softmax(student, 1.0)[np.arange(len(labels)), labels])


def soft_ce(student: np.ndarray, teacher: np.ndarray, t: float) -> np.ndarray:
    return -(softmax(teacher, t) * np.log(softmax(student, t))).sum(-1)


FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "soft_mse": lambda s, t, _, temperature: ((softmax(s, temperature) - softmax(t, temperature)) ** 2).sum(-1),
    "hinton": lambda s, t, labels, temperature, hard_weight: (
        hard_weight * hard_ce(s, labels) + (1 - hard_weight) * temperature**2 * soft_ce(s, t, temperature)
    ),
    "soft_ce": lambda s, t, _, temperature, temperature_power: temperature**temperature_power * soft_ce(s, t, temperature),
    "logits_mse_ce": lambda s, t, labels: ((s - t) ** 2).sum(-1) / 4 + hard_ce(s, labels),
}


@pytest.fixture
def logits() -> Logits:
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4)) * 3, rng.normal(size=(5, 4)) * 3, rng.integers(0, 4, 5)


def value(name: str, logits: Any, **options: float) -> jax.Array:
    student, teacher, labels = map(jnp.asarray, logits)
    return distill.load(name)(student, teacher, labels, **{key: jnp.float32(option) for key, option in options.items()})


def test_the_folder_is_the_list_and_the_spec_knows_every_option() -> None:
    assert list(distill.losses()) == NAMES
    assert set(distill.options()) == set(OPTIONS) <= set(Distill.__struct_fields__)
    for name in NAMES:
        assert Distill(teacher="t", loss=name).loss == name


def test_listing_the_losses_loads_no_jax() -> None:
    imported = {alias.name for node in ast.walk(ast.parse(inspect.getsource(distill))) if isinstance(node, ast.Import)
                for alias in node.names}  # fmt: skip
    assert imported == {"ast", "functools", "importlib", "jax"}
    guard = inspect.getsource(distill).index("if TYPE_CHECKING:")
    assert inspect.getsource(distill).index("import jax") > guard


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", [0, 1])
def test_every_loss_is_its_formula_and_reads_each_of_its_options(logits: Logits, name: str, other: int) -> None:
    read = distill.losses()[name]
    options = {key: OPTIONS[key][other] for key in read}
    np.testing.assert_allclose(value(name, logits, **options), FORMULAS[name](*logits, **options), rtol=2e-5)
    for key in read:
        changed = options | {key: OPTIONS[key][1 - other]}
        assert not np.allclose(value(name, logits, **options), value(name, logits, **changed)), key


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_mse(logits: Logits, temperature: float) -> None:
    expected = FORMULAS["soft_mse"](*logits, temperature)
    np.testing.assert_allclose(value("soft_mse", logits, temperature=temperature), expected, rtol=1e-5)


def test_logits_mse_ce_by_hand() -> None:
    """Two classes: ((3 - 1)^2 + (1 - 1)^2) / 2 + log 2."""
    got = value("logits_mse_ce", ([[1.0, 1.0]], [[3.0, 1.0]], [0]))
    np.testing.assert_allclose(got, 2 + np.log(2), rtol=1e-6)


def test_soft_ce_is_hinton_without_labels(logits: Logits) -> None:
    hinton = value("hinton", logits, temperature=3, hard_weight=0)
    np.testing.assert_allclose(value("soft_ce", logits, temperature=3, temperature_power=2), hinton, 1e-5)


@pytest.mark.parametrize(("temperature", "hard_weight"), [(1.0, 0.0), (2.0, 0.2), (5.0, 1.0)])
def test_hinton(logits: Logits, temperature: float, hard_weight: float) -> None:
    expected = FORMULAS["hinton"](*logits, temperature, hard_weight)
    got = value("hinton", logits, temperature=temperature, hard_weight=hard_weight)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("power", "ratio"), [(2.0, 1.0), (0.0, 4.0)])
def test_the_square_of_the_temperature_keeps_the_soft_gradient(logits: Logits, power: float, ratio: float) -> None:
    """Hinton et al. 2015, section 2; without it the gradient falls as 1 / T^2."""
    student, teacher, labels = (jnp.asarray(a) for a in logits)
    loss = distill.load("soft_ce")
    one, other = (jax.grad(lambda s, t=t: loss(s, teacher, labels, temperature=t, temperature_power=power).sum())(student)
                  for t in (50.0, 100.0))  # fmt: skip
    np.testing.assert_allclose(one, ratio * other, rtol=0.1, atol=0.02 / 50**2 if power == 0 else 0.02)


@pytest.mark.parametrize("name", ["hinton", "soft_ce", "soft_mse"])
def test_a_student_that_equals_its_teacher_has_no_soft_gradient(name: str, logits: Logits) -> None:
    teacher, labels = jnp.asarray(logits[1]), jnp.asarray(logits[2])
    given = {"temperature": 3.0, "hard_weight": 0.0, "temperature_power": 2.0}
    options = {key: given[key] for key in distill.losses()[name]}
    gradient = jax.grad(lambda s: distill.load(name)(s, teacher, labels, **options).sum())(teacher)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
