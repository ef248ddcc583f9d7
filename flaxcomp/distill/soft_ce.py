"""The soft cross-entropy alone: the second term of the embedded study's loss (Greffe 2019, equations 5.5 and 5.6)."""

import jax
import optax


def loss(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, *, temperature: jax.Array, temperature_power: jax.Array
) -> jax.Array:
    """T^p CE(q_T, y_T) = -T^p sum_i q_i log(y_i), where q and y are the teacher's and the student's softmax at temperature T.

    With p = 2, as in the study, the size of the gradient does not depend on T; with p = 0 it falls as 1 / T^2.

    Args:
        student, teacher: logits [n, m].
        labels: not used.
        temperature: T > 0.
        temperature_power: p >= 0.

    Returns:
        [n].
    """
    del labels
    soft = optax.softmax_cross_entropy(student / temperature, jax.nn.softmax(teacher / temperature))
    each: jax.Array = temperature**temperature_power * soft
    return each
