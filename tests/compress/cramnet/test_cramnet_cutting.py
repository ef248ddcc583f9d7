"""Programs cut in two: together they compute what the whole does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.compress.cramnet.cutting import Line
from flaxcomp.compress.cramnet.inputs import collect, precision
from flaxcomp.compress.cramnet.training import Lessons, Training
from flaxcomp.compress.prune.coupling import evaluated
from flaxcomp.models import registry
from flaxcomp.sweep.spec import Optimizer

Params = dict[str, jax.Array]


def forward(params: Params, x: jax.Array) -> jax.Array:
    """Two layers, a skip around the third, and a fourth."""
    x = jax.nn.relu(x @ params["a"])
    x = x @ params["b"]
    x = x + jax.nn.relu(x @ params["c"])
    return x @ (2 * params["d"])


SIZES = {"a": (6, 4), "b": (4, 3), "c": (3, 3), "d": (3, 2)}
PARAMS = {name: jax.random.normal(jax.random.key(i), size) for i, (name, size) in enumerate(SIZES.items())}
X = jax.random.normal(jax.random.key(9), (5, 6))
LINE = Line.of(jax.make_jaxpr(forward)(PARAMS, X), list(SIZES))


def test_parts_are_between_places_where_one_value_passes() -> None:
    assert LINE.parts() == {"a": {0}, "b": {1}, "c": {2}, "d": {3}}


@pytest.mark.parametrize(
    ("late", "passing"), [("a", [6]), ("b", [4, 6]), ("c", [3, 4, 6]), ("d", [3, 3, 4, 6]), ("bd", [4, 6])]
)
def test_both_parts_together_are_the_whole(late: str, passing: list[int]) -> None:
    cuts = LINE.cuts(frozenset(late))
    assert [[shape.shape for shape in cut.passing] for cut in cuts] == [[(5, size)] for size in passing]
    assert [cut.is_trivial for cut in cuts] == [False] * (len(passing) - 1) + [True]
    leaves = jax.tree.leaves(PARAMS)
    for cut in cuts:
        given = cut.early()(*leaves, X)
        np.testing.assert_array_equal(cut.late()(*leaves, *given)[0], forward(PARAMS, X))


def test_gradients_flow_through_the_second_part() -> None:
    cut = LINE.cuts(frozenset("c"))[0]
    leaves = jax.tree.leaves(PARAMS)
    given = cut.early()(*leaves, X)

    def late(c: jax.Array) -> jax.Array:
        return cut.late()(*jax.tree.leaves({**PARAMS, "c": c}), *given)[0].sum()

    expected = jax.grad(lambda c: forward({**PARAMS, "c": c}, X).sum())(PARAMS["c"])
    np.testing.assert_allclose(jax.grad(late)(PARAMS["c"]), expected, rtol=1e-6)


def test_the_kept_type_is_the_first_that_fits() -> None:
    shapes = [jax.ShapeDtypeStruct((8, 10), jnp.float32), jax.ShapeDtypeStruct((8, 2, 3), jnp.float32)]
    assert [precision(shapes, 100, limit) for limit in (6400, 6399, 3200, 3199)] == [
        jnp.float32, jnp.float16, jnp.float16, None,
    ]  # fmt: skip


def test_collecting_in_batches_covers_all_and_refuses_what_the_type_cannot_hold() -> None:
    values = jnp.linspace(0, 7e4, 11).reshape(11, 1)
    shapes = [jax.ShapeDtypeStruct((4, 1), jnp.float32)]
    kept = collect(lambda places: [values[places]], shapes, 11, jnp.float32)
    assert kept is not None
    np.testing.assert_array_equal(kept[0], values)
    assert collect(lambda places: [values[places]], shapes, 11, jnp.float16) is None


MODEL: dict[str, Any] = {"name": "keras_cifar", "widths": [3, 4, 5, 6, 7]}
SHAPE = (12, 12, 1)


def lessons(n: int = 10) -> Lessons:
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.integers(0, 255, (n + 3, *SHAPE)), jnp.uint8)
    index = jnp.asarray(np.sort(draw.permutation(n + 3)[:n]), jnp.int32)
    labels = jnp.asarray(draw.integers(0, 10, n), jnp.int32)
    logits = jnp.asarray(draw.normal(size=(n, 10)), jnp.float32)
    return Lessons(images, index, labels, logits, lambda x: x.astype(jnp.float32) / 255)


def weights() -> tuple[Any, Any]:
    built = registry.build(MODEL, SHAPE, 10, nnx.Rngs(params=0))
    _, params, rest = nnx.split(built, nnx.Param, ...)  # type: ignore[misc]
    return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def training(around: set[str], limit: int) -> Training:
    optimizer = Optimizer(name="rmsprop", learning_rate=1e-2)
    return Training(evaluated(MODEL, SHAPE, 10), around, lessons(), 4, optimizer, limit)


def test_kept_inputs_are_those_computed_anew() -> None:
    """As float32 exactly, as float16 to 0.1 %; in the order of the images that are trained on. Where those of the layer do not
    fit, those of an earlier one, and in the end the images."""
    around = {"convolutions/3", "hidden"}
    params, rest = weights()
    whole, half, other, none = (training(around, limit) for limit in (10**6, 4999, 2499, 100))
    kept = whole.inputs(params, rest)
    assert (kept.stored_as, kept.bytes) == ("float32", 4 * 5 * 5 * 10 * 5)
    arrays = [*jax.tree.leaves(params), *jax.tree.leaves(rest)]
    seen = whole.lessons.normalise(whole.lessons.images[whole.lessons.index[3:7]])
    (fresh,) = whole.cut.early()(*arrays, seen)
    assert kept.kept is not None
    np.testing.assert_array_equal(kept.kept[0][3:7], fresh)
    halved = half.inputs(params, rest)
    assert (halved.stored_as, halved.kept[0].dtype) == ("float16", jnp.float16)  # type: ignore[index]
    np.testing.assert_allclose(halved.kept[0][3:7], fresh, rtol=1e-3, atol=1e-6)  # type: ignore[index]
    earlier = other.inputs(params, rest)
    assert (earlier.stored_as, earlier.bytes) == ("float16", 2 * 5 * 5 * 10 * 4)
    assert none.inputs(params, rest).stored_as == "uint8"
    results = []
    for each in (whole, none):
        state = each.begin(params, rest)
        order = each.order(jax.random.key(0))
        after = each.run(state, params, each.inputs(params, rest), order, each.steps_per_epoch, lambda: False)
        assert after is not None
        results.append(each.result(after, params)[0])
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_images_are_reused_as_they_are() -> None:
    first = training({"convolutions/0", "convolutions/1"}, 10**6)
    assert first.cut.is_trivial
    assert first.inputs(*weights()).stored_as == "uint8"


def test_a_step_is_rmsprop_on_the_layers_around_alone() -> None:
    """Against the loss and its gradient of the whole network, computed without a cut."""
    import optax

    one = training({"hidden", "logits"}, 10**6)
    params, rest = weights()
    order = one.order(jax.random.key(1))
    after = one.run(one.begin(params, rest), params, one.inputs(params, rest), order, 1, lambda: False)
    assert after is not None
    trained, _ = one.result(after, params)
    network = evaluated(MODEL, SHAPE, 10)
    graph = nnx.graphdef(network)
    of = one.lessons
    x = of.normalise(of.images[of.index[order[:4]]])

    def value(params: Any) -> jax.Array:
        q = nnx.merge(graph, params, rest)(x)
        cross = optax.softmax_cross_entropy_with_integer_labels(q, of.labels[order[:4]])
        return (((q - of.logits[order[:4]]) ** 2).mean(-1) + cross).mean()

    expected, gradient = jax.value_and_grad(value)(params)
    np.testing.assert_allclose(after["loss_sum"], expected, rtol=1e-5)
    for layer in ("hidden", "logits"):
        for leaf in ("kernel", "bias"):
            g = gradient[layer][leaf]
            step = params[layer][leaf] - 1e-2 * g / jnp.sqrt(0.1 * g**2 + 1e-8)
            np.testing.assert_allclose(trained[layer][leaf], step, atol=1e-5)
    for one_leaf, other in zip(*(jax.tree.leaves(p["convolutions"]) for p in (params, trained)), strict=True):
        np.testing.assert_array_equal(one_leaf, other)
