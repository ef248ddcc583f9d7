"""What a training does besides what its configuration says, asked for by a method of compression."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

Tree = Any  # a pytree of arrays


@dataclass(frozen=True)
class Variant:
    """Attributes:
    key: tells variants of one configuration apart: programs are kept by it.
    penalty: (parameters, other state of the network) -> what is added to the loss, a scalar.
    wrap: the network as it trains, from the network as it is built, both in training mode.
    """

    key: str = ""
    penalty: Callable[[Tree, Tree], jax.Array] | None = None
    wrap: Callable[[nnx.Module], nnx.Module] | None = None


PLAIN = Variant()
