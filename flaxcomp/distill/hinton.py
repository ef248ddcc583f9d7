"""Knowledge distillation of Hinton, Vinyals and Dean (2015), weighted as in the embedded study (Greffe 2019)."""

import jax
import optax


def loss(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, *, temperature: jax.Array, hard_weight: jax.Array
) -> jax.Array:
    """lambda CE(labels, y) + (1 - lambda) T^2 CE(q_T, y_T), where q_T and y_T are the softmaxes at temperature T.

    T^2 keeps the size of the soft gradient independent of T.

    Args:
        student, teacher: logits [n, m].
        labels: int [n].
        temperature: T > 0.
        hard_weight: lambda in [0, 1].

    Returns:
        [n].
    """
    hard = optax.softmax_cross_entropy_with_integer_labels(student, labels)
    soft = optax.softmax_cross_entropy(student / temperature, jax.nn.softmax(teacher / temperature))
    each: jax.Array = hard_weight * hard + (1 - hard_weight) * temperature**2 * soft
    return each
