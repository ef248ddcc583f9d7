"""Pruning from a trained source to what is found: steps, trainings between them, and what a kill leaves."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from pruning_nets import filled

from flaxcomp.checkpoint.models import save_models
from flaxcomp.checkpoint.trees import flatten, nest
from flaxcomp.compress.method import Found, Workshop
from flaxcomp.compress.prune import criteria, method, training
from flaxcomp.compress.prune.coupling import couple, evaluated
from flaxcomp.compress.prune.surgery import mask_of, plan, sliced
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression.prune import Prune
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Distill, Hint, Optimizer, Phase, Train, TrialConfig
from flaxcomp.train import fit
from flaxcomp.train.fit import Stop
from flaxcomp.train.job import PackJob
from flaxcomp.train.pack import Trainer
from flaxcomp.train.restore import weights_of, with_weights

SMALL = TrialConfig(  # has no batch norm, and compiles fast
    dataset=Dataset(name="mnist_sample", size=8),
    model={"name": "simplenet_v1"},
    train=Train(epochs=2, batch_size=64, optimizer=Optimizer(learning_rate=1e-2)),
)
SHAPE = (8, 8, 1)
WIDTHS = [4, 4, 6, 6, 8, 8]
RESNET = replace(SMALL, model={"name": "resnet", "layout": "cifar", "depth": 8, "widths": WIDTHS})


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    full = load("mnist_sample")
    return Trainer(
        Arrays(full.train_images[:320], full.train_labels[:320], full.test_images[:100], full.test_labels[:100], full.info)
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path


def workshop(
    trainer: Trainer, run: Path, block: Prune, dense: TrialConfig = SMALL, stops: Iterator[bool] | None = None
) -> Workshop:
    """Its source has random weights."""
    source = filled(evaluated(dense.model, SHAPE, 10))
    save_models({RunPaths.at(str(run)).model("dense"): weights_of(source)})
    config = replace(dense, prune=block, source="dense")
    job = PackJob(str(run), "pack-pruned", 1, signature(config), {"pruned": config})
    return Workshop(trainer, job, (lambda: False) if stops is None else lambda: next(stops))


def end_of(steps: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def found_of(shop: Workshop) -> Found:
    found: Found = end_of(method.search(shop))
    return found


def same(one: Any, other: Any) -> bool:
    a, b = flatten(one), flatten(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("criterion", criteria.names())
def test_every_criterion_finds_a_network_of_the_wanted_size(criterion: str, trainer: Trainer, run: Path) -> None:
    block = Prune(criterion=criterion, ratio=0.5, of="macs", images=64, then="fine_tune")
    shop = workshop(trainer, run, block, RESNET)
    found = found_of(shop)
    before, after = (count(model, SHAPE, 10).macs for model in (shop.source.model, found.model))
    assert 0.25 * before < after <= 0.5 * before
    figures, details = found.figures, found.details
    assert (figures["prune_cost_before"], figures["prune_cost_after"]) == (before, after)
    assert figures["prune_ratio"] == pytest.approx(1 - after / before)
    assert found.trains
    kept = {group["name"]: group["kept"] for group in details["groups"] if group["frozen"] is None}
    assert sum(kept.values()) == figures["prune_channels_after"] == details["costs"]["channels"]["after"]
    assert details["costs"]["macs"] == {"before": before, "after": after}
    assert details["steps"] == [{"step": 1, "cost": after, "threshold": figures["prune_threshold"]}]
    assert found.weights is not None
    assert flatten(found.weights)["params/stem/conv/kernel"].shape[-1] == kept["stem/conv"]


def test_what_is_left_are_the_sources_weights_and_from_scratch_none(trainer: Trainer, run: Path) -> None:
    block = Prune(criterion="l1", ratio=0.4, scope="layer", then="fine_tune")
    shop = workshop(trainer, run, block, RESNET)
    found = found_of(shop)
    filters = flatten(shop.source.weights)["params/blocks/0/convolutions/0/conv/kernel"]
    (inside,) = (group for group in found.details["groups"] if group["name"] == "blocks/0/convolutions/0/conv")
    best = np.sort(np.argsort(-np.abs(filters).sum((0, 1, 2)))[: inside["kept"]])
    assert inside["kept"] < inside["channels"]
    assert found.weights is not None
    bias = "params/blocks/0/convolutions/0/bn/bias"
    np.testing.assert_array_equal(flatten(found.weights)[bias], flatten(shop.source.weights)[bias][best])
    scratch = found_of(workshop(trainer, run, replace(block, then="scratch"), RESNET))
    assert scratch.weights is None
    assert scratch.model == found.model


def test_uniform_takes_the_same_share_everywhere(trainer: Trainer, run: Path) -> None:
    """Stages are the stream's parts added: 4, 2 more, 2 more."""
    found = found_of(workshop(trainer, run, Prune(criterion="uniform", ratio=0.5), RESNET))
    assert found.model["widths"] == [2, 2, 3, 3, 4, 4]


