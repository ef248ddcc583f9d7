"""CramNet from a trained network to its results, on a tiny network and a few digits."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from msgspec.structs import replace

from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.compress import run
from flaxcomp.compress.cramnet import method, solving, training
from flaxcomp.compress.method import Found, Workshop
from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression.cramnet import Cramnet, SubProblems
from flaxcomp.sweep.spec import Dataset, Optimizer, Train, TrialConfig
from flaxcomp.train.fit import Stop
from flaxcomp.train.found import as_trained
from flaxcomp.train.job import EpochDone, Event, Finished
from flaxcomp.train.pack import Trainer
from searches import job, never, small_trainer, train_source

SHAPE = (28, 28, 1)
WIDTHS = (4, 4, 6, 6, 16)
NARROW = (3, 4, 6, 4, 12)
DENSE = TrialConfig(
    dataset=Dataset(name="mnist_sample"),
    model={"name": "keras_cifar", "widths": list(WIDTHS), "dropout": 0.0},
    train=Train(epochs=8, batch_size=32, optimizer=Optimizer(learning_rate=5e-3)),
)
SHORT = SubProblems(epochs=2, batch_size=32, learning_rate=1e-2)
SMALLER = replace(DENSE, cramnet=Cramnet(widths=NARROW, sub_problems=SHORT, epochs=4), source="dense")


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return small_trainer(images=600)


@pytest.fixture(scope="module")
def trained(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_source(trainer, tmp_path_factory.mktemp("run"), DENSE)


@pytest.fixture
def dense(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def searched(
    trainer: Trainer, root: Path, should_stop: Callable[[], bool] = never, **block: Any
) -> tuple[Found, list[str], Workshop]:
    """What the search of SMALLER's block with changes finds, the lines that it tells, and its workshop."""
    config = replace(SMALLER, cramnet=replace(SMALLER.cramnet, **block))
    workshop = Workshop(trainer, job(root, "small", config), should_stop)
    events, told = method.search(workshop), []
    while True:
        try:
            told.append(next(events).text)  # type: ignore[attr-defined]
        except StopIteration as end:
            return end.value, told, workshop


