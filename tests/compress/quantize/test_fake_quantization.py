"""Networks that round: what their weights and ranges are, when ranges move, and what passes through in a gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.compress.quantize import fake
from flaxcomp.compress.quantize.fake import Range, fake_quantized, with_ranges
from flaxcomp.models import registry
from flaxcomp.models.abstract import abstract
from flaxcomp.models.layers import Conv, ConvBN, Dense, global_avg_pool
from traced import kernel_gradients

SHAPE, SIX = (4, 4, 2), (6, 6, 4)


class Small(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = ConvBN(2, 4, 3, rngs=rngs)
        self.logits = Dense(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.logits(global_avg_pool(self.conv(x)).reshape(x.shape[0], -1))


def small() -> Small:
    return Small(nnx.Rngs(params=jax.random.key(0)))


def rounding(network: nnx.Module, shape: tuple[int, int, int] = SHAPE, *, per_channel: bool = True) -> nnx.Module:
    """With all its ranges unset."""
    graph, _, stats = nnx.split(fake_quantized(nnx.eval_shape(lambda: network), shape, per_channel=per_channel), nnx.Param, ...)
    _, params, own = nnx.split(network, nnx.Param, ...)
    given = nnx.traversals.flatten_mapping(nnx.to_pure_dict(own))
    every = nnx.traversals.flatten_mapping(nnx.to_pure_dict(stats))
    filled = {path: given.get(path, jnp.zeros(leaf.shape, leaf.dtype)) for path, leaf in every.items()}
    merged: nnx.Module = nnx.merge(graph, nnx.to_pure_dict(params), nnx.traversals.unflatten_mapping(filled))
    return merged


def ranges(network: nnx.Module) -> dict[str, np.ndarray[Any, Any]]:
    flat = nnx.traversals.flatten_mapping(nnx.to_pure_dict(nnx.state(network, Range)))
    return {"/".join(map(str, path)): np.asarray(leaf).ravel() for path, leaf in flat.items()}


@nnx.jit
def call(network: Any, x: jax.Array) -> jax.Array:
    logits: jax.Array = network(x)
    return logits


def images(n: int, high: float = 1.0) -> jax.Array:
    return high * jax.random.uniform(jax.random.key(n), (n, *SHAPE))


def test_every_activation_has_a_range_and_they_begin_unset() -> None:
    found = ranges(rounding(small()))
    assert sorted(found) == ["avg_pool0", "conv/conv/conv_general_dilated0_lhs", "final_output0"]  # pooling keeps its scale
    assert all((its == 0).all() and its.shape == (3,) for its in found.values())


def test_ranges_are_the_mean_of_batches_and_then_forget() -> None:
    network = rounding(small())
    network.train()
    place = "conv/conv/conv_general_dilated0_lhs"
    high = [float(x.max()) for x in (images(8), images(9, high=3.0))]
    for x in (images(8), images(9, high=3.0)):
        call(network, x)
    np.testing.assert_allclose(ranges(network)[place], [2, 0, np.mean(high)], rtol=1e-5)  # zero is in every range
    seen = getattr(network.conv.conv, "conv_general_dilated0_lhs")  # noqa: B009
    seen[...] = jnp.asarray([1000.0, 0.0, 1.0]).reshape(seen.shape)
    call(network, images(9, high=3.0))
    np.testing.assert_allclose(ranges(network)[place], [1001, 0, 1 + 0.01 * (high[1] - 1)], rtol=1e-4)


def test_evaluation_moves_neither_ranges_nor_batch_statistics() -> None:
    network = rounding(small())
    network.train()
    call(network, images(8))
    network.eval()
    before = jax.device_get(nnx.to_pure_dict(nnx.state(network)))
    logits = call(network, images(6, high=9.0))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.device_get(nnx.to_pure_dict(nnx.state(network)))))
    network.train()
    call(network, images(6, high=9.0))
    assert ranges(network)["final_output0"][0] == 2
    assert np.isfinite(logits).all()


def test_before_any_training_the_ranges_are_those_of_the_images_at_hand() -> None:
    network, plain = rounding(small()), small()
    plain.eval()
    wanted = call(plain, images(8))
    np.testing.assert_allclose(call(network, images(8)), wanted, atol=0.03 * float(jnp.ptp(wanted)))


def test_outputs_lie_on_a_grid_of_256_steps() -> None:
    network = rounding(small())
    network.train()
    call(network, images(64))
    network.eval()
    low, high = ranges(network)["final_output0"][1:]
    step = (max(high, 0) - min(low, 0)) / 255
    steps = np.asarray(call(network, images(64))) / step
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-2)
    assert len(np.unique(np.round(steps))) > 20


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_have_a_scale_per_channel_or_one(per_channel: bool) -> None:
    """A channel whose weights are a thousand times smaller keeps them only with a scale of its own; it alone is seen here."""
    network = small()
    network.conv.conv.kernel[...] = network.conv.conv.kernel[...] * jnp.asarray([1e-3, 1.0, 1.0, 1.0])
    network.logits.kernel[...] = network.logits.kernel[...] * jnp.asarray([[1.0], [0.0], [0.0], [0.0]])
    rounded = rounding(network, per_channel=per_channel)
    rounded.train()  # batch norm makes the channel as large as the others
    assert bool(jnp.ptp(call(rounded, images(8)), axis=0).max() > 0) == per_channel


def test_a_gradient_passes_through_the_rounding() -> None:
    network, plain = rounding(small()), small()
    network.train()
    call(network, images(64))
    network.eval()
    plain.eval()

    def loss(network: Any, x: jax.Array) -> jax.Array:
        return (network(x)[:, 0] ** 2).sum()

    ours, theirs = (nnx.to_pure_dict(nnx.jit(nnx.grad(loss))(net, images(64))) for net in (network, plain))
    for name in ("logits", "conv"):
        a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads[name])]) for grads in (ours, theirs))
        assert np.corrcoef(a, b)[0, 1] > 0.98, name


def test_ranges_are_put_back() -> None:
    network = rounding(small())
    network.train()
    call(network, images(8))
    network.eval()
    plain = small()
    nnx.update(plain, nnx.state(network, nnx.BatchStat))
    kept = nnx.to_pure_dict(nnx.state(network, Range))
    again = with_ranges(plain, jax.device_get(kept), SHAPE)
    np.testing.assert_array_equal(call(again, images(5)), call(network, images(5)))


@pytest.mark.parametrize("name", ["wide_resnet", "simplenet_v5"])
def test_architectures_can_be_followed(name: str) -> None:
    """A structure that is the same in training and in evaluation, as a compiled loop needs it."""
    shape = (16, 16, 3)
    network = fake_quantized(abstract(registry.small(name), shape, 10), shape)
    before = jax.tree.structure(nnx.to_pure_dict(nnx.state(network)))
    network.train()

    def step(network: Any) -> Any:
        network(jnp.zeros((2, *shape)), rngs=nnx.Rngs(dropout=0))
        return network

    assert jax.tree.structure(nnx.to_pure_dict(nnx.state(nnx.eval_shape(step, network)))) == before
    assert len(jax.tree.leaves(nnx.to_pure_dict(nnx.state(network, Range)))) >= 4


def gradient_of(network: nnx.Module, x: jax.Array) -> tuple[Any, Any]:
    """The traced program of the gradient while training, and the gradient: of the parameters, with the value before it."""
    network.train()
    graph, *states = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    params, rest = (nnx.to_pure_dict(state) for state in states)

    def loss(params: Any) -> jax.Array:
        return (nnx.merge(graph, params, rest)(x, rngs=nnx.Rngs(dropout=0)) ** 2).sum()  # type: ignore[operator,no-any-return]

    def value_and_gradient(params: Any) -> Any:
        return jax.value_and_grad(loss)(params)

    return jax.make_jaxpr(value_and_gradient)(params), lambda: jax.jit(value_and_gradient)(params)


@pytest.mark.parametrize("name", ["mobilenet_v2", "simplenet_v5"])
def test_the_library_computes_no_kernel_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the loop over steps it runs on one thread on CPU, ten times slower and more."""
    shape = (16, 16, 3)
    built = registry.build(registry.small(name), shape, 10, nnx.Rngs(params=jax.random.key(0)))
    x = jnp.zeros((4, *shape))
    assert kernel_gradients(gradient_of(rounding(built, shape), x)[0].jaxpr) == []
    if name == "simplenet_v5":  # it has some without the forms
        monkeypatch.setattr(fake, "conv_form", lambda *_: None)
        assert kernel_gradients(gradient_of(rounding(built, shape), x)[0].jaxpr)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_the_form_of_a_convolution_changes_nothing(groups: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One convolution: behind a second one, a last bit's difference may round to the next step."""

    class One(nnx.Module):
        def __init__(self) -> None:
            self.conv = Conv(4, 8, (size, size), feature_group_count=groups, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
            return self.conv(x)

    x = jax.random.uniform(jax.random.key(1), (4, *SIX))
    value, fast = gradient_of(rounding(One(), SIX), x)[1]()
    monkeypatch.setattr(fake, "conv_form", lambda *_: None)
    plain_value, plain = gradient_of(rounding(One(), SIX), x)[1]()
    np.testing.assert_allclose(value, plain_value, rtol=1e-3)
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 * float(jnp.abs(other).max()))
