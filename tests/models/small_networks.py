"""What the tests of single architectures share: a network from its options, its structure, and its logits."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcomp.models import registry


def small(name: str) -> dict[str, Any]:
    """The reduced network that `name`'s file gives for tests; where it gives no input, the published one if that is small."""
    published: Any = registry.config_of({"name": name})
    shape = published.input_shape if published.input_shape[0] <= 32 else (32, 32, 3)
    return {"input_shape": shape, "num_classes": 10, **registry.small(name)}


def default_widths(model: dict[str, Any]) -> tuple[int, ...]:
    """The widths that the other options of `model` stand for."""
    widths = registry.default_widths(model)
    assert widths is not None
    return widths


def network(model: dict[str, Any], seed: int = 0) -> nnx.Module:
    """Build `model` in evaluation mode, as its own options say."""
    config: Any = registry.config_of(model)
    built = registry.build(model, config.input_shape, config.num_classes, nnx.Rngs(params=jax.random.key(seed)))
    built.eval()
    return built


def structure(model: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and batch statistic, by its path; nothing is allocated."""
    state = nnx.state(nnx.eval_shape(lambda: network(model)))
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def trainable(model: dict[str, Any]) -> int:
    """How many numbers training changes, from the structure alone."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(nnx.eval_shape(lambda: network(model)), nnx.Param)))


def check_training(model: dict[str, Any]) -> None:
    """In training mode and as bfloat16 in evaluation mode: logits of the right shape and dtype, nothing computed."""
    config: Any = registry.config_of(model)

    def forward(x: jax.Array) -> jax.Array:
        built = network(model)
        if x.dtype == jnp.float32:
            built.train()
        graph, state = nnx.split(built)
        state = jax.tree.map(lambda leaf: leaf.astype(x.dtype) if leaf.dtype == jnp.float32 else leaf, state)
        logits: jax.Array = nnx.merge(graph, state)(x, rngs=nnx.Rngs(dropout=0))
        return logits

    for dtype in (jnp.float32, jnp.bfloat16):
        logits = jax.eval_shape(forward, jax.ShapeDtypeStruct((2, *config.input_shape), dtype))
        assert (logits.shape, logits.dtype) == ((2, config.num_classes), dtype)


def check_dropout(model: dict[str, Any]) -> None:
    """Dropout before the logits acts in training mode only."""
    config: Any = registry.config_of(model)
    built = network({**model, "dropout": 0.5})
    x = jax.random.normal(jax.random.key(0), (2, *config.input_shape))
    np.testing.assert_array_equal(built(x), built(x))
    built.train()
    assert not np.allclose(*[built(x, rngs=nnx.Rngs(dropout=seed)) for seed in (0, 1)])


def check_widths(model: dict[str, Any]) -> None:
    """Widths given one by one build the same network, and narrower ones a smaller one."""
    widths = default_widths(model)
    assert structure({**model, "widths": widths}) == structure(model)
    assert default_widths({**model, "widths": widths}) == widths


def check_forward(model: dict[str, Any]) -> None:
    """Logits of the right shape in float32 and bfloat16, which agree."""
    config: Any = registry.config_of(model)
    x = jax.random.normal(jax.random.key(1), (2, *config.input_shape))
    graph, state = nnx.split(network(model))
    wanted = jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, x)
    assert (wanted.shape, wanted.dtype) == ((2, config.num_classes), jnp.float32)
    assert np.ptp(wanted) > 0
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf, state)
    got = jax.jit(lambda s, x: nnx.merge(graph, s)(x))(half, x.astype(jnp.bfloat16))
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=0.1 * float(np.ptp(wanted)))
