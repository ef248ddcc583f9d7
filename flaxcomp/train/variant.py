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
    wrap: the network as it trains, and as it is evaluated, from the network as it is built and the shape of its input (height,
        width, channels); both of shapes alone. What it has besides begins as zeros and is a part of the training's state, but
        for parameters, of which it has the same. Its class knows by `train()` and `eval()` what it is to do. It is traced with
        the library's own operations (`flaxcomp.models.layers.plain_forms`).
    """

    key: str = ""
    penalty: Callable[[Tree, Tree], jax.Array] | None = None
    wrap: Callable[[nnx.Module, tuple[int, int, int]], nnx.Module] | None = None

    def wrapped(self, network: nnx.Module, input_shape: tuple[int, int, int]) -> nnx.Module:
        """The network as it trains; see `wrap`."""
        return network if self.wrap is None else self.wrap(network, input_shape)


PLAIN = Variant()
