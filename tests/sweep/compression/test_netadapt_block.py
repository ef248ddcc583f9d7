"""The block `netadapt`: what it refuses, and what has no effect."""

from typing import Any

import pytest

from flaxcomp.sweep.compression.netadapt import Netadapt, effective


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "latency"}, r"latency is looked up in a table of measured layers: give its path as `costs`"),
        (
            {"ratio": 0.5, "reduction": 0.05, "decay": 0.9},
            r"reductions that begin with 0\.05 and decay by 0\.9 add up to less than 0\.5, but ratio is 0\.5: give a larger",
        ),
    ],
)
def test_impossible(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Netadapt(**options)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"ratio": 0.5, "reduction": 0.1, "decay": 1.0}, 5),
        ({"ratio": 0.7, "reduction": 0.4, "decay": 0.5}, 3),  # 0.4 + 0.2 + 0.1
        ({"ratio": 0.71, "reduction": 0.4, "decay": 0.5}, 4),
        ({}, 13),  # 0.05 (1 - 0.96^13) / 0.04 = 0.515, with 12 steps 0.484
        ({"ratio": 0.05, "reduction": 0.9}, 1),
    ],
)
def test_the_most_steps(options: dict[str, Any], steps: int) -> None:
    assert Netadapt(**options).most_steps == steps


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"ratio": 0.0, "criterion": "fisher"}, None),
        ({"seed": 4, "images": 50}, {}),
        ({"seed": 4, "sampled_layers": 3}, {"seed": 4, "sampled_layers": 3}),
        ({"seed": 4, "images": 50, "criterion": "fisher"}, {"seed": 4, "images": 50, "criterion": "fisher"}),
        ({"tune_steps": 0, "tune_learning_rate": 0.1}, {"tune_steps": 0}),
        ({"costs": "table.yaml"}, {}),
        ({"allow_small_prunings": True}, {"allow_small_prunings": True}),
    ],
)
def test_what_is_left(options: dict[str, Any], left: dict[str, Any] | None) -> None:
    assert effective(Netadapt(**options)) == (None if left is None else Netadapt(**left))
