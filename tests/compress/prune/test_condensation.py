"""CondenseNet's own pruning, reported as any other."""

from typing import Any

import pytest
from flax import nnx

from flaxcomp.compress.prune import condensation
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.condensenet import condense
from flaxcomp.models.counting import count
from flaxcomp.train.restore import weights_of

MODEL = {"name": "condensenet", "depth": 8, "growth_rate": 8, "groups": 4, "input_shape": (16, 16, 3), "num_classes": 10}


@pytest.fixture(scope="module")
def network() -> Any:
    return registry.build(MODEL, (16, 16, 3), 10, nnx.Rngs(0))


def test_each_stage_leaves_a_quarter_less(network: Any) -> None:
    """16 inputs and four groups: 12, 8 and 4 are left."""
    for stage, kept in ((0, 16), (1, 12), (3, 4)):
        condense(network, stage)
        report = condensation.report(MODEL, weights_of(network), (16, 16, 3), 10)
        assert [layer["name"] for layer in report["groups"]] == [f"blocks/{i}/0/conv1" for i in range(3)]
        assert report["groups"][0] == {"name": "blocks/0/0/conv1", "channels": 16, "kept": [kept] * 4, "density": kept / 16}
        assert report["density"] == kept / 16
    before, after = count(MODEL, (16, 16, 3), 10), count({**MODEL, "form": "condensed"}, (16, 16, 3), 10)
    assert report["costs"]["macs"] == {"before": before.macs, "after": after.macs}
    assert report["costs"]["params"] == {"before": before.trainable_params, "after": after.trainable_params}
    assert after.macs < before.macs


def test_another_network_has_none() -> None:
    weights: dict[str, Any] = {"params": {}, "stats": {"bn": {"mean": 0.0}}}
    with pytest.raises(UserError, match=r"condensenet of form `training`; resnet has no learned group convolution"):
        condensation.report({"name": "resnet"}, weights, (16, 16, 3), 10)
