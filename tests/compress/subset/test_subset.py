"""Distill-Net from a trained network to what leaves, on small pictures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from subset_nets import DENSE, INFO, SHAPE, config, dense, job, never, pictures, reduce, trainer

from flaxcomp.compress import run
from flaxcomp.compress.subset.subject import Subject
from flaxcomp.data.arrays import Arrays
from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression.subset import FIGURES
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.found import as_trained
from flaxcomp.train.inputs import normalise
from flaxcomp.train.job import Note, Stopped
from flaxcomp.train.pack import Trainer
from flaxcomp.train.restore import load_model


@pytest.fixture(scope="module")
def shared() -> Trainer:
    return trainer()


@pytest.fixture(scope="module")
def before(shared: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("run"), shared).root


@pytest.fixture
def paths(before: Path, tmp_path: Path) -> RunPaths:
    """A copy for each test of the run with the trained network."""
    return RunPaths.at(shutil.copytree(before, tmp_path / "run"))


def kept_accuracy(paths: RunPaths, name: str, trial: TrialConfig, images: Any, labels: Any, classes: tuple[int, ...]) -> float:
    """Of the network on disk, found independently of what was recorded."""
    network: Any = load_model(paths.model(name), as_trained(paths, name, trial), INFO)
    mine = np.isin(labels, classes)
    logits = network(jnp.asarray(normalise(images[mine], DENSE.dataset, INFO)))
    return float((np.asarray(logits).argmax(1) == labels[mine]).mean())


@pytest.mark.parametrize("partial", [True, False])
def test_the_network_that_leaves_keeps_the_bound_and_is_what_was_recorded(
    shared: Trainer, paths: RunPaths, partial: bool
) -> None:
    options = {"classes": ("nw", 3), "max_accuracy_loss": 0.05, "partial": partial}
    found, _ = reduce(paths, shared, "small", **options)
    trial = config(**options)
    assert (found["subset_kept_classes"], found["subset_removed_classes"]) == (2, 2)
    assert found["subset_val_accuracy_before"] >= 0.9
    assert found["subset_val_accuracy_after"] >= found["subset_val_accuracy_before"] - 0.05 - 1e-9
    images, labels = pictures(160, 1)
    assert kept_accuracy(paths, "small", trial, images, labels, (0, 3)) == pytest.approx(found["subset_test_accuracy_after"])
    assert kept_accuracy(paths, "dense", DENSE, images, labels, (0, 3)) == pytest.approx(found["subset_test_accuracy_before"])

    without = set() if partial else {"subset_val_accuracy_after_whole", "subset_test_accuracy_after_whole"}
    assert {name for name in found if name.startswith("subset_")} == set(FIGURES) - without
    whole, small = count(DENSE.model, SHAPE, 4), count(as_trained(paths, "small", trial).model, SHAPE, 4)
    assert whole.trainable_params - small.trainable_params == found["subset_parameters_removed"] > 0
    assert whole.macs - small.macs == found["subset_macs_skipped_whole"]
    assert found["subset_macs_skipped"] == found["subset_macs_skipped_whole"] + found["subset_macs_skipped_partial"]
    assert (found["trainable_params"], found["macs"]) == (small.trainable_params, small.macs)
    assert found["subset_removed_channels"] > 0
    masked = as_trained(paths, "small", trial).model.get("masked", [])
    assert bool(masked) == (found["subset_removed_positions"] > 0) == (found["subset_macs_skipped_partial"] > 0) == partial


def test_layers_are_told_one_by_one(shared: Trainer, paths: RunPaths) -> None:
    found, events = reduce(paths, shared, "small", classes=(0, 1), max_accuracy_loss=0.05)
    told = json.loads(paths.compression_file("small").read_text())["details"]
    assert told["classes"] == ["nw", "ne"]
    assert [row["layer"] for row in told["layers"]] == ["conv1", "conv2", "hidden"]
    for row in told["layers"]:
        area = row["positions"] // row["channels"]
        dormant = row["removed_channels"] * area + row["removed_positions"]
        assert row["dormant_density"] == pytest.approx(dormant / row["positions"])
        assert row["compression_ratio"] == pytest.approx(row["positions"] / (row["positions"] - dormant))
    assert sum(row["removed_channels"] for row in told["layers"]) == found["subset_removed_channels"]
    assert sum(row["macs_skipped_partial"] for row in told["layers"]) == found["subset_macs_skipped_partial"]
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[0] == "heat maps of 2 classes, 2 of them new"


def test_a_second_set_of_classes_reads_the_heat_maps_again(
    shared: Trainer, paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = Subject.mean_activity
    monkeypatch.setattr(Subject, "mean_activity", lambda *args: seen.append(len(args[3])) or real(*args))
    first, _ = reduce(paths, shared, "first", classes=(0, 1, 3), steps=2)
    assert len(seen) == 3
    _, events = reduce(paths, shared, "second", classes=(0, 3), steps=2)
    assert len(seen) == 3
    assert "heat maps of 2 classes, 0 of them new" in [event.text for event in events if isinstance(event, Note)]
    reduce(paths, shared, "third", classes=(2, 3), steps=2)
    assert len(seen) == 4
    reduce(paths, shared, "fewer", classes=(0, 3), steps=2, images_per_class=5)
    assert seen[4:] == [5, 5]

    for file in paths.heat_maps("dense").iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    again, _ = reduce(paths, shared, "again", classes=(0, 1, 3), steps=2)
    assert len(seen) == 9  # damaged files are made anew
    assert {k: v for k, v in again.items() if k.startswith("subset")} == {
        k: v for k, v in first.items() if k.startswith("subset")
    }


def test_an_interrupted_search_goes_on_where_it_was(shared: Trainer, paths: RunPaths) -> None:
    options = {"remove_fraction": 0.5, "max_accuracy_loss": 0.05}
    whole, _ = reduce(paths, shared, "whole", **options)
    calls = [0]

    def after(n: int) -> Callable[[], bool]:
        def stop() -> bool:
            calls[0] += 1
            return calls[0] > n

        return stop

    stops = 0
    while not paths.compression_file("cut").exists():
        calls[0] = 0
        events = list(run.train(shared, job(paths.root, "cut", config(**options), attempt=1 + stops), after(25)))
        stops += isinstance(events[-1], Stopped)
        assert stops < 20
    assert stops >= 1
    left = json.loads(paths.compression_file("cut").read_text())["figures"]
    assert left == {name: whole[name] for name in left}


def test_a_larger_loss_and_the_order_are_kept_to(shared: Trainer, paths: RunPaths) -> None:
    details = {}
    for order, spend in (("input_first", "freely"), ("output_first", "freely"), ("input_first", "evenly")):
        found, _ = reduce(paths, shared, order + spend, classes=(0, 2), max_accuracy_loss=0.1, order=order, spend=spend)
        assert found["subset_val_accuracy_after"] >= found["subset_val_accuracy_before"] - 0.1 - 1e-9
        rows = json.loads(paths.compression_file(order + spend).read_text())["details"]["layers"]
        details[order, spend] = {row["layer"]: row["threshold"] or 0 for row in rows}
    layers = ["conv1", "conv2", "hidden"]
    assert list(details["output_first", "freely"]) == layers[::-1]
    assert list(details["input_first", "freely"]) == layers
    assert details["input_first", "freely"]["conv1"] >= details["input_first", "evenly"]["conv1"]
    assert details["input_first", "freely"]["conv1"] >= details["output_first", "freely"]["conv1"]


def test_the_outputs_of_other_classes_can_be_switched_off(shared: Trainer, paths: RunPaths) -> None:
    options = {"classes": ("ne", "sw"), "outputs": "kept", "max_accuracy_loss": 0.05}
    found, _ = reduce(paths, shared, "kept", **options)
    images, labels = pictures(160, 1)
    network: Any = load_model(paths.model("kept"), as_trained(paths, "kept", config(**options)), INFO)
    logits = np.asarray(network(jnp.asarray(normalise(images, DENSE.dataset, INFO))))
    assert logits.shape == (160, 4)
    assert np.isin(logits.argmax(1), (1, 2)).all()
    assert np.ptp(logits[:, [0, 3]]) == 0
    mine = np.isin(labels, (1, 2))
    assert (logits[mine].argmax(1) == labels[mine]).mean() == pytest.approx(found["subset_test_accuracy_after"])


def test_impossible_data_is_refused(paths: RunPaths) -> None:
    images, labels = pictures(400, 0)
    some = labels != 2
    without = Trainer(Arrays(images[some], labels[some], *pictures(160, 1), INFO))
    with pytest.raises(UserError, match=r"class 2 must have training images"):
        list(run.train(without, job(paths.root, "none", config(classes=(1, 2))), never))
