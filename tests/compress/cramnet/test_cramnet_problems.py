"""Which sub-problems networks have, from their programs, and which they cannot have."""

from typing import Any

import pytest

from flaxcomp.compress.cramnet.problems import find, layers_around, places_of
from flaxcomp.compress.prune.coupling import couple
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count

KERAS = {"name": "keras_cifar"}
CIFAR = (32, 32, 3)
TESTS = {  # Hoffman 2018, appendix A; of 1c the sum, see tests/models/test_keras_cifar.py
    "1": ((16, 16, 32, 32, 96), 128_314), "2": ((16, 16, 32, 32, 64), 91_098), "3": ((16, 16, 32, 32, 48), 72_490),
    "4": ((16, 16, 32, 32, 32), 53_882), "5": ((16, 16, 32, 32, 16), 35_274), "5b": ((8, 8, 16, 16, 16), 13_698),
    "1b": ((8, 8, 16, 16, 96), 60_658), "1c": ((16, 16, 32, 16, 96), 68_394),
}  # fmt: skip
VGG = {"name": "vgg16"}
VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096)


def layers(model: dict[str, Any], shape: tuple[int, int, int] = CIFAR, **wanted: Any) -> list[str]:
    return [problem.layer for problem in find(model, shape, 10, **wanted)]


@pytest.mark.parametrize("test", TESTS)
def test_the_sub_problems_of_the_source_lead_to_its_networks(test: str) -> None:
    widths, params = TESTS[test]
    problems = find(KERAS, CIFAR, 10, widths)
    assert [p.layer for p in problems] == [*(f"convolutions/{i}" for i in range(4)), "hidden"]
    assert [(p.entry, p.width, p.target) for p in problems] == list(zip(range(5), (32, 32, 64, 64, 512), widths, strict=True))
    model: dict[str, Any] = KERAS
    for problem in reversed(problems):
        model = problem.solved(model)
    assert count(model, CIFAR, 10).params == params


def test_each_sub_problem_has_the_parameters_before_and_behind_its_layer() -> None:
    coupling = couple(KERAS, CIFAR, 10)
    around = [sorted(layers_around(coupling, entry)) for entry in range(5)]
    assert around == [
        ["convolutions/0", "convolutions/1"], ["convolutions/1", "convolutions/2"], ["convolutions/2", "convolutions/3"],
        ["convolutions/3", "hidden"], ["hidden", "logits"],
    ]  # fmt: skip


def test_what_keeps_its_width_has_none() -> None:
    assert layers(KERAS, widths=(32, 16, 64, 64, 512)) == ["convolutions/1"]
    assert layers(KERAS, widths=(32, 32, 64, 64, 512)) == layers(KERAS) == layers(KERAS, ratio=0.0) == []


def test_a_ratio_is_of_every_width_and_leaves_one_channel() -> None:
    narrow = {**KERAS, "widths": [8, 1, 5, 2, 10]}
    assert [p.target for p in find(narrow, CIFAR, 10, ratio=0.75)] == [2, 1, 1, 2]
    assert [p.entry for p in find(narrow, CIFAR, 10, ratio=0.75)] == [0, 2, 3, 4]


def test_vgg16_as_the_source_cuts_it() -> None:
    """Hoffman 2018, figure 3.1 and test 2c: its two hidden dense layers and the last convolution."""
    problems = find(VGG, (224, 224, 3), 1000, (*VGG_WIDTHS[:12], 192, 256, 512))
    assert [(p.layer, p.width, p.target) for p in problems] == [
        ("convolutions/12", 512, 192), ("hidden/0", 4096, 256), ("hidden/1", 4096, 512),
    ]  # fmt: skip
    model: dict[str, Any] = VGG
    for problem in problems:
        model = problem.solved(model)
    assert count(model, (224, 224, 3), 1000).params == 16_293_096


def test_batch_norms_belong_to_the_layers_that_they_normalise() -> None:
    small = {"name": "vgg16", "layout": "cifar", "width_multiplier": 0.125}
    around = layers_around(couple(small, CIFAR, 10), 3)
    assert around == {"convolutions/3", "norms/3", "convolutions/4", "norms/4"}


