"""A data set on the device."""

from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp

from flaxcomp.data.arrays import Arrays
from flaxcomp.data.catalog import DatasetInfo


@dataclass(frozen=True)
class Resident:
    """Images uint8 [n, h, w, c] and labels int32 [n] where they are computed with.

    A worker makes one of a data set and hands it to all its programs: each would hold a copy of its own otherwise.
    """

    info: DatasetInfo
    train_images: jax.Array
    train_labels: jax.Array
    test_images: jax.Array
    test_labels: jax.Array

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        return cls(
            arrays.info,
            jnp.asarray(arrays.train_images),
            jnp.asarray(arrays.train_labels, jnp.int32),
            jnp.asarray(arrays.test_images),
            jnp.asarray(arrays.test_labels, jnp.int32),
        )
