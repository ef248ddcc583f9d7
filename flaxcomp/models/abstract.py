"""Networks as shapes alone: what counting, planning and reading checkpoints need of them."""

from typing import Any

import jax
from flax import nnx

from flaxcomp.models import registry
from flaxcomp.models.config import Shape


def abstract(model: dict[str, Any], input_shape: Shape, num_classes: int) -> nnx.Module:
    """The network that `flaxcomp.models.registry.build` would make, its arrays being shapes; nothing is allocated."""
    network: nnx.Module = nnx.eval_shape(lambda: registry.build(model, input_shape, num_classes, _OneKey()))
    return network


class _OneKey(nnx.Rngs):
    """The same key for all weights, where shapes alone count: to number keys in a trace takes time with their square."""

    def params(self) -> jax.Array:
        return jax.random.key(0)
