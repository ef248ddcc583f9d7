"""What every architecture in the folder keeps, in its reduced form; `test_contract_export.py` has what its files keep."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.checkpoint.models import save_models
from flaxcomp.data import catalog
from flaxcomp.errors import UserError
from flaxcomp.models import layers, registry
from flaxcomp.models.counting import count
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.train.restore import load_model
from small_networks import network, small, trainable
from traced import kernel_gradients

NAMES = registry.names()
ODD_SIZES = ((1, 2), (13, 7), (81, 77))  # nothing divides them; the last is as large as the most demanding net needs
WIDENED = ("width", "width_multiplier", "widen_factor", "growth_rate", "filters")  # options to double
DEEPENED = {"depth": 6, "blocks": 3, "cells": 1}  # options, and what makes the next larger value


def split(built: nnx.Module) -> tuple[Any, Any, Any]:
    graph, *states = nnx.split(built, nnx.Param, ...)  # type: ignore[misc]
    params, rest = (nnx.to_pure_dict(state) for state in states)
    return graph, params, rest


@functools.cache
def evaluated(name: str) -> tuple[Any, Any, Any]:
    """Graph, parameters and the rest of the reduced network in eval mode."""
    return split(network(small(name)))


def refusal(call: Callable[[], Any]) -> str:
    """What a user is told whose model is impossible; "" where it is not."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def images(name: str, n: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (n, *small(name)["input_shape"]))


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_logits_for_any_batch_and_dtype(name: str) -> None:
    built = nnx.eval_shape(lambda: network(small(name)))
    for batch, dtype in ((1, jnp.float32), (3, jnp.float32), (2, jnp.bfloat16)):
        graph, state = nnx.split(built)
        state = jax.tree.map(lambda a, d=dtype: jax.ShapeDtypeStruct(a.shape, d if a.dtype == jnp.float32 else a.dtype), state)
        image = jax.ShapeDtypeStruct((batch, *small(name)["input_shape"]), dtype)
        out = jax.eval_shape(lambda s, x, g=graph: nnx.merge(g, s)(x), state, image)
        assert (out.shape, out.dtype) == ((batch, small(name)["num_classes"]), dtype)


@pytest.mark.parametrize("name", NAMES)
def test_odd_sizes_give_logits_or_a_clear_error(name: str) -> None:
    for height, width in ODD_SIZES:
        model = {**small(name), "input_shape": (height, width, 2)}

        def logits(model: dict[str, Any] = model) -> jax.Array:
            out: jax.Array = network(model)(jnp.zeros((3, *model["input_shape"])))  # type: ignore[operator]
            return out

        if told := refusal(lambda logits=logits: nnx.eval_shape(logits)):  # type: ignore[misc]
            assert name.startswith(told[: re.search(r"\W", told).start()])  # type: ignore[union-attr]
            assert "must be" in told
            assert f"{height}x{width}" in told
        else:
            assert nnx.eval_shape(logits).shape == (3, small(name)["num_classes"])


@pytest.mark.parametrize("name", NAMES)
def test_canonical_form_of_the_published_net_is_its_name(name: str) -> None:
    assert registry.canonical({"name": name}) == {"name": name}


@pytest.mark.parametrize("name", NAMES)
def test_widths_given_one_by_one_are_the_same_net(name: str) -> None:
    model = small(name)
    widths = registry.default_widths(model)
    assert widths is not None, "default_widths is missing"
    shape, classes = model["input_shape"], model["num_classes"]
    assert count(model, shape, classes) == count({**model, "widths": list(widths)}, shape, classes)
    doubled = tuple(2 * width for width in widths)
    assert registry.default_widths({**model, "widths": doubled}) == doubled
    if name.startswith("simplenet"):
        return  # how many widths it has is its depth
    with pytest.raises(UserError, match=r"model\.widths of"):
        registry.config_of({**model, "widths": [*widths, 8]})


