"""Squared error between logits, plus cross-entropy with the labels (Hoffman 2018, CramNet, equations 3.1 and 3.2)."""

import jax
import optax


def loss(student: jax.Array, teacher: jax.Array, labels: jax.Array) -> jax.Array:
    """(1/K) sum_j (p_j - q_j)^2 + H(l, softmax(q)), p and q the teacher's and the student's logits, K classes, l the label.

    Args:
        student, teacher: logits [n, K].
        labels: int [n].

    Returns:
        [n].
    """
    each: jax.Array = ((teacher - student) ** 2).mean(-1) + optax.softmax_cross_entropy_with_integer_labels(student, labels)
    return each
