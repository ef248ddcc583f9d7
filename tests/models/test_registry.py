"""Every architecture in the folder, found as `flaxcomp` finds them; and what is refused."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count

# Rusu 2018, table 2.3: trainable weights; multiply-adds by hand: outputs * kernel * inputs.
SIMPLENET = {
    "simplenet_lm": (3_274_634, 28 * 28 * 32 * 25 + 14 * 14 * 64 * 25 * 32 + 3136 * 1024 + 1024 * 10),
    "simplenet_v1": (3_484, 28 * 28 * 3 * 25 + 14 * 14 * 6 * 25 * 3 + 294 * 10),
    "simplenet_v2": (5_968, 28 * 28 * 3 * 25 + 588 * 10),
    "simplenet_v3": (3_982, 28 * 28 * 2 * 25 + 392 * 10),
    "simplenet_v4": (6_007, 28 * 28 * 3 * 25 + 14 * 14 * 3 * 4 * 3 + 588 * 10),
    "simplenet_v5": (4_000, 28 * 28 * 2 * 25 + 14 * 14 * 2 * 4 * 2 + 392 * 10),
}


@pytest.mark.parametrize("name", SIMPLENET)
def test_published_sizes(name: str) -> None:
    counts = count({"name": name}, (28, 28, 1), 10)
    assert (counts.trainable_params, counts.macs) == SIMPLENET[name]
    assert counts.params == counts.trainable_params  # no batch statistics


@pytest.mark.parametrize("name", SIMPLENET)
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    network = registry.build({"name": name}, (28, 28, 1), 10, nnx.Rngs(params=jax.random.key(0)))
    again = registry.build({"name": name}, (28, 28, 1), 10, nnx.Rngs(params=jax.random.key(0)))
    other = registry.build({"name": name}, (28, 28, 1), 10, nnx.Rngs(params=jax.random.key(1)))
    x = jax.random.uniform(jax.random.key(2), (3, 28, 28, 1))
    for n in (network, again, other):
        n.eval()
    logits = network(x)
    assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)
    np.testing.assert_array_equal(logits, network(x))  # eval mode changes nothing
    np.testing.assert_array_equal(logits, again(x))
    assert not np.allclose(logits, other(x))
    assert registry.canonical({"name": name}) == {"name": name}


def test_names_are_known_without_jax() -> None:
    code = (
        "import sys; from flaxcomp.models.registry import names; print(names()); assert not {'jax', 'flax'} & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "simplenet_v5" in out


def test_canonical_keeps_what_would_else_be_the_datas() -> None:
    """The published network's 1,000 classes on a data set of ten are 1,000."""
    assert registry.canonical({"name": "mobilenet_v1", "num_classes": 1000}) == {"name": "mobilenet_v1", "num_classes": 1000}


def test_canonical_leaves_defaults_out() -> None:
    assert registry.canonical({"name": "simplenet_v1", "widths": [3, 6], "dropout": 0}) == {"name": "simplenet_v1"}
    assert registry.canonical({"name": "simplenet_v1", "widths": [4, 6]}) == {"name": "simplenet_v1", "widths": [4, 6]}


@pytest.mark.parametrize(("model", "message"), [
    ({"name": "simplnet_v1"}, "Did you mean 'simplenet_v1'"),
    ({}, "model.name is missing"),
    ({"name": "simplenet_v1", "width": [3]}, "Did you mean 'widths'"),
    ({"name": "simplenet_v1", "widths": [0, 3]}, "model.widths"),
    ({"name": "simplenet_v1", "widths": "3"}, "model.widths"),
    ({"name": "simplenet_lm", "dropout": 1.0}, "model.dropout"),
    ({"name": "simplenet_v1", "halving": "pol"}, "model.halving"),
])  # fmt: skip
def test_impossible_models_are_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.canonical(model)


def test_input_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(UserError, match="multiples of 4, got 30x28"):
        registry.build({"name": "simplenet_v1"}, (30, 28, 1), 10, nnx.Rngs(params=jax.random.key(0)))
