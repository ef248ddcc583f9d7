"""CondenseNet: published sizes, condensation in stages, and that the condensed form computes the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcomp.errors import UserError
from flaxcomp.models import condensenet, registry
from flaxcomp.models.condensenet import SMALL, CondenseNet, condensation_mask, condensation_steps
from flaxcomp.models.counting import count
from small_networks import check_training, check_widths, small

CIFAR, IMAGENET = ((32, 32, 3), 10), ((224, 224, 3), 1000)
BIG = {"layout": "imagenet", "depth": 74}
NAME = "condensenet"
PUBLISHED = [  # options of the condensed form, data, trainable parameters, multiply-adds, as published: M parameters, M FLOPs
    ({"depth": 50}, CIFAR, 216_506, 27.19e6, (0.22, 28.6)),
    ({"depth": 74}, CIFAR, 405_466, 49.21e6, (0.41, 51.9)),
    ({}, CIFAR, 520_202, 62.38e6, (0.52, 65.8)),
    ({"depth": 98}, CIFAR, 648_442, 77.00e6, (0.65, 81.3)),
    ({"depth": 110}, CIFAR, 790_186, 93.05e6, (0.79, 98.2)),
    ({"depth": 122}, CIFAR, 945_434, 110.55e6, (0.95, 116.7)),
    ({"depth": 182, "growth_rate": 12}, CIFAR, 4_221_946, 493.93e6, (4.2, 513)),
    (BIG, IMAGENET, 4_773_944, 516.64e6, (4.8, 529)),
    ({**BIG, "groups": 8}, IMAGENET, 2_935_416, 261.55e6, (2.9, 274)),
]


def relus_and_pools(options: dict[str, Any], data: Any) -> int:
    """What the authors' FLOPs count besides multiply-adds: a ReLU's elements, a pooling's inputs, the logits' biases."""
    config: Any = registry.config_of({"name": "condensenet", **options})
    size, classes = data[0][0] // (2 if config.layout == "imagenet" else 1), data[1]
    c, total = 2 * config.growth_rate, 0
    for block, layers in enumerate(condensenet.layers_of(config)):
        if block:
            total, size = total + c * size**2, size // 2
        k = config.growth_rate * 2**block
        for _ in range(layers):
            total, c = total + (c + 4 * k) * size**2, c + k
    return total + 2 * c * size**2 + classes


@pytest.mark.parametrize(("options", "data", "parameters", "macs", "published"), PUBLISHED)
def test_published_sizes(
    options: dict[str, Any], data: Any, parameters: int, macs: float, published: tuple[float, float]
) -> None:
    counts = count({"name": "condensenet", "form": "condensed", **options}, *data)
    assert counts.trainable_params == parameters
    assert counts.macs == pytest.approx(macs, rel=1e-3)
    assert round(parameters / 1e6, 2 if published[0] < 1 else 1) == published[0]
    assert (counts.macs + relus_and_pools(options, data)) / 1e6 == pytest.approx(published[1], rel=2e-3)


@pytest.mark.parametrize("options", [{}, {"form": "condensed"}, {**BIG, "groups": 8}, SMALL])
def test_widths_describe_the_network(options: dict[str, Any]) -> None:
    check_widths({"name": NAME, **options})


def test_narrower_widths() -> None:
    stem, layers = 6, [(8, 2), (12, 4), (6, 8)]
    c = stem
    dense, grouped = 27 * stem, 27 * stem
    for inside, growth in layers:
        shared = 2 * c + 2 * inside + 9 * inside * growth // 2
        dense, grouped, c = dense + shared + c * inside, grouped + shared + c * inside // 2, c + growth
    options = {"name": "condensenet", **SMALL, "widths": [stem, *(w for layer in layers for w in layer)]}
    assert count(options, (16, 16, 3), 10).trainable_params == dense + 12 * c + 10
    assert count({**options, "form": "condensed"}, (16, 16, 3), 10).trainable_params == grouped + 12 * c + 10


def test_stages_follow_the_schedule() -> None:
    config = CondenseNet(groups=4)
    assert condensation_steps(config, 300) == (50, 100, 150)
    assert condensation_steps(config, 100) == (17, 34, 50)
    assert condensation_steps(config, 3) == (1, 1, 2)
    assert condensation_steps(config, 1) == (0, 0, 0)
    assert condensation_steps(CondenseNet(groups=4, condense_until=1.0), 300) == (100, 200, 299)
    assert condensation_steps(CondenseNet(groups=4, condense_factor=2), 300) == (150,)
    assert condensation_steps(CondenseNet(groups=1), 300) == ()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 99), groups=st.sampled_from([1, 2, 4]), factor=st.sampled_from([2, 4]))
def test_masks_remove_the_weakest_inputs_of_each_group_for_good(seed: int, groups: int, factor: int) -> None:
    c_in, c_out = 8, 12
    random = np.random.default_rng(seed)
    mask = jnp.ones((1, 1, c_in, c_out))
    for stage in range(factor):
        kernel = random.standard_normal((1, 1, c_in, c_out)).astype(np.float32)  # training changes the weights between stages
        new = condensation_mask(jnp.asarray(kernel), mask, stage, groups, factor)
        assert (new <= mask).all()
        for g in range(groups):
            before, after = mask[0, 0, :, g] > 0, new[0, 0, :, g] > 0
            assert (new[0, 0, :, g::groups] == new[0, 0, :, g : g + 1]).all()
            assert after.sum() == c_in - stage * (c_in // factor)
            strength = np.abs(kernel[0, 0, :, g::groups]).sum(-1)
            removed = before & ~after
            assert not removed.any() or strength[removed].max() <= strength[after].min()
        mask = new


def trained(config: CondenseNet) -> Any:
    """A network whose batch statistics have moved, in the last condensation stage."""
    network = condensenet.build(config, (16, 16, 3), 10, nnx.Rngs(params=jax.random.key(0)))

    @nnx.jit
    def step(network: Any, x: jax.Array, stage: int) -> None:
        network(x)
        condensenet.condense(network, stage)

    for stage in range(condensenet.factor(config)):
        step(network, jax.random.normal(jax.random.key(stage), (8, 16, 16, 3)), jnp.asarray(stage))
    network.eval()
    return network


@pytest.mark.parametrize("options", [{"groups": 2}, {"groups": 4, "condense_factor": 2}])
def test_the_condensed_form_computes_the_same(options: dict[str, int]) -> None:
    config = CondenseNet(depth=8, growth_rate=4, **options)
    network = trained(config)
    x = jax.random.normal(jax.random.key(9), (4, 16, 16, 3))
    wanted = nnx.jit(lambda net, x: net(x))(network, x)
    new = condensenet.condensed(network, config, (16, 16, 3), 10)
    new.eval()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(nnx.jit(lambda net, x: net(x))(new, x), wanted, atol=1e-5)
    half = condensenet.condensed(network, CondenseNet(depth=8, growth_rate=4, **options, classifier_kept=0.5), (16, 16, 3), 10)
    picked: Any = half
    strength = jnp.abs(network.logits.kernel.get_value()).sum(1)
    assert picked.index.get_value().size == strength.size // 2
    assert strength[picked.index.get_value()].min() >= jnp.delete(strength, picked.index.get_value()).max()


def test_conversion_too_early_is_refused() -> None:
    config = CondenseNet(depth=8, growth_rate=4)
    network = condensenet.build(config, (16, 16, 3), 10, nnx.Rngs(params=jax.random.key(0)))
    with pytest.raises(UserError, match=r"each filter group must have 2 of its 8 inputs, got .8, 8, 8, 8.: train to the last"):
        condensenet.condensed(network, config, (16, 16, 3), 10)


def test_group_lasso() -> None:
    config = CondenseNet(depth=8, growth_rate=4, groups=2)
    network: Any = condensenet.build(config, (16, 16, 3), 10, nnx.Rngs(params=jax.random.key(0)))
    wanted = 0.0
    for block in network.blocks:
        kernel = np.asarray(block[0].conv1.kernel.get_value())[0, 0]
        wanted += sum(np.linalg.norm(kernel[:, g::2], axis=1).sum() for g in range(2))
    assert float(condensenet.group_lasso(network)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("options", [{"dropout": 0.2}, {"form": "condensed", "classifier_kept": 0.5}])
def test_logits(options: dict[str, Any]) -> None:
    check_training({**small(NAME), **options})


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"depth": 85}, (32, 32, 3), "layout cifar has 6n . 2 layers .*, got 85"),
    ({"layout": "imagenet"}, (224, 224, 3), "layout imagenet has 74 layers, got 86"),
    ({"groups": 3}, (32, 32, 3), "layer 1: inputs must be a multiple of 3, got 16"),
    ({"groups": 16}, (32, 32, 3), "layer 1: 3x3 channels must be a multiple of 16, got 8"),
    ({**SMALL, "widths": [8, 15, 4, 32, 8, 64, 16]}, (32, 32, 3), "layer 1: 1x1 channels must be a multiple of 2, got 15"),
    ({**SMALL, "widths": [8]}, (32, 32, 3), "has 7 widths .*, got 1"),
    ({"condense_until": 0}, (32, 32, 3), "model.condense_until of condensenet"),
    (SMALL, (16, 3, 3), "block 3 halves .* an input of 16x3 gives it 8x1"),
])  # fmt: skip
def test_impossible_nets_are_refused(options: dict[str, Any], shape: tuple[int, int, int], message: str) -> None:
    options = {"name": "condensenet", **options, "input_shape": shape}
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: registry.build(options, shape, 10, nnx.Rngs(0)))
