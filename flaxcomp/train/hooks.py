"""What a network does in training besides its forward pass (`flaxcomp.models.protocol`), as pure functions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.protocol import Changes, Penalised, takes_progress

Tree = Any  # a pytree of arrays


class Hooks:
    """Asks a network for what it wants; what it does not want is not traced.

    Args:
        network: in training mode; shapes are enough.
        steps: of the whole training.
    """

    def __init__(self, network: nnx.Module, steps: int) -> None:
        self._graph: Any = nnx.graphdef(network)
        self._steps = steps
        self._progress, self._changes = takes_progress(network), isinstance(network, Changes)
        self._penalised = isinstance(network, Penalised)

    def options(self, step: jax.Array) -> dict[str, jax.Array]:
        """What the network is called with in this step besides images and randomness."""
        # Short trainings within a search may count more steps than the training has.
        return {"progress": jnp.minimum(step.astype(jnp.float32) / self._steps, 1.0)} if self._progress else {}

    def before_step(self, params: Tree, stats: Tree, step: jax.Array) -> Tree:
        """Return `stats`, everything of the network but its parameters, as this step is to find it."""
        if not self._changes:
            return stats
        network: Any = nnx.merge(self._graph, params, stats)
        network.before_step(step, self._steps)
        _, _, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        return nnx.to_pure_dict(rest)

    def penalised(self, loss: jax.Array, params: Tree, stats: Tree, step: jax.Array) -> jax.Array:
        """Return the loss with what the network adds to it."""
        if not self._penalised:
            return loss
        network: Any = nnx.merge(self._graph, params, stats)
        penalty: jax.Array = network.penalty(step, self._steps)
        return loss + penalty
