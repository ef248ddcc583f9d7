"""The block `morphnet`: what it refuses, and what has no effect."""

from typing import Any

import pytest

from flaxcomp.sweep.compression.morphnet import Morphnet, effective


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "latency"}, r"latency is looked up in a table of measured layers: give its path as `costs`"),
        ({"then": "fine_tune", "ratio": 0.0}, r"then: fine_tune needs weights, and a width multiplier \(`ratio`\) leaves none"),
    ],
)
def test_impossible(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Morphnet(**options)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"strength": 0.0}, None),
        ({"strength": 0.0, "ratio": 0.0}, None),
        (
            {"strength": 0.0, "ratio": 0.3, "threshold": 0.5, "start": "scratch", "search_epochs": 3, "epochs": 2},
            {"strength": 0.0, "ratio": 0.3, "epochs": 2},
        ),
        ({"strength": 2.0, "threshold": 0.5}, {"strength": 2.0, "threshold": 0.5}),
        ({"ratio": 0.0}, {"ratio": 0.0}),  # back to the whole cost, with other proportions
        ({"costs": "table.yaml"}, {}),
        ({"costs": "table.yaml", "of": "latency"}, {"costs": "table.yaml", "of": "latency"}),
    ],
)
def test_what_is_left(options: dict[str, Any], left: dict[str, Any] | None) -> None:
    assert effective(Morphnet(**options)) == (None if left is None else Morphnet(**left))
