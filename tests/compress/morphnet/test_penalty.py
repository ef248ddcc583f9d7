"""MorphNet's penalty and its gradient, worked by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.compress.costs import make_cost
from flaxcomp.compress.morphnet.penalty import Resource, magnitudes, scales_of
from flaxcomp.compress.prune.coupling import couple, evaluated
from flaxcomp.compress.prune.groups import couple_network
from flaxcomp.models.counting import products
from flaxcomp.models.layers import BatchNorm, Conv, Dense, flatten, global_avg_pool

SHAPE = (4, 4, 3)
THRESHOLD = 0.01


class Net(nnx.Module):
    """Layers by name, and a function from them and the images to logits."""

    def __init__(self, run: Callable[[Any, jax.Array], jax.Array], **layers: nnx.Module) -> None:
        self.run = run
        self.layers = nnx.Dict(layers)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.run(self.layers, x)


def conv(c_in: int, c_out: int, size: int, groups: int = 1) -> Conv:
    return Conv(c_in, c_out, (size, size), feature_group_count=groups, use_bias=False, rngs=nnx.Rngs(0))


def norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, rngs=nnx.Rngs(0))


def pooled(layers: Any, x: jax.Array) -> jax.Array:
    return layers.logits(flatten(global_avg_pool(x)))


def dense(c_in: int) -> Dense:
    return Dense(c_in, 5, rngs=nnx.Rngs(0))


def chain() -> Net:
    """Costs by the definition: 16 pixels x 9 x 3 x 4 = 1728, 16 x 4 x 2 = 128, 2 x 5 = 10; 1866 together."""
    return Net(lambda n, x: pooled(n, nnx.relu(n.bn_b(n.b(nnx.relu(n.bn_a(n.a(x))))))),
               a=conv(3, 4, 3), bn_a=norm(4), b=conv(4, 2, 1), bn_b=norm(2), logits=dense(2))  # fmt: skip


def residual() -> Net:
    """Costs: 16 x 3 x 2 = 96, 16 x 2 x 2 = 64, 10; 170 together. Both batch norms scale the same two channels."""

    def run(n: Any, x: jax.Array) -> jax.Array:
        x = n.bn_a(n.a(x))
        return pooled(n, x + n.bn_b(n.b(x)))

    return Net(run, a=conv(3, 2, 1), bn_a=norm(2), b=conv(2, 2, 1), bn_b=norm(2), logits=dense(2))


def macs_of(network: nnx.Module) -> dict[str, float]:
    found: dict[str, float] = {}
    for product in products(network, SHAPE):
        assert product.kernel is not None
        found[product.kernel] = found.get(product.kernel, 0) + product.macs
    return found


def penalty_of(network: Net, **gammas: list[float]) -> tuple[Resource, Any, Callable[[Any], jax.Array]]:
    """The resource, the parameters with these scales, and the penalty as a function of them."""
    network.eval()
    grouping = couple_network(network, SHAPE)
    for name, values in gammas.items():
        network.layers[name].scale.set_value(jnp.asarray(values))
    scales, resource = scales_of(grouping), Resource.of(grouping, macs_of(network))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    return resource, params, lambda p: resource.penalty(magnitudes(scales, p), THRESHOLD)


def test_a_chain() -> None:
    """Alive 3 of 4 and 1 of 2. The input and the logits are alive and add nothing.

    a: C = 144 times 3 inputs times 1.701; b: C = 16 times (1.701 x 1 + 3 x 0.3); logits: 0.3 x 5.
    """
    _, params, penalty = penalty_of(chain(), bn_a=[1.0, -0.5, 0.001, 0.2], bn_b=[0.3, 0.0])
    expected = (144 * 3 * 1.701 + 16 * (1.701 * 1 + 3 * 0.3) + 0.3 * 5) / 1866
    assert float(penalty(params)) == pytest.approx(expected, rel=1e-6)


def test_its_gradient() -> None:
    """A channel's share of the cost with its neighbours alive as they are, towards 0; nothing at 0, nothing but scales."""
    _, params, penalty = penalty_of(chain(), bn_a=[1.0, -0.5, 0.001, 0.2], bn_b=[0.3, 0.0])
    gradient = jax.grad(penalty)(params)["layers"]
    each = (144 * 3 + 16 * 1) / 1866
    np.testing.assert_allclose(gradient["bn_a"]["scale"], [each, -each, each, each], rtol=1e-6)
    np.testing.assert_allclose(gradient["bn_b"]["scale"], [(16 * 3 + 5) / 1866, 0], rtol=1e-6)
    others = [gradient["a"]["kernel"], gradient["bn_a"]["bias"], gradient["logits"]["kernel"]]
    assert not any(np.any(leaf) for leaf in others)


def test_the_price_falls_as_neighbours_die() -> None:
    """b's channels cost less when more of a's are gone: the cost is taken anew from what is alive."""
    _, params, penalty = penalty_of(chain(), bn_a=[1.0, 0.0, 0.0, 0.0], bn_b=[0.3, 0.2])
    np.testing.assert_allclose(jax.grad(penalty)(params)["layers"]["bn_b"]["scale"], [(16 + 5) / 1866] * 2, rtol=1e-6)


