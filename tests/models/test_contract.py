"""What every architecture in the folder keeps, in its reduced form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.models import layers, registry
from flaxcomp.models.counting import count

NAMES = registry.names()
CLASSES = 7


def small(name: str) -> dict[str, Any]:
    """The reduced form for CLASSES classes; its image shape stands in SMALL, else in the published default if that is small."""
    return {**registry.small(name), "num_classes": CLASSES}


def shape_of(model: dict[str, Any]) -> tuple[int, int, int]:
    published = tuple(registry.config_of({"name": model["name"]}).input_shape)  # type: ignore[attr-defined]
    given = tuple(model.get("input_shape", published if published[0] <= 32 else (32, 32, 3)))
    return (given[0], given[1], given[2])


def build(model: dict[str, Any], seed: int = 0) -> nnx.Module:
    return registry.build(model, shape_of(model), CLASSES, nnx.Rngs(params=jax.random.key(seed)))


@pytest.mark.parametrize("name", NAMES)
def test_logits_for_any_batch_and_dtype(name: str) -> None:
    model = small(name)
    network = nnx.eval_shape(lambda: build(model))
    network.eval()
    for batch, dtype in ((1, jnp.float32), (3, jnp.float32), (2, jnp.bfloat16)):
        graph, state = nnx.split(network)
        state = jax.tree.map(lambda a, d=dtype: jax.ShapeDtypeStruct(a.shape, d if a.dtype == jnp.float32 else a.dtype), state)
        image = jax.ShapeDtypeStruct((batch, *shape_of(model)), dtype)
        out = jax.eval_shape(lambda s, x, g=graph: nnx.merge(g, s)(x), state, image)
        assert (out.shape, out.dtype) == ((batch, CLASSES), dtype)


@pytest.mark.parametrize("name", NAMES)
def test_canonical_form_of_the_published_net_is_its_name(name: str) -> None:
    assert registry.canonical({"name": name}) == {"name": name}


@pytest.mark.parametrize("name", NAMES)
def test_widths_given_one_by_one_are_the_same_net(name: str) -> None:
    model = small(name)
    widths = registry.default_widths(model)
    if widths is None:
        assert name.startswith("simplenet"), "default_widths is missing"
        return
    plain, explicit = (count(m, shape_of(model), CLASSES) for m in (model, {**model, "widths": list(widths)}))
    assert plain == explicit


def split(network: nnx.Module) -> tuple[Any, Any, Any]:
    graph, *states = nnx.split(network, nnx.Param, ...)
    params, rest = (nnx.to_pure_dict(state) for state in states)
    return graph, params, rest


def loss_of(graph: Any, params: Any, rest: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
    """Cross-entropy, and what else of the network's state came out changed."""
    network = nnx.merge(graph, params, rest)
    out = network(x, rngs=nnx.Rngs(dropout=0))
    logits = out[0] if isinstance(out, tuple) else out
    _, _, after = nnx.split(network, nnx.Param, ...)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), nnx.to_pure_dict(after)


@pytest.mark.parametrize("name", NAMES)
def test_the_fast_forms_have_the_same_loss_and_gradient(name: str) -> None:
    """In eval mode: batch norm over a few images would magnify the last digits of either."""
    model = small(name)
    network = build(model)
    network.eval()
    graph, params, rest = split(network)
    x, y = jax.random.uniform(jax.random.key(1), (2, *shape_of(model))), jnp.arange(2)

    def value_and_gradient(params: Any) -> Any:
        return jax.value_and_grad(lambda p: loss_of(graph, p, rest, x, y)[0])(params)

    value, gradient = jax.jit(lambda p: value_and_gradient(p))(params)
    with layers.fast_forms():
        fast_value, fast_gradient = jax.jit(lambda p: value_and_gradient(p))(params)
    np.testing.assert_allclose(fast_value, value, rtol=1e-4)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    assert largest > 0
    for one, other in zip(jax.tree.leaves(fast_gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 * largest)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    model = small(name)
    network = build(model)
    network.train()
    graph, params, rest = split(network)
    x, y = jax.random.uniform(jax.random.key(1), (4, *shape_of(model))), jnp.arange(4)

    @jax.jit
    def step(params: Any, rest: Any) -> Any:
        (value, after), gradient = jax.value_and_grad(lambda p: loss_of(graph, p, rest, x, y), has_aux=True)(params)
        return value, jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), after

    first, *state = step(params, rest)
    for _ in range(12):
        last, *state = step(*state)
    assert last < first