def test_the_whole_method_ends_in_the_network_that_was_asked_for(trainer: Trainer, dense: Path) -> None:
    events: list[Event] = list(run.train(trainer, job(dense, "small", SMALLER), never))
    assert isinstance(events[-1], Finished)
    results = events[-1].results["small"]
    model = {"name": "keras_cifar", "widths": list(NARROW), "dropout": 0.0}
    assert results["params"] == count(model, SHAPE, 10).params
    assert (results["cramnet_sub_problems"], results["cramnet_ended"]) == (3, "done")
    assert results["cramnet_steps"] == 3 * 2 * (540 // 32)
    assert len([event for event in events if isinstance(event, EpochDone)]) == 4
    paths = RunPaths.at(dense)
    assert as_trained(paths, "small", SMALLER).model == model
    rows = json.loads(paths.compression_file("small").read_text())["details"]["sub_problems"]
    assert [(row["layer"], row["width"], row["target"]) for row in rows] == [
        ("hidden", 16, 12), ("convolutions/3", 6, 4), ("convolutions/0", 4, 3),
    ]  # fmt: skip
    assert [row["trained"] for row in rows] == [
        ["hidden", "logits"], ["convolutions/3", "hidden"], ["convolutions/0", "convolutions/1"],
    ]  # fmt: skip
    assert [row["inputs"] for row in rows] == ["float32", "float32", "uint8"]
    assert all(row["losses"][-1] < row["losses"][0] for row in rows)
    assert results["cramnet_source_val_accuracy"] > 0.8
    assert results["test_accuracy"] > 0.6


def test_what_stands_around_a_sub_problem_stays_as_it_was(trainer: Trainer, dense: Path) -> None:
    found, _, workshop = searched(trainer, dense, widths=(4, 4, 6, 6, 8))
    before, after = (flatten(weights["params"]) for weights in (workshop.source.weights, found.weights))
    for name, leaf in after.items():
        if name.startswith("convolutions"):
            np.testing.assert_array_equal(leaf, before[name])
        elif name != "logits/bias":
            assert leaf.shape != before[name].shape
    assert np.abs(after["logits/bias"] - before["logits/bias"]).max() > 0


@pytest.mark.parametrize("initialisation", ["random", "largest"])
def test_from_the_input_the_front_is_the_small_one(trainer: Trainer, dense: Path, initialisation: str) -> None:
    found, told, _ = searched(trainer, dense, direction="input_first", initialisation=initialisation)
    rows = found.details["sub_problems"]
    assert [row["layer"] for row in rows] == ["convolutions/0", "convolutions/3", "hidden"]
    assert found.model["widths"] == list(NARROW)
    assert len(told) == 3
    assert "sub-problem 2 of 3, convolutions/3 6 to 4: loss" in told[1]


def test_replaced_layers_make_a_network_with_a_name(trainer: Trainer, dense: Path) -> None:
    replaced = {"convolutions/1": "residual", "convolutions/3": "depthwise_separable"}
    found, _, workshop = searched(trainer, dense, widths=None, replace=replaced)
    model = {**DENSE.model, "kinds": ["conv", "residual", "conv", "depthwise_separable"]}
    assert found.model == model
    rows = found.details["sub_problems"]
    assert rows[0]["trained"] == ["convolutions/3/depthwise", "convolutions/3/pointwise", "hidden"]
    assert [row["kind"] for row in rows] == ["depthwise_separable", "residual"]
    assert found.weights is not None
    assert found.figures["cramnet_val_accuracy"] == accuracy_of(workshop, found)


def accuracy_of(workshop: Workshop, found: Found) -> float:
    program = workshop.program(replace(workshop.plain, model=found.model))
    (confusion,) = program.evaluate(jax.tree.map(lambda a: a[None], found.weights), "validation")["confusion"]
    return float(np.trace(confusion) / confusion.sum())


def test_it_ends_when_small_enough(trainer: Trainer, dense: Path) -> None:
    enough = count({**DENSE.model, "widths": [4, 4, 6, 4, 12]}, SHAPE, 10).params
    for then in ("fine_tune", "scratch"):
        found, _, _ = searched(trainer, dense, target_params=enough, then=then)
        assert found.model["widths"] == [4, 4, 6, 4, 12]
        assert (found.figures["cramnet_ended"], found.figures["cramnet_sub_problems"]) == ("target_params", 2)
        assert (found.weights is None) == (then == "scratch")
        shutil.rmtree(RunPaths.at(dense).pack("pack-small"), ignore_errors=True)


def test_a_sub_problem_that_loses_too_much_is_taken_back(trainer: Trainer, dense: Path) -> None:
    found, told, workshop = searched(trainer, dense, widths=(4, 4, 6, 1, 1), max_accuracy_loss=0.0, direction="input_first",
                                     sub_problems=SubProblems(steps=1, batch_size=32))  # fmt: skip
    assert found.model == DENSE.model
    assert (found.figures["cramnet_ended"], found.figures["cramnet_sub_problems"]) == ("max_accuracy_loss", 0)
    assert found.figures["cramnet_val_accuracy"] == found.figures["cramnet_source_val_accuracy"]
    assert len(told) == 1
    assert told[0].endswith("taken back")
    assert found.weights is not None
    for name, leaf in flatten(found.weights).items():
        np.testing.assert_array_equal(leaf, flatten(workshop.source.weights)[name])


def test_a_sub_problem_that_diverges_is_the_last(trainer: Trainer, dense: Path) -> None:
    found, told, _ = searched(trainer, dense, sub_problems=replace(SHORT, learning_rate=1e30))
    assert (found.figures["cramnet_ended"], found.model) == ("diverged", DENSE.model)
    assert "not finite" in told[0]
    json.dumps(found.details, allow_nan=False)


def test_from_scratch_nothing_is_solved(trainer: Trainer, dense: Path) -> None:
    found, told, _ = searched(trainer, dense, then="scratch", dropout=0.25)
    assert (found.weights, told) == (None, [])
    assert (found.model["widths"], found.model["dropout"]) == (list(NARROW), 0.25)


def test_interrupted_it_goes_on_and_ends_in_the_same_network(
    trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _, _ = searched(trainer, dense)
    shutil.rmtree(RunPaths.at(dense).pack("pack-small"), ignore_errors=True)
    shutil.rmtree(RunPaths.at(dense).search("pack-small"), ignore_errors=True)
    monkeypatch.setattr(training, "DISPATCH_SECONDS", 0.0)  # one step a dispatch
    solved: list[str] = []
    original = solving.starting
    monkeypatch.setattr(solving, "starting", lambda *a: solved.append(a[2].layer) or original(*a))
    attempts = 0
    while True:
        attempts += 1
        asked = itertools.count()
        try:
            found, _, _ = searched(trainer, dense, lambda c=asked: next(c) >= 40)  # a sub-problem has 32 steps
            break
        except Stop:
            pass
    assert attempts == 3
    assert solved == ["hidden", "convolutions/3", "convolutions/3", "convolutions/0", "convolutions/0"]
    assert found.model == whole.model
    for name, leaf in flatten(whole.weights).items():
        np.testing.assert_array_equal(flatten(found.weights)[name], leaf, err_msg=name)
    losses = [[row["losses"] for row in f.details["sub_problems"]] for f in (whole, found)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"widths": (4, 4, 6, 6)}, "it has 5 widths"),
        ({"widths": (4, 4, 6, 6, 17)}, "must not be larger than the network's: entry 4 of keras_cifar is 16, got 17"),
        ({"widths": None, "replace": {"convolutions/4": "residual"}}, "Did you mean 'convolutions/"),
        ({"widths": None, "replace": {"hidden": "residual"}}, "must name convolutions of keras_cifar, got 'hidden'"),
    ],
)  # fmt: skip
def test_the_impossible_is_refused_before_anything_trains(block: dict[str, Any], words: str) -> None:
    config = replace(SMALLER, cramnet=replace(SMALLER.cramnet, **block))
    with pytest.raises(UserError) as caught:
        method.check(config, SHAPE, 10)
    assert words in str(caught.value)


def test_the_network_on_disk_is_the_one_that_was_found(trainer: Trainer, dense: Path) -> None:
    """A rate of nearly nothing in the fine-tuning leaves it as the last sub-problem did."""
    still = replace(SMALLER, cramnet=replace(SMALLER.cramnet, widths=(4, 4, 6, 6, 8), learning_rate=1e-12))
    list(run.train(trainer, job(dense, "small", still), never))
    found, _, _ = searched(trainer, dense, widths=(4, 4, 6, 6, 8))
    left = flatten(load_model(RunPaths.at(dense).model("small")))
    for name, leaf in flatten(found.weights).items():
        np.testing.assert_allclose(left[name], leaf, atol=1e-6)
