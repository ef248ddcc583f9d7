"""Where the outputs of a network's layers are, and what a network does whose outputs are multiplied by bitmaps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.abstract import abstract
from flaxcomp.models.counting import count
from flaxcomp.models.layers import BatchNorm, Conv, Dense, flatten, global_avg_pool
from flaxcomp.models.masked import Masked
from flaxcomp.models.outputs import Traced

SHAPE = (6, 6, 2)


class _Block(nnx.Module):
    """Every way in which a layer's output may end: an activation of several operations, a sum, a gate, a concatenation."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.swish, self.norm = Conv(2, 4, (3, 3), rngs=rngs), BatchNorm(4, rngs=rngs)
        self.linear = Conv(4, 4, (3, 3), rngs=rngs)
        self.gate = Conv(4, 4, (1, 1), rngs=rngs)
        self.side = Conv(4, 3, (1, 1), rngs=rngs)
        self.hidden, self.logits = Dense(7, 5, rngs=rngs), Dense(5, 3, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = nnx.swish(self.norm(self.swish(x)))
        x = nnx.relu(x + self.linear(x))
        x = x * nnx.sigmoid(self.gate(global_avg_pool(x)))
        x = jnp.concatenate([x, nnx.relu(self.side(x))], -1)
        return self.logits(nnx.relu(self.hidden(flatten(global_avg_pool(x)))))


def traced(network: nnx.Module, batch: int = 2) -> Traced:
    return Traced(network, jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32))


def state_of(network: nnx.Module) -> Any:
    return nnx.to_pure_dict(nnx.state(network))


def block() -> Any:
    network = _Block()
    network.norm.mean[...] = jnp.arange(4.0)
    network.eval()
    return network


def test_outputs_end_where_something_else_begins() -> None:
    network = block()
    program = traced(network)
    shapes = {output.layer: output.shape for output in program.outputs}
    assert shapes == {"swish": (6, 6, 4), "linear": (6, 6, 4), "gate": (1, 1, 4), "side": (6, 6, 3), "hidden": (5,)}
    assert program.last == ("logits/kernel",)

    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    logits, _, seen = jax.jit(program)(state_of(network), x, {})
    np.testing.assert_allclose(logits, network(x), rtol=1e-5, atol=1e-6)
    first = nnx.swish(network.norm(network.swish(x)))
    np.testing.assert_allclose(seen["swish"], first, atol=1e-5)  # after batch norm and all of the activation
    np.testing.assert_allclose(seen["linear"], network.linear(first), atol=1e-5)  # before the sum
    total = nnx.relu(first + network.linear(first))
    np.testing.assert_allclose(seen["gate"], nnx.sigmoid(network.gate(global_avg_pool(total))), atol=1e-5)


def test_masks_multiply_outputs() -> None:
    network = block()
    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    mask = jnp.ones((6, 6, 4)).at[1, 2, 3].set(0)
    logits, _, seen = traced(network)(state_of(network), x, {"swish": mask})
    assert (seen["swish"][:, 1, 2, 3] == 0).all()
    first = nnx.swish(network.norm(network.swish(x))) * mask
    np.testing.assert_allclose(seen["linear"], network.linear(first), atol=1e-5)
    assert float(jnp.abs(logits - network(x)).max()) > 0


def test_training_mode_has_the_same_outputs_and_keeps_statistics() -> None:
    network = block()
    network.train()
    program = Traced(network, jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32), random=True)
    assert [output.layer for output in program.outputs] == ["swish", "linear", "gate", "side", "hidden"]
    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    logits, new, seen = program(state_of(network), x, {}, jax.random.key(1))
    np.testing.assert_allclose(logits, network(x), rtol=1e-5, atol=1e-5)  # which also moves its statistics
    np.testing.assert_allclose(new["norm"]["mean"], network.norm.mean[...], rtol=1e-6)
    network.eval()
    assert seen["swish"].shape == (2, 6, 6, 4)


@pytest.mark.parametrize("name", registry.names())
def test_every_architecture_has_outputs(name: str) -> None:
    model = registry.shipped(registry.small(name))
    shape = tuple(model.get("input_shape", (32, 32, 3)))
    network = abstract(model, shape, 10)
    network.eval()
    program = Traced(network, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    layers = {layer.name: layer.output_shape for layer in count(model, shape, 10).layers if layer.macs}
    found = {output.layer: output.shape for output in program.outputs}
    assert found.items() <= layers.items()
    assert layers.keys() - found.keys() == {kernel.rpartition("/")[0] for kernel in program.last}


def test_googlenet_has_those_of_table_1() -> None:
    shape = (224, 224, 3)
    network = abstract({"name": "googlenet"}, shape, 1000)
    network.eval()
    found = {o.layer: o.shape for o in Traced(network, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).outputs}
    assert len(found) == 3 + 9 * 6
    assert found["stem/0/conv"] == (112, 112, 64)
    assert found["stem/2/conv"] == (56, 56, 192)
    assert found["inceptions/3a/branch1/conv"] == (28, 28, 64)
    assert found["inceptions/4a/reduce3/conv"] == (14, 14, 96)
    assert found["inceptions/5b/branch_pool/conv"] == (7, 7, 128)


def test_a_masked_network_is_built_trained_and_restored_like_any_other() -> None:
    model = {"name": "tf_mnist", "widths": [3, 4, 5], "masked": ["conv1", "hidden"]}
    shape = (8, 8, 1)
    network: Any = registry.build(model, shape, 4, nnx.Rngs(0))
    assert isinstance(network, Masked)
    assert {name: bitmap.shape for name, bitmap in network.bitmaps.items()} == {"conv1": (8, 8, 3), "hidden": (5,)}
    x = jax.random.uniform(jax.random.key(0), (2, *shape))
    network.eval()
    np.testing.assert_allclose(network(x), network.network(x), atol=1e-6)

    network.bitmaps["hidden"][...] = jnp.array([1, 1, 0, 1, 1], jnp.uint8)
    without = jax.tree.map(jnp.copy, network.network)
    without.logits.kernel[...] = without.logits.kernel[...].at[2].set(0)
    np.testing.assert_allclose(network(x), without(x), atol=1e-6)

    network.train()
    gradient = nnx.grad(lambda net: (net(x, rngs=nnx.Rngs(dropout=1)) ** 2).sum())(network)
    kernel = nnx.to_pure_dict(gradient)["network"]["logits"]["kernel"]
    assert (kernel[2] == 0).all()
    assert (kernel[:2] != 0).any()
    whole = count({**model, "masked": []}, shape, 4)
    assert count(model, shape, 4).trainable_params == whole.trainable_params
    assert count(model, shape, 4).macs == whole.macs


def test_masks_of_unknown_layers_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.masked: no layer .* 'conv9'\. Did you mean 'conv"):
        registry.build({"name": "tf_mnist", "masked": ["conv9"]}, (28, 28, 1), 10, nnx.Rngs(0))
    with pytest.raises(UserError, match="'logits'"):
        registry.build({"name": "tf_mnist", "masked": ["logits"]}, (28, 28, 1), 10, nnx.Rngs(0))