@pytest.mark.parametrize("name", NAMES)
def test_parameters_grow_with_width_and_depth(name: str) -> None:
    model, config = small(name), registry.config_of(small(name))
    size = trainable(model)
    widths = registry.default_widths(model) or ()
    assert trainable({**model, "widths": [2 * width for width in widths]}) > size
    for option in (*WIDENED, *DEEPENED):
        value = getattr(config, option, 1)
        larger = {**model, option: value + DEEPENED[option] if option in DEEPENED else 2 * value}
        if told := refusal(lambda larger=larger: registry.config_of(larger)):  # type: ignore[misc]
            assert "no such option" in told or "has it, got" in told
        else:
            assert trainable(larger) > size, option


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    _, params, _ = evaluated(name)
    assert_same(split(network(small(name)))[1], params)
    _, other, _ = split(network(small(name), seed=1))
    assert not np.allclose(other["logits"]["kernel"], params["logits"]["kernel"])


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_changes_nothing_and_compiles_once(name: str) -> None:
    graph, params, rest = evaluated(name)

    @jax.jit
    def forward(params: Any, rest: Any, x: jax.Array) -> Any:
        built = nnx.merge(graph, params, rest)
        return built(x), split(built)[1:]

    x = images(name, 3)
    logits, state = forward(params, rest, x)
    assert_same(state, (params, rest))
    assert np.ptp(logits) > 0
    again, _ = forward(*state, x)
    np.testing.assert_array_equal(again, logits)
    reordered, _ = forward(params, rest, x[::-1])
    np.testing.assert_allclose(reordered[::-1], logits, atol=1e-5 * np.abs(logits).max())  # images do not see each other
    assert forward._cache_size() == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_gives_the_network_back(name: str, tmp_path: Path) -> None:
    model = registry.shipped(small(name))
    built = network(model)
    built.eval()
    graph, params, rest = split(built)
    folder = tmp_path / "model"
    save_models({folder: {"params": params, "stats": rest}})
    config = TrialConfig(dataset=Dataset(name="mnist_sample"), model=model)
    restored = load_model(folder, config, catalog.info("mnist_sample"))
    restored_graph, *state = split(restored)
    assert_same(tuple(state), (params, rest))
    assert restored_graph == graph


def loss_of(graph: Any, params: Any, rest: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
    """Cross-entropy, and what else of the network's state came out changed."""
    built = nnx.merge(graph, params, rest)
    out = built(x, rngs=nnx.Rngs(dropout=0))
    logits = out[0] if isinstance(out, tuple) else out
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), split(built)[2]


@pytest.mark.parametrize("name", NAMES)
def test_the_fast_forms_have_the_same_loss_and_gradient(name: str) -> None:
    """In eval mode: batch norm over a few images would magnify the last digits of either."""
    graph, params, rest = evaluated(name)
    x, y = images(name, 2), jnp.arange(2)

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
def test_the_fast_forms_have_no_kernel_gradient_of_the_library(name: str) -> None:
    """Inside the loop over steps it runs on one thread on CPU, ten times slower and more."""
    graph, params, rest = evaluated(name)
    x, y = images(name, 2), jnp.arange(2)
    with layers.fast_forms():
        traced = jax.make_jaxpr(jax.grad(lambda p: loss_of(graph, p, rest, x, y)[0]))(params)
    assert kernel_gradients(traced.jaxpr) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_lower_the_loss_and_compile_once(name: str) -> None:
    built = nnx.merge(*evaluated(name))
    built.train()
    graph, params, rest = split(built)
    x, y = images(name, 4), jnp.arange(4)

    @jax.jit
    def step(params: Any, rest: Any) -> Any:
        (value, after), gradient = jax.value_and_grad(lambda p: loss_of(graph, p, rest, x, y), has_aux=True)(params)
        return value, jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), after

    first, *state = step(params, rest)
    for _ in range(12):
        last, *state = step(*state)
    assert last < first
    assert step._cache_size() == 1