def test_channels_tied_by_a_skip_count_by_the_largest() -> None:
    """|gamma|: 0.5 and 0.4. a: 16 x 3 x 0.9; b: 16 x (0.9 x 2 + 2 x 0.9); 0.9 x 5."""
    _, params, penalty = penalty_of(residual(), bn_a=[0.2, -0.4], bn_b=[-0.5, 0.005])
    assert float(penalty(params)) == pytest.approx((16 * 3 * 0.9 + 16 * (0.9 * 2 + 2 * 0.9) + 0.9 * 5) / 170, rel=1e-6)
    gradient = jax.grad(penalty)(params)["layers"]
    each = (16 * 3 + 16 * (2 + 2) + 5) / 170
    np.testing.assert_allclose(gradient["bn_a"]["scale"], [0, -each], rtol=1e-6)
    np.testing.assert_allclose(gradient["bn_b"]["scale"], [-each, 0], rtol=1e-6)


def test_a_tied_channel_dies_only_with_all_its_scales() -> None:
    network = residual()
    _, params, penalty = penalty_of(network, bn_a=[0.0, 0.4], bn_b=[0.02, 0.0])
    both = (16 * 3 * 0.42 + 16 * (0.42 * 2 + 2 * 0.42) + 0.42 * 5) / 170
    assert float(penalty(params)) == pytest.approx(both, rel=1e-6)
    params["layers"]["bn_b"]["scale"] = jnp.asarray([0.002, 0.0])
    one = (16 * 3 * 0.402 + 16 * (0.402 * 1 + 1 * 0.402) + 0.402 * 5) / 170
    assert float(penalty(params)) == pytest.approx(one, rel=1e-6)


def test_a_depthwise_layer_is_linear() -> None:
    """Pointwise 16 x 3 x 4 = 192 and depthwise 16 x 9 x 4 = 576, whose channels are the same; 20 for the logits: 788."""
    network = Net(lambda n, x: pooled(n, n.bn_d(n.d(n.bn_a(n.a(x))))),
                  a=conv(3, 4, 1), bn_a=norm(4), d=conv(4, 4, 3, groups=4), bn_d=norm(4), logits=dense(4))  # fmt: skip
    _, params, penalty = penalty_of(network, bn_a=[0.1, 0.2, 0.3, 0.0], bn_d=[0.4, 0.0, 0.1, 0.0])
    expected = (16 * 3 * 0.9 + 16 * 9 * 0.9 + 5 * 0.9) / 788
    assert float(penalty(params)) == pytest.approx(expected, rel=1e-6)


def test_two_for_a_whole_network_of_ones() -> None:
    """Every layer counts once for its inputs and once for its outputs, but for the input's and the logits' sides."""
    _, params, penalty = penalty_of(chain())
    assert float(penalty(params)) == pytest.approx((1728 + 2 * 128 + 10) / 1866, rel=1e-6)


def test_channels_without_batch_norm_are_alive_and_free() -> None:
    network = Net(lambda n, x: pooled(n, nnx.relu(n.b(n.bn_a(n.a(x))))), a=conv(3, 4, 1), bn_a=norm(4), b=conv(4, 2, 1),
                  logits=dense(2))  # fmt: skip
    _, params, penalty = penalty_of(network, bn_a=[0.1, 0.0, 0.0, 0.2])
    assert float(penalty(params)) == pytest.approx((16 * 3 * 0.3 + 16 * 0.3 * 2) / (192 + 128 + 10), rel=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        {"name": "wide_resnet", "layout": "embedded", "blocks": 3, "width": 8},
        {"name": "mobilenet_v1", "layout": "embedded", "blocks": 3, "width": 8},
        {"name": "shufflenet_v1", "layout": "embedded", "blocks": 3, "width": 24, "groups": 2},
        {"name": "densenet", "depth": 10, "growth_rate": 4},
    ],
    ids=lambda model: model["name"],
)
def test_the_cost_is_that_of_the_narrower_network(model: dict[str, Any]) -> None:
    """Multiply-adds of any numbers of alive channels, as the tables of costs have them."""
    coupling = couple(model, (16, 16, 3), 10)
    network = evaluated(coupling.model, coupling.input_shape, 10)
    costs: dict[str, float] = {}
    for product in products(network, coupling.input_shape):
        costs[str(product.kernel)] = costs.get(str(product.kernel), 0) + product.macs
    resource, macs = Resource.of(coupling, costs), make_cost("macs", coupling)
    rng = np.random.default_rng(0)
    alive = {group.name: int(rng.integers(1, group.size + 1)) for group in coupling.free if group.widths}
    assert resource.total({}) == pytest.approx(macs.at({}))
    assert resource.total(alive) == pytest.approx(macs.at(alive), rel=1e-3)
    assert resource.total(alive) < resource.total({})
