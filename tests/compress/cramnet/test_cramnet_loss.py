import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcomp.compress.cramnet.loss import loss


def test_by_hand() -> None:
    """Two classes, q = (ln 3, 0): softmax (3/4, 1/4). (1/2)((2 - ln 3)^2 + (1 - 0)^2) - ln(3/4), and with the other label."""
    teacher, student = jnp.asarray([[2.0, 1.0], [2.0, 1.0]]), jnp.log(jnp.asarray([[3.0, 1.0], [3.0, 1.0]]))
    squared = ((2 - np.log(3)) ** 2 + 1) / 2
    np.testing.assert_allclose(
        loss(teacher, student, jnp.asarray([0, 1])), [squared - np.log(0.75), squared - np.log(0.25)], rtol=1e-6
    )


def test_a_student_like_its_teacher_is_left_with_the_labels() -> None:
    logits = jnp.asarray([[0.0, 0.0, 0.0, 0.0]])
    assert loss(logits, logits, jnp.asarray([2]))[0] == pytest.approx(np.log(4))


def test_the_gradient_is_that_of_both_terms() -> None:
    """dL/dq_j = 2 (q_j - p_j) / K + softmax(q)_j - [j is the label]."""
    p, q = jnp.asarray([[1.0, -1.0, 0.5, 0.0]]), jnp.asarray([[0.2, 0.3, -0.4, 2.0]])
    gradient = jax.grad(lambda q: loss(p, q, jnp.asarray([1])).sum())(q)
    expected = 2 * (q - p) / 4 + jax.nn.softmax(q) - jnp.asarray([[0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