def test_a_cost_divides_the_scores(trainer: Trainer, run: Path) -> None:
    """All channels being worth the same, those that save most go first."""
    table = run / "table.yaml"
    table.write_text("layers: {conv 5x5/1 8x8x1 -> 8x8x3: 9.0, conv 5x5/1 8x8x1 -> 8x8x1: 1.0, conv 5x5/1 4x4x3 -> 4x4x6: 1.0, "
                     "dense 24 -> 10: 1.0}")  # fmt: skip
    block = Prune(criterion="l2", normalize="max", ratio=0.2, per_cost="latency", costs=str(table))
    found = found_of(workshop(trainer, run, block))
    assert found.model["widths"] == [1, 6]


def test_steps_compile_one_program_and_hold_removed_channels_at_zero(trainer: Trainer, run: Path) -> None:
    """Three steps of equal size; what trains between them is masked."""
    block = Prune(criterion="l2", ratio=0.6, of="params", scope="layer", schedule="iterative", steps=3, tune_steps=4,
                  then="fine_tune")  # fmt: skip
    shop = workshop(trainer, run, block)
    compiled = shop.program().compilations()
    found = found_of(shop)
    assert shop.program().compilations() <= compiled + 1
    steps = found.details["steps"]
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step, share in zip(steps, (0.8, 0.6, 0.4), strict=True):
        assert step["cost"] <= share * found.figures["prune_cost_before"]
    assert ["val_accuracy" in step for step in steps] == [True, True, False]
    kept = shop.kept_model("steps")
    assert kept is not None
    weights, meta = kept
    assert meta["step"] == 2
    gone = np.setdiff1d(np.arange(6), meta["alive"]["convolutions/1"])
    assert gone.size
    for name in ("kernel", "bias"):
        assert not flatten(weights)[f"params/convolutions/1/{name}"][..., gone].any()
    assert not same(weights["params"], shop.source.weights["params"])


def test_tuning_what_is_masked_is_tuning_what_is_sliced(trainer: Trainer, run: Path) -> None:
    shop = workshop(trainer, run, Prune(criterion="l2", ratio=0.5, schedule="iterative", steps=2, tune_steps=5))
    source = shop.source
    cut = plan(couple(source.model, SHAPE, 10), {"convolutions/0": [0, 2], "convolutions/1": [1, 3, 4]})
    tuned, accuracy = end_of(training.tune(shop, source.model, source.weights, mask_of(source.module, cut), 1))
    narrow = weights_of(sliced(source.module, cut))
    ones = {name: np.ones_like(leaf) for name, leaf in flatten(narrow["params"]).items()}
    alone, same_accuracy = end_of(training.tune(shop, cut.model, narrow, nest(ones), 1))
    left = weights_of(sliced(with_weights(source.module, tuned), cut))
    for name, leaf in flatten(alone["params"]).items():
        np.testing.assert_allclose(flatten(left["params"])[name], leaf, atol=1e-4, err_msg=name)
    assert accuracy == pytest.approx(same_accuracy, abs=0.04)


def test_a_full_training_goes_on_from_the_narrower_network(trainer: Trainer, run: Path) -> None:
    block = Prune(criterion="l2", ratio=0.6, schedule="iterative", steps=2, retrain_at=(1,), then="fine_tune")
    shop = workshop(trainer, run, block)
    found = found_of(shop)
    kept = shop.kept_model("steps")
    assert kept is not None
    assert (kept[1]["alive"], sum(kept[1]["model"]["widths"]), sum(found.model["widths"])) == ({}, 6, 3)
    narrower = kept[1]["model"]["widths"]
    assert all(a <= b for a, b in zip(found.model["widths"], narrower, strict=True))
    assert {g["name"]: g["channels"] for g in found.details["groups"] if g["frozen"] is None} == {
        "convolutions/0": 3, "convolutions/1": 6}  # fmt: skip
    assert found.figures["prune_channels_before"] == 9


