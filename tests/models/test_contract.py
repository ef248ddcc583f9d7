"""What every architecture in the folder keeps, in its reduced form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.models import layers, registry
from flaxcomp.models.counting import count
from flaxcomp.sweep.spec import Optimizer
from flaxcomp.train.optimizers import Hyper, make_optimizer

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


@pytest.mark.parametrize("name", NAMES)
def test_trains_the_same_in_the_fast_forms(name: str) -> None:
    """One step in training mode, every form: the same loss and the same update; and a few steps lower the loss."""
    model = small(name)
    shape = shape_of(model)
    network = build(model)
    network.train()
    graph, *states = nnx.split(network, nnx.Param, ...)
    params, rest = (nnx.to_pure_dict(state) for state in states)
    x, y = jax.random.uniform(jax.random.key(1), (4, *shape)), jnp.arange(4) % CLASSES
    values = {
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "momentum": 0.9,
        "beta1": 0.9,
        "beta2": 0.999,
        "decay": 0.9,
        "epsilon": 1e-8,
    }
    hyper: Hyper = {key: jnp.float32(value) for key, value in values.items()}
    optimizer = make_optimizer(Optimizer(name="sgd"), hyper)

    def step(params: Any, rest: Any, opt: Any) -> Any:
        def loss(params: Any) -> Any:
            merged = nnx.merge(graph, params, rest)
            out = merged(x, rngs=nnx.Rngs(dropout=0))
            logits = out[0] if isinstance(out, tuple) else out
            _, _, after = nnx.split(merged, nnx.Param, ...)
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
            return -picked.mean(), nnx.to_pure_dict(after)

        (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        update, opt = optimizer.update(gradient, opt, params)
        return value, jax.tree.map(lambda p, u: p - 0.01 * u, params, update), after, opt

    opt = optimizer.init(params)
    plain = jax.jit(lambda *a: step(*a))
    value, updated, _, _ = plain(params, rest, opt)
    with layers.fast_forms():
        fast_value, fast_updated, _, _ = jax.jit(lambda *a: step(*a))(params, rest, opt)
    np.testing.assert_allclose(fast_value, value, rtol=2e-3)  # batch norm over four images magnifies the last digits
    for one, other, before in zip(*map(jax.tree.leaves, (fast_updated, updated, params)), strict=True):
        step_size = np.abs(other - before).max()
        np.testing.assert_allclose(one, other, atol=2e-4 + 0.03 * step_size)
    first, state = value, (params, rest, opt)
    for _ in range(8):
        last, *state = plain(*state)
    assert last < first
