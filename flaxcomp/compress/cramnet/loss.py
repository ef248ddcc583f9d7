"""What a sub-problem is trained by."""

import jax
import jax.numpy as jnp
import optax


def loss(teacher: jax.Array, student: jax.Array, labels: jax.Array) -> jax.Array:
    """Squared error to the teacher's logits, plus cross-entropy with the labels (Hoffman 2018, equations 3.1 and 3.2).

    L(p, q, l) = (1/K) sum_j (p_j - q_j)^2 + H(l, softmax(q)), K classes.

    Args:
        teacher: p, logits [n, K] before softmax. student: q, likewise. labels: l, int [n].

    Returns:
        float32 [n].
    """
    error = jnp.square(teacher - student).mean(-1)
    total: jax.Array = error + optax.softmax_cross_entropy_with_integer_labels(student, labels)
    return total
