"""What channels cost, against networks that were built."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pruning_nets import random_keep, reduced

from flaxcomp.compress import costs
from flaxcomp.compress.costs import Table, layer_key, load_table, make_cost, prunable
from flaxcomp.compress.prune.coupling import Coupling, couple
from flaxcomp.compress.prune.surgery import plan
from flaxcomp.errors import UserError
from flaxcomp.models.counting import count, products

RESNET = {"name": "resnet", "layout": "cifar", "depth": 8, "input_shape": (16, 16, 3), "num_classes": 10}


def coupled(model: dict[str, Any]) -> Coupling:
    return couple(model, (16, 16, 3), 10)


def one_each(coupling: Coupling) -> Table:
    """A table in which every layer of the network costs its multiply-adds in microseconds."""
    cost = costs._Macs(coupling)
    return Table("table.yaml", {layer_key(layer): layer.macs / 1000 for layer in cost.products})


@pytest.mark.parametrize(
    "name", ["resnet", "densenet", "mobilenet_v2", "shufflenet_v1", "squeezenext", "tf_cifar", "condensenet"]
)
def test_arithmetic_is_what_the_built_network_counts(name: str) -> None:
    model = reduced(name)
    coupling = couple(model, model["input_shape"], 10)
    for seed in range(2):
        cut = plan(coupling, random_keep(coupling, seed, share=0.6))
        counts = {group: kept.size for group, kept in cut.kept.items()}
        real = count(cut.model, coupling.input_shape, 10)
        for cost, wanted in (("params", real.trainable_params), ("macs", real.macs)):
            assert make_cost(cost, coupling).at(counts) == make_cost(cost, coupling).total(cut) == wanted
        kept = sum(cut.kept[group.name].size for group in prunable(coupling))
        assert make_cost("channels", coupling).at(counts) == make_cost("channels", coupling).total(cut) == kept
