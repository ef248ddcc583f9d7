"""What channels cost, against networks that were built."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pruning_nets import random_keep, reduced

from flaxcomp.compress import costs
from flaxcomp.compress.cost_table import Table, layer_key, load_table
from flaxcomp.compress.costs import make_cost, prunable
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
    return Table("table.yaml", {layer_key(layer): layer.macs / 1000 for layer in cost.whole.products})


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


def test_what_a_channel_saves_is_the_difference_of_two_networks() -> None:
    coupling = coupled(RESNET)
    name = "blocks/1/convolutions/0/conv"
    for of in ("params", "macs"):
        cost = make_cost(of, coupling)
        here, fewer = (cost.total(plan(coupling, {name: np.arange(count)})) for count in (20, 19))
        assert cost.saved({name: 20})[name] == here - fewer > 0
    assert set(make_cost("channels", coupling).saved({}).values()) == {1}
    assert set(cost.saved({})) == {group.name for group in prunable(coupling)}


def test_a_squeeze_shrinks_with_what_it_squeezes() -> None:
    coupling = coupled({**RESNET, "se": 4})
    cut = plan(coupling, {"blocks/1/convolutions/1/conv": np.arange(4)})  # 20 of 32 channels, so 5 of 8 units
    counts = {group: kept.size for group, kept in cut.kept.items() if "squeeze" not in group}
    assert make_cost("params", coupling).at(counts) == make_cost("params", coupling).total(cut)


def test_layers_are_named_by_kind_window_stride_and_ends() -> None:
    resnet, mobile = (coupled(model) for model in (RESNET, reduced("mobilenet_v2")))
    shuffle = couple(reduced("shufflenet_v1"), (16, 16, 3), 10)
    keys = [layer_key(layer) for c in (resnet, mobile, shuffle) for layer in products(plan(c, {}).network, (16, 16, 3))]
    assert keys[0] == "conv 3x3/1 16x16x3 -> 16x16x16"
    assert "conv 3x3/2 16x16x16 -> 8x8x32" in keys
    assert "dense 64 -> 10" in keys
    assert any(key.startswith("depthwise 3x3/2 ") for key in keys)
    assert any(key.startswith("conv 1x1/1 ") and " groups " in key for key in keys)


def test_a_table_is_summed_over_the_layers() -> None:
    coupling = coupled(RESNET)
    latency = make_cost("latency", coupling, one_each(coupling))
    assert latency.at({}) == pytest.approx(make_cost("macs", coupling).at({}) / 1000)
    assert latency.total(plan(coupling, {})) == pytest.approx(latency.at({}))


def test_a_layer_between_measured_ones_costs_what_the_next_wider_does() -> None:
    """A table of the whole network alone: nothing is saved until layers of another kind are met; one more stair, and it is."""
    coupling = coupled(RESNET)
    name, table = "blocks/0/convolutions/0/conv", one_each(coupling)
    latency = make_cost("latency", coupling, table)
    assert latency.at({name: 9}) == latency.at({})
    stairs = {"conv 3x3/1 16x16x16 -> 16x16x8": 1.0, "conv 3x3/1 16x16x8 -> 16x16x16": 2.0}
    finer = make_cost("latency", coupling, Table("finer.yaml", {**table.layers, **stairs}))
    before = 2 * table.layers["conv 3x3/1 16x16x16 -> 16x16x16"]
    assert finer.at({name: 9}) == finer.at({})
    assert finer.at({name: 8}) == finer.at({name: 5}) == pytest.approx(finer.at({}) - before + 3.0)
    assert finer.saved({})[name] == pytest.approx((before - 3.0) / 15)


def test_a_missing_layer_is_named() -> None:
    coupling = coupled(RESNET)
    layers = dict(one_each(coupling).layers)
    del layers["conv 3x3/2 16x16x16 -> 8x8x32"]
    message = (r"cost table t\.yaml has no entry for layer blocks/1/convolutions/0/conv, `conv 3x3/2 16x16x16 -> 8x8x32`, nor "
               r"for a wider one \(it has none of that kind\)")  # fmt: skip
    with pytest.raises(UserError, match=message):
        make_cost("latency", coupling, Table("t.yaml", layers))
    narrow = {**layers, "conv 3x3/2 16x16x8 -> 8x8x32": 1.0}
    with pytest.raises(UserError, match=r"its 1 of that kind have fewer channels"):
        make_cost("latency", coupling, Table("t.yaml", narrow))


def test_latency_needs_a_table_and_costs_have_names() -> None:
    with pytest.raises(UserError, match=r"cost latency needs a table"):
        make_cost("latency", coupled(RESNET))
    with pytest.raises(UserError, match=r"no cost is called 'mac'\. Did you mean 'macs'"):
        make_cost("mac", coupled(RESNET))


def test_a_table_is_read_from_yaml_or_json(tmp_path: Path) -> None:
    file = tmp_path / "pi.yaml"
    file.write_text("device: pi3\nlayers:\n  dense 64 -> 10: 1\n  conv 1x1/1 8x8x32 -> 8x8x64 groups 4: 0.5\n")
    assert load_table(file).layers == {"dense 64 -> 10": 1.0, "conv 1x1/1 8x8x32 -> 8x8x64 groups 4": 0.5}
    file.write_text('{"layers": {"dense 64 -> 10": 1}}')
    assert load_table(file).layers == {"dense 64 -> 10": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"must have a mapping `layers` from layers to milliseconds"),
        ("layers: {}", r"must have a mapping `layers`"),
        ("layers: {conv 3x3 1 -> 2: 1}", r"an entry must read like `conv 3x3/1 .*`, got 'conv 3x3 1 -> 2'"),
        ("layers: {dense 64 -> 10: fast}", r"`dense 64 -> 10`: a latency is a number of ms, 0 at least, got 'fast'"),
        ("layers: {dense 64 -> 10: -1}", r"got -1"),
        ("layers: {dense 64 -> 10: .nan}", r"got nan"),
        ("layers: {", r"cannot be read"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "table.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_table(file)
    with pytest.raises(UserError, match=r"missing\.yaml: there is no such file"):
        load_table(tmp_path / "missing.yaml")


def test_a_depthwise_layer_of_one_channel_is_looked_up_as_one() -> None:
    """It may be written as a convolution, or as a depthwise one; measured are such of more channels."""
    coupling = couple({"name": "mobilenet_v1", "layout": "embedded", "blocks": 3, "width": 4}, (8, 8, 1), 10)
    table = one_each(coupling)
    cost = make_cost("latency", coupling, table)
    (depthwise,) = [ms for key, ms in table.layers.items() if key.startswith("depthwise 3x3/1 8x8x16")]
    narrow = {"stem/conv": 1}
    wider = {key: ms for key, ms in table.layers.items() if key.startswith("conv 3x3/1 8x8x1 -> 8x8x16")}
    assert cost.at(narrow) == cost.total(plan(coupling, {"stem/conv": [0]}))
    assert len(wider) == 1
    assert cost.saved({})["stem/conv"] >= 0
    assert table.latency_ms(next(layer for layer in products(plan(coupling, {"stem/conv": [0]}).network, (8, 8, 1))
                                 if layer.kernel == "blocks/0/depthwise/conv/kernel")) == depthwise  # fmt: skip
