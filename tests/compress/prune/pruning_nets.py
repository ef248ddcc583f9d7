"""What the tests of pruning share: networks with weights that hide nothing, and how two of them differ."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcomp.compress.prune.coupling import Coupling, evaluated
from flaxcomp.compress.prune.follow import flat
from flaxcomp.models import registry


def reduced(name: str) -> dict[str, Any]:
    """The small form that an architecture's file gives, with its input and classes."""
    published: Any = registry.config_of({"name": name})
    shape = published.input_shape if published.input_shape[0] <= 32 else (32, 32, 3)
    return {"input_shape": shape, "num_classes": 10, **registry.small(name)}


def filled(network: nnx.Module, seed: int = 0) -> nnx.Module:
    """A network of shapes with random numbers: kernels keep the signal's size, scales, biases, means, variances are far
    from 0 and 1, so that a channel that should be gone shows."""
    rng = np.random.default_rng(seed)
    graph, state = nnx.split(network)
    pure = nnx.to_pure_dict(state)

    def numbers(path: str, leaf: Any) -> jax.Array:
        if path.endswith("mask"):
            values = rng.random(leaf.shape) > 0.2
        elif len(leaf.shape) > 1:
            values = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif path.endswith(("bias", "mean")):
            values = rng.normal(size=leaf.shape) / 2
        else:
            values = rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    leaves = [numbers(path, leaf) for path, leaf in flat(pure)]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(pure), leaves))


def network_of(coupling: Coupling) -> nnx.Module:
    """The coupling's model, filled."""
    return filled(evaluated(coupling.model, coupling.input_shape, coupling.num_classes))


def logits(network: nnx.Module, shape: tuple[int, int, int]) -> np.ndarray:
    """Of two random images."""
    graph, state = nnx.split(network)
    x = jax.random.normal(jax.random.key(1), (2, *shape))
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, x))


def random_keep(coupling: Coupling, seed: int, share: float = 0.7) -> dict[str, np.ndarray]:
    """Of every free group some channels: one at least, and not all unless there is but one."""
    rng = np.random.default_rng(seed)
    keep = {group.name: rng.random(group.size) < share for group in coupling.free}
    for kept in keep.values():
        kept[0] |= not kept.any()
        kept[-1] &= not kept.all() or kept.size == 1
    return keep


def random_scores(coupling: Coupling, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {group.name: rng.random(group.size) for group in coupling.free}


def assert_close(one: np.ndarray, other: np.ndarray) -> None:
    """Within 1e-5 of the largest logit, which is not small itself."""
    assert one.shape == other.shape
    largest = np.abs(one).max()
    assert largest > 1e-3
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * largest)
