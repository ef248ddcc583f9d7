"""Wide ResNet: published sizes, pre-activation, free widths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from flaxcomp.models.wide_resnet import SMALL
from small_networks import check_training, check_widths, small

NAME = "wide_resnet"
PUBLISHED = [  # options, trainable parameters, multiply-adds, source
    ({}, 2_243_546, 0.328e9, "WRN-40-2; Zagoruyko table 4: 2.2 M; counts of the authors' pytorch/resnet.py with batch norms"),
    ({"widen_factor": 1}, 563_930, 83.3e6, "WRN-40-1: 0.6 M; stage 1 keeps 16 channels and has no projection"),
    ({"widen_factor": 4}, 8_949_210, 1.30e9, "WRN-40-4: 8.9 M"),
    ({"depth": 16, "widen_factor": 4}, 2_748_890, 0.393e9, "WRN-16-4: 2.7 M"),
    ({"depth": 16, "widen_factor": 8}, 10_961_370, 1.55e9, "WRN-16-8: 11.0 M"),
    ({"depth": 28, "widen_factor": 10}, 36_479_194, 5.24e9, "WRN-28-10: 36.5 M, 5.2 G"),
    ({"layout": "embedded", "blocks": 9, "width": 16}, 272_282, 40.8e6, "Greffe table 3.3; no counts there: WRN-22-1"),
    ({"layout": "embedded", "blocks": 9, "width": 24}, 609_210, 89.9e6, "Greffe table 3.3; no counts there"),
    ({"layout": "embedded", "blocks": 12, "width": 32}, 1_467_610, 214.4e6, "Greffe table 3.3; no counts there: WRN-28-2"),
    ({"depth": 22, "widen_factor": 1}, 272_282, 40.8e6, "the embedded net of 9 blocks and width 16 but for the padding"),
    ({"se": 2}, 2_374_586, 0.328e9, "6 SE blocks in each of 32, 64 and 128 channels, with biases"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "parameters", "macs", "source"), PUBLISHED)
def test_published_sizes(options: dict[str, Any], parameters: int, macs: float, source: str) -> None:
    counts = count({"name": "wide_resnet", **options}, (32, 32, 3), 10)
    assert counts.trainable_params == parameters, source
    assert counts.macs == pytest.approx(macs, rel=0.01), source


def test_squeeze_excite_adds_what_it_should() -> None:
    added = sum(6 * (2 * c * (c // 2) + c // 2 + c) for c in (32, 64, 128))
    assert added == 2_374_586 - 2_243_546


@pytest.mark.parametrize("options", [{}, {"depth": 16, "widen_factor": 1}, SMALL, {**SMALL, "width": 16, "se": 2}])
def test_widths_describe_the_network(options: dict[str, Any]) -> None:
    check_widths({"name": NAME, **options})


def test_narrower_widths() -> None:
    stem, *stages = 9, (5, 4), (11, 6), (7, 8)  # each stage's own, and its block's
    total, c = 27 * stem, stem
    for c_out, inside in stages:
        total += 2 * c + 9 * c * inside + 2 * inside + 9 * inside * c_out + c * c_out
        c = c_out
    options = {**SMALL, "widths": (stem, *(w for stage in stages for w in stage))}
    assert count({"name": "wide_resnet", **options}, (16, 16, 3), 10).trainable_params == total + 2 * c + 10 * c + 10


def test_the_shortcut_takes_the_activated_input_only_where_it_projects() -> None:
    """With the last batch norm's scales at zero a block is its shortcut alone."""
    options = {**SMALL, "width": 16}
    network: Any = registry.build({"name": "wide_resnet", **options}, (16, 16, 3), 10, nnx.Rngs(params=jax.random.key(0)))
    network.eval()
    x = jax.random.normal(jax.random.key(1), (1, 16, 16, 16))
    first, second = network.blocks[:2]
    for block in (first, second):
        block.bn2.scale.set_value(jnp.zeros_like(block.bn2.scale.get_value()))
    np.testing.assert_allclose(first(x, None), x)
    np.testing.assert_allclose(second(x, None), second.projection(nnx.relu(second.bn1(x))), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"se": 4, "dropout": 0.2}])
def test_logits(options: dict[str, Any]) -> None:
    check_training({**small(NAME), **options})


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"depth": 41}, (32, 32, 3), "layout cifar has 6n . 4 layers .*, got 41"),
    ({"depth": 4}, (32, 32, 3), "got 4"),
    ({"blocks": 9}, (32, 32, 3), "model.blocks of wide_resnet: only layout embedded has it, got layout cifar"),
    ({"layout": "embedded", "blocks": 8, "width": 16}, (32, 32, 3), "a multiple of 3, got 8"),
    ({"layout": "embedded", "depth": 16}, (32, 32, 3), "model.depth of wide_resnet: only layout cifar has it"),
    ({**SMALL, "widths": [16]}, (32, 32, 3), "has 7 widths .*, got 1"),
    (SMALL, (2, 16, 3), "stage 3 halves .* an input of 2x16 gives it 1x8"),
    ({"dropout": 1.0}, (32, 32, 3), "model.dropout of wide_resnet"),
])  # fmt: skip
def test_impossible_nets_are_refused(options: dict[str, Any], shape: tuple[int, int, int], message: str) -> None:
    options = {"name": "wide_resnet", **options, "input_shape": shape}
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: registry.build(options, shape, 10, nnx.Rngs(0)))
