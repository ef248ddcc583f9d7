"""Over many images, some at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

EVALUATION_BATCH = 500


def in_batches(function: Callable[[jax.Array], Any], index: jax.Array) -> Any:
    """Apply `function` to batches of `index`, [n]; returns results [>= n, ...], the rest of the last batch being repeats."""
    n = len(index)
    size = min(EVALUATION_BATCH, n)
    batches = jnp.resize(index, (-(-n // size), size))
    results = jax.lax.map(function, batches)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)
