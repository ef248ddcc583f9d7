"""What a network makes impossible, before anything is trained; and which groups stay."""

from pathlib import Path
from typing import Any

import pytest

from flaxcomp.compress.costs import prunable
from flaxcomp.compress.prune.method import check
from flaxcomp.compress.prune.prepare import prepare
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.sweep.compression.prune import Prune
from flaxcomp.sweep.spec import Dataset, TrialConfig

RESNET = {"name": "resnet", "layout": "cifar", "depth": 8}
WIDE = {"name": "wide_resnet", "layout": "embedded", "blocks": 3, "width": 8}
PLAIN = {"name": "simplenet_v1"}
SHAPE = (32, 32, 3)


def names(block: Prune, model: dict[str, Any] = RESNET) -> set[str]:
    return {group.name for group in prunable(prepare(block, model, SHAPE, 10).coupling)}


def trial(block: Prune, model: dict[str, Any]) -> TrialConfig:
    return TrialConfig(dataset=Dataset(name="mnist"), model=model, prune=block, source="0" * 16)


@pytest.mark.parametrize(
    ("block", "model", "message"),
    [
        (Prune(criterion="batch_norm_scale"), PLAIN, r"prune\.criterion batch_norm_scale needs batch norm .* simplenet_v1 has"),
        (Prune(criterion="l1", penalty=1e-4), PLAIN, r"prune\.penalty needs batch norm"),
        (Prune(ratio=0.8), PLAIN, r"prune\.ratio must be at most 0\.7777 of the channels of simplenet_v1, got 0\.8: a "),
        (Prune(ratio=0.99, of="params", ignore=("blocks/2/*",)), RESNET, r"prune\.ratio must be at most 0\.\d+ of the params"),
        (Prune(ignore=("steam",)), RESNET, r"prune\.ignore: 'steam' matches no group"),
        (Prune(round_to={"steam": 8}), RESNET, r"prune\.round_to: 'steam' matches no group"),
        (Prune(equal_count=(("steam",),)), RESNET, r"prune\.equal_count: 'steam' matches no group"),
        (Prune(tie=(("a.0", "b.0"),)), RESNET, r"prune\.tie: no axis with channels is called 'a\.0'"),
        (Prune(ignore=("*",)), RESNET, r"prune: no group of channels of resnet may be cut; `flaxcomp model resnet --groups`"),
    ],
)  # fmt: skip
def test_what_the_network_refuses(block: Prune, model: dict[str, Any], message: str) -> None:
    shape = (28, 28, 1) if model == PLAIN else SHAPE
    with pytest.raises(UserError, match=message):
        check(trial(block, model), shape, 10)


def test_what_the_network_allows() -> None:
    check(trial(Prune(ratio=0.77), PLAIN), (28, 28, 1), 10)
    check(trial(Prune(ratio=0.9, criterion="batch_norm_scale"), RESNET), SHAPE, 10)


def test_a_cost_table_without_the_layer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pi.yaml"
    file.write_text("layers: {dense 64 -> 10: 1.0}")
    for block in (Prune(of="latency", costs=str(file)), Prune(per_cost="latency", costs=str(file))):
        with pytest.raises(UserError, match=r"pi\.yaml has no entry for layer stem/conv, `conv 3x3/1 32x32x3 -> 32x32x16`"):
            check(trial(block, RESNET), SHAPE, 10)
    with pytest.raises(UserError, match=r"cost table .*none\.yaml: there is no such file"):
        check(trial(Prune(of="latency", costs=str(tmp_path / "none.yaml")), RESNET), SHAPE, 10)


def test_ignored_groups_are_not_what_the_ratio_counts() -> None:
    whole, part = (prepare(Prune(ignore=ignore), RESNET, SHAPE, 10) for ignore in ((), ("blocks/2/*",)))
    assert whole.counted.total(whole.whole) == 16 + 16 + 16 + 32 + 32 + 64  # inside three blocks, and the stream's three parts
    assert part.counted.total(part.whole) < whole.counted.total(whole.whole)


def test_strided_layers_are_spared() -> None:
    """The first convolutions of stages 2 and 3; in a WideResNet not the stages, whose projections are strided but not alone."""
    assert names(Prune()) - names(Prune(spare_strided=True)) == {"blocks/1/convolutions/0/conv", "blocks/2/convolutions/0/conv"}
    wide = names(Prune(), WIDE) - names(Prune(spare_strided=True), WIDE)
    assert wide == {"blocks/1/conv1", "blocks/2/conv1"}


def test_groups_without_batch_norm_stay_where_its_scale_decides() -> None:
    """The hidden dense layers of VGG-16, as it was published with batch norm."""
    model = {"name": "vgg16", **registry.small("vgg16"), "norm": "batch", "layout": "imagenet"}
    assert names(Prune(), model) - names(Prune(criterion="batch_norm_scale"), model) == {"hidden/0", "hidden/1"}
