"""Squared error between softened outputs (Rusu 2018, SimpLeNet)."""

import jax


def loss(student: jax.Array, teacher: jax.Array, labels: jax.Array, *, temperature: jax.Array) -> jax.Array:
    """sum_i (y_i - q_i)^2 with y and q the student's and the teacher's softmax at the same temperature T.

    Labels are not used: the study's students see soft targets only.

    Args:
        student, teacher: logits [n, m].
        temperature: T > 0; q_i = exp(z_i / T) / sum_j exp(z_j / T).

    Returns:
        [n].
    """
    del labels
    error = jax.nn.softmax(student / temperature) - jax.nn.softmax(teacher / temperature)
    return (error**2).sum(-1)