@pytest.mark.parametrize("layer", ["convolutions/1", "convolutions/2"])
def test_replaced_layers(layer: str) -> None:
    (problem,) = find(KERAS, CIFAR, 10, replace={layer: "residual"})
    kinds = ["residual" if f"convolutions/{i}" == layer else "conv" for i in range(4)]
    assert (problem.layer, problem.kind, problem.target) == (layer, "residual", problem.width)
    assert problem.solved(KERAS) == {**KERAS, "kinds": kinds}
    both = find(KERAS, CIFAR, 10, (16, 16, 32, 32, 96), replace={layer: "depthwise_separable"})
    assert [p.kind for p in both if p.kind] == ["depthwise_separable"]
    assert find(problem.solved(KERAS), CIFAR, 10, replace={layer: "residual"}) == []


def test_depthwise_layers_stand_inside_of_a_sub_problem() -> None:
    model = {"name": "mobilenet_v1", "layout": "embedded", "width": 8, "blocks": 6}
    widths = list(registry.default_widths(model) or ())
    widths[1] //= 2
    (problem,) = find(model, CIFAR, 10, widths)
    around = layers_around(couple(model, CIFAR, 10), problem.entry)
    assert {"blocks/0/pointwise/conv", "blocks/1/depthwise/conv", "blocks/1/pointwise/conv"} < around


RESIDUAL = {"name": "wide_resnet", "layout": "embedded", "blocks": 6, "width": 8}


def test_the_inside_of_a_residual_block_can_be_cut_out() -> None:
    assert layers(RESIDUAL, widths=halved(RESIDUAL, 2)) == ["blocks/0/conv1"]


def halved(model: dict[str, Any], entry: int) -> tuple[int, ...]:
    widths = list(registry.default_widths(model) or ())
    widths[entry] //= 2
    return tuple(widths)


@pytest.mark.parametrize(
    ("model", "entry", "words"),
    [
        (RESIDUAL, 1, "keep 8 at entry 1: no sub-problem can be cut around layer blocks/0/projection: its channels are made in "
                      "several places, also by blocks/0/conv2 (a skip connection"),
        (registry.small("densenet"), 0, "around layer stem: its channels are seen in several places, also by blocks/0/0/"),
        ({"name": "mobilenet_v1", "layout": "embedded", "width": 16, "blocks": 6, "se": 2}, 1, "also by blocks/0/se/excite"),
        ({"name": "tf_cifar"}, 0, "around layer conv1, its channels must stay (reduce_window_sum mixes neighbouring channels)"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused_with_the_layer(model: dict[str, Any], entry: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        find(model, CIFAR, 10, halved(model, entry))
    assert str(caught.value).startswith("cramnet.widths must keep ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("model", "wanted", "words"),
    [
        (KERAS, {"widths": (16, 16, 32, 32)}, "model.widths of keras_cifar: it has 5 widths"),
        (KERAS, {"widths": (16, 16, 32, 32, 513)}, "must not be larger than the network's: entry 4 of keras_cifar is 512,"),
        (KERAS, {"replace": {"hidden": "residual"}}, "must name convolutions of keras_cifar, got 'hidden'"),
        (RESIDUAL, {"replace": {"stem": "residual"}}, "cramnet.replace must have a model whose layers can be replaced"),
    ],
)  # fmt: skip
def test_impossible_wishes(model: dict[str, Any], wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        find(model, CIFAR, 10, **wanted)
    assert words in str(caught.value)


def test_places_follow_the_program_and_one_value_passes_between_parts() -> None:
    places = places_of(KERAS, CIFAR, 10)
    kernels = ["convolutions/0/kernel", "convolutions/1/kernel", "convolutions/2/kernel", "convolutions/3/kernel",
               "hidden/kernel", "logits/kernel"]  # fmt: skip
    assert sorted(kernels, key=lambda name: places[name].number) == kernels
    parts = [places[name].parts for name in kernels]
    assert len(frozenset().union(*parts)) == len(kernels)
    block = places_of(RESIDUAL, CIFAR, 10)
    inside = [block[f"blocks/0/{name}/kernel"].parts for name in ("conv1", "conv2", "projection")]
    assert inside[0] == inside[1] == inside[2]  # the skip connection holds them together