def test_slimming_penalises_the_scales_of_batch_norms_alone() -> None:
    """0.5 (|-1| + |2| + |3|): a scale without a running variance beside it is no batch norm's."""
    params = {"a": {"scale": np.array([-1.0, 2.0]), "bias": np.array([9.0])}, "b": {"scale": np.array([3.0])},
              "c": {"scale": np.array([100.0])}}  # fmt: skip
    stats = {"a": {"mean": 0.0, "var": 1.0}, "b": {"mean": 0.0, "var": 1.0}, "c": {"count": 1.0}}
    variant = training.slimming(0.5)
    assert variant.penalty is not None
    assert float(variant.penalty(params, stats)) == 3.0
    assert variant.key != training.slimming(0.25).key


@pytest.mark.slow
def test_slimming_pulls_scales_towards_zero(trainer: Trainer, run: Path) -> None:
    """The same training with and nearly without the penalty, and a search that begins with it."""
    sums = {}
    for penalty in (1e-9, 0.1):
        block = Prune(criterion="batch_norm_scale", ratio=0.5, penalty=penalty, penalty_epochs=5, tune_learning_rate=1e-2)
        shop = workshop(trainer, run / str(penalty), block, RESNET)
        trained = end_of(training.sparse(shop, shop.source.model, shop.source.weights))
        leaves = flatten(trained["params"])
        sums[penalty] = sum(np.abs(leaf).sum() for name, leaf in leaves.items() if name.endswith("/scale"))
    assert sums[0.1] < 0.95 * sums[1e-9]
    found = found_of(shop)
    assert found.figures["prune_channels_after"] <= found.figures["prune_channels_before"] / 2


def test_stopped_anywhere_it_finds_the_same(trainer: Trainer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to stop again and again, within the training between steps as well; a step at a time."""
    monkeypatch.setattr(training, "_CHUNK_S", 0.0)
    block = Prune(criterion="fisher", ratio=0.6, images=50, schedule="iterative", steps=3, tune_steps=6, then="fine_tune")
    whole = found_of(workshop(trainer, run, block))
    shutil.rmtree(RunPaths.at(str(run)).search("pack-pruned"))
    for attempt in itertools.count(1):
        asked = itertools.count()
        try:
            found = found_of(workshop(trainer, run, block, stops=(next(asked) >= 5 for _ in itertools.repeat(None))))
            break
        except Stop:
            assert attempt < 20
    assert attempt > 2
    assert (found.model, found.figures, found.details) == (whole.model, whole.figures, whole.details)
    assert same(found.weights, whole.weights)


def test_a_retraining_in_phases_goes_on_from_the_middle_of_the_second(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each phase has an optimizer of its own, of the parameters that train in it."""
    monkeypatch.setattr(fit, "DISPATCH_SECONDS", 0.0)
    phases = (Phase(train="last", steps=2, optimizer=SMALL.train.optimizer), Phase(steps=4, optimizer=Optimizer(name="sgd")))
    dense = replace(SMALL, train=replace(SMALL.train, phases=phases))
    whole = end_of(training.retrain(workshop(trainer, tmp_path / "whole", Prune(), dense), dense.model, 1))
    for steps in (2, 4):
        run = tmp_path / f"stopped-{steps}"
        stops = itertools.chain([False] * steps, itertools.repeat(True))
        with pytest.raises(Stop):
            end_of(training.retrain(workshop(trainer, run, Prune(), dense, stops), dense.model, 1))
        weights, accuracy = end_of(training.retrain(workshop(trainer, run, Prune(), dense), dense.model, 1))
        assert same(weights, whole[0])
        assert accuracy == whole[1]


def test_trainings_within_a_search_learn_hints_beside_the_loss(trainer: Trainer, run: Path) -> None:
    """They would otherwise be over before the epochs of hints alone are."""
    taught = replace(SMALL, distill=Distill(teacher="teacher", hint=Hint(epochs=1, weight=3.0)))
    config = workshop(trainer, run, Prune(), taught).tuning(taught.model, None)
    assert config.distill == Distill(teacher="teacher", hint=Hint(epochs=0, weight=3.0))
    assert config.train.optimizer.learning_rate == pytest.approx(1e-3)
    assert workshop(trainer, run, Prune()).tuning(SMALL.model, 0.5).distill is None
