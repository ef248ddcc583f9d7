"""The inputs of a sub-problem: computed once for all its steps.

The activations just before it are kept as float32 where those of all images fit into `LIMIT`, else as float16 (a relative error
of 0.05 %), else those of an earlier layer, and in the end the images themselves, which are uint8 and at hand; what stands
between is then computed in every step. So it is if a value is beyond the type's range. What is kept is indexed by the place of
an image among those trained on.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

LIMIT = 2 * 2**30  # bytes, of one sub-problem


@dataclass(frozen=True)
class Inputs:
    """What the steps of a sub-problem begin with.

    Attributes:
        kept: activations of all images, [n, ...] each; None where a step must compute them.
        stored_as: uint8 (images), float32, float16, or "computed anew".
        bytes: of what is kept.
    """

    kept: tuple[jax.Array, ...] | None
    stored_as: str
    bytes: int


def precision(shapes: Sequence[jax.ShapeDtypeStruct], images: int, limit: int = LIMIT) -> Any:
    """The type in which the activations of all images fit into `limit` bytes, None if in none.

    Args:
        shapes: of a batch, [b, ...] each.
        images: how many there are.
    """
    numbers = sum(images * math.prod(shape.shape[1:]) for shape in shapes)
    return next((dtype for dtype in (jnp.float32, jnp.float16) if numbers * jnp.dtype(dtype).itemsize <= limit), None)


def collect(
    early: Callable[[jax.Array], Sequence[jax.Array]],
    shapes: Sequence[jax.ShapeDtypeStruct],
    images: int,
    dtype: Any,
) -> tuple[jax.Array, ...] | None:
    """Compute what passes for all images, in batches.

    Args:
        early: places [b] of images among those trained on -> what passes, [b, ...] each. Traced once.
        shapes: of what passes, b being the batch.
        dtype: to keep it as.

    Returns:
        [n, ...] each; None where `dtype` cannot hold a value.
    """
    batch = shapes[0].shape[0]

    def some(first: jax.Array, kept: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], jax.Array]:
        parts = [part.astype(dtype) for part in early(first + jnp.arange(batch, dtype=jnp.int32))]
        finite = jnp.stack([jnp.isfinite(part).all() for part in parts]).all()
        filled = (jax.lax.dynamic_update_slice_in_dim(whole, part, first, 0) for whole, part in zip(kept, parts, strict=True))
        return tuple(filled), finite

    fill = jax.jit(some, donate_argnums=1)
    kept = tuple(jnp.zeros((images, *shape.shape[1:]), dtype) for shape in shapes)
    everything = []
    for first in range(0, images, batch):
        kept, finite = fill(jnp.int32(min(first, images - batch)), kept)  # the last batch overlaps
        everything.append(finite)
    return kept if bool(jnp.stack(everything).all()) else None
