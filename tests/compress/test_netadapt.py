"""NetAdapt from a trained network to a smaller one, on small images."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from msgspec.structs import replace

from flaxcomp.compress import run
from flaxcomp.compress.netadapt import method
from flaxcomp.compress.netadapt.choice import best
from flaxcomp.compress.netadapt.method import check
from flaxcomp.compress.prune.surgery import sliced
from flaxcomp.errors import UserError
from flaxcomp.sweep.compression.netadapt import Netadapt
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train import fit
from flaxcomp.train.job import Stopped
from flaxcomp.train.pack import Trainer
from flaxcomp.train.restore import weights_of, with_weights
from searches import (
    PLAIN,
    RESIDUAL,
    after,
    dense,
    found_by,
    job,
    macs_of,
    outcome,
    random_source,
    search,
    small_trainer,
    train_source,
    workshop,
)

SHAPE = (8, 8, 1)
BLOCK = Netadapt(ratio=0.6, reduction=0.2, decay=0.9, tune_steps=3, epochs=1)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return small_trainer()


@pytest.fixture(scope="module")
def source(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_source(trainer, tmp_path_factory.mktemp("plain") / "run", dense(PLAIN))


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With random weights: what is chosen is of interest, not how well it does."""
    return random_source(tmp_path_factory.mktemp("residual") / "run", RESIDUAL)


def small(block: Netadapt = BLOCK, model: dict[str, Any] = PLAIN) -> TrialConfig:
    return replace(dense(model), netadapt=block, source="dense")


def test_it_goes_down_step_by_step_to_the_ratio(trainer: Trainer, source: Path) -> None:
    """Every step takes the best candidate of those that save what it is to save; the results are the smaller network's."""
    found = search(trainer, source, small())
    whole = macs_of(PLAIN)
    assert found.results["netadapt_source_cost"] == whole
    assert found.results["macs"] == found.results["netadapt_cost"] == macs_of(found.model) <= 0.4 * whole
    steps = found.details["steps"]
    assert len(steps) == found.results["netadapt_steps"] <= BLOCK.most_steps
    before = whole
    for number, step in enumerate(steps):
        assert step["wanted"] <= 0.2 * 0.9**number * whole * (1 + 1e-9)
        candidates = step["candidates"]
        assert all(before - each["cost"] >= step["wanted"] for each in candidates)
        accuracies, saved = [each["accuracy"] for each in candidates], [before - each["cost"] for each in candidates]
        taken = candidates[best(step["accuracy_before"], accuracies, saved)]
        assert {name: step[name] for name in taken} == taken
        before = step["cost"]
    assert before == found.results["netadapt_cost"]
    assert steps[-1]["accuracy"] == found.results["netadapt_val_accuracy"]
    assert found.results["netadapt_candidates"] == sum(len(step["candidates"]) for step in steps)
    assert f"netadapt: step 1 of {BLOCK.most_steps} at most, " in found.notes[0]


def test_a_kill_repeats_one_step_at_most(
    trainer: Trainer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after any dispatch it goes on from the last whole step and ends as if nothing had happened."""
    monkeypatch.setattr(fit, "DISPATCH_SECONDS", 0.0)
    whole = search(trainer, source, small())
    folder = shutil.copytree(source, tmp_path / "run")
    stops, notes = 0, []
    while True:
        events = list(run.train(trainer, job(folder, "small", small(), attempt=1 + stops), after(7)))
        notes += [event.text for event in events if hasattr(event, "text") and event.text.startswith("netadapt")]
        if not isinstance(events[-1], Stopped):
            break
        stops += 1
    assert stops >= 2
    assert notes == whole.notes  # no step is told twice
    again = outcome(folder, events)
    assert (again.details, again.model) == (whole.details, whole.model)
    assert again.results["test_loss"] == pytest.approx(whole.results["test_loss"], rel=1e-5)


def test_candidates_side_by_side_are_as_one_by_one(trainer: Trainer, source: Path) -> None:
    """With a last chunk that is not full; one program serves each way."""
    alone, together = (method._Search(workshop(trainer, source, small(replace(BLOCK, tune_learning_rate=1e-2)))) for _ in "ab")
    together._members = 3
    reached = [each.begun() for each in (alone, together)]
    assert reached[0].accuracy == reached[1].accuracy > 0.15
    candidates, wanted = alone.candidates(reached[0])
    assert len(candidates) == 2
    one, other = alone.step(reached[0], candidates, wanted), together.step(reached[1], candidates, wanted)
    assert one.history == other.history
    for a, b in zip(np_leaves(one.model), np_leaves(other.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def np_leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_candidate_is_the_network_without_its_channels(trainer: Trainer, source: Path) -> None:
    """Masked it has the accuracy that the narrower network has."""
    shop = workshop(trainer, source, small(replace(BLOCK, tune_steps=0)))
    searching = method._Search(shop)
    begun = searching.begun()
    candidates, wanted = searching.candidates(begun)
    progress = searching.step(begun, candidates, wanted)
    network = with_weights(searching._network, begun.model)
    assert len(candidates) == 2
    for candidate, told in zip(candidates, progress.history[0]["candidates"], strict=True):
        narrow = shop.fit(replace(shop.plain, model=candidate.cut.model))
        weights = weights_of(sliced(network, candidate.cut))
        assert narrow.accuracy(narrow.state([weights]))[0] == told["accuracy"]
        assert macs_of(candidate.cut.model) == told["cost"]


def test_one_compiled_program_serves_the_search(trainer: Trainer, source: Path) -> None:
    shop = workshop(trainer, source, small(replace(BLOCK, tune_learning_rate=3e-3)))
    searching = method._Search(shop)
    progress = searching.begun()
    before = searching.fit.program.compilations()
    for _ in range(2):
        candidates, wanted = searching.candidates(progress)
        progress = searching.step(progress, candidates, wanted)
    assert searching.fit.program.compilations() <= before + 1


def test_the_test_set_decides_nothing(trainer: Trainer, source: Path) -> None:
    one, other = (found_by(method, workshop(each, source, small())) for each in (trainer, small_trainer(test_label=7)))
    assert (one.details, one.model, one.figures) == (other.details, other.model, other.figures)


def test_fisher_scores_the_channels(trainer: Trainer, residual: Path) -> None:
    """Other channels than by L2, of the same layers and as many."""
    kept = []
    for criterion in ("l2", "fisher"):
        block = replace(BLOCK, criterion=criterion, images=64, tune_steps=0, reduction=0.15)
        searching = method._Search(workshop(trainer, residual, small(block, RESIDUAL)))
        candidates, _ = searching.candidates(searching.begun())
        kept.append({each.group: each.cut.kept[each.group].tolist() for each in candidates})
    assert {name: len(channels) for name, channels in kept[0].items()} == {name: len(c) for name, c in kept[1].items()}
    assert kept[0] != kept[1]


def test_layers_can_be_sampled(trainer: Trainer, source: Path) -> None:
    """One of two in every step, drawn by the seed and the step."""
    searching = method._Search(workshop(trainer, source, small(replace(BLOCK, sampled_layers=1))))
    begun = searching.begun()

    def tried(seed: int) -> list[str]:
        searching.block = replace(searching.block, seed=seed)
        candidates = [searching.candidates(dataclasses.replace(begun, step=step))[0] for step in range(4)]
        assert [len(each) for each in candidates] == [1, 1, 1, 1]
        return [each[0].group for each in candidates]

    assert len({*tried(0), *tried(1)}) == 2
    assert tried(0) == tried(0) != tried(1)


def test_small_prunings(trainer: Trainer, source: Path) -> None:
    """The first layer of three channels and the second of four: only one of them can save half of the cost alone."""
    searching = method._Search(workshop(trainer, source, small(replace(BLOCK, reduction=0.58))))
    narrow, _ = searching.candidates(searching.begun())
    searching.block = replace(searching.block, allow_small_prunings=True)
    all_of_them, _ = searching.candidates(searching.begun())
    assert (len(narrow), len(all_of_them)) == (1, 2)


def test_what_no_layer_can_save_alone_is_halved(trainer: Trainer, source: Path) -> None:
    searching = method._Search(workshop(trainer, source, small(replace(BLOCK, ratio=0.9, reduction=0.9, decay=1.0))))
    candidates, wanted = searching.candidates(searching.begun())
    assert wanted == pytest.approx(0.45 * searching.whole)
    assert candidates


def test_fine_tuning_begins_with_the_weights_that_are_left(trainer: Trainer, source: Path) -> None:
    """With a rate of nearly nothing the network is in the end what the search has left."""
    found = search(trainer, source, small(replace(BLOCK, then="fine_tune", learning_rate=1e-12)))
    assert found.results["val_accuracy"] == found.results["netadapt_val_accuracy"]


def test_a_ratio_that_no_network_has() -> None:
    with pytest.raises(UserError, match=r"netadapt\.ratio must be at most 0\.\d+: with every layer as narrow as can be"):
        check(small(replace(BLOCK, ratio=0.99)), SHAPE, 10)


def test_a_table_without_a_layer(tmp_path: Path) -> None:
    table = tmp_path / "table.yaml"
    table.write_text("layers:\n  conv 5x5/1 8x8x1 -> 8x8x3: 0.5\n")
    with pytest.raises(UserError, match=r"cost table .* has no entry for layer .*, `conv 5x5/1 4x4x3 -> 4x4x4`"):
        check(small(replace(BLOCK, of="latency", costs=str(table))), SHAPE, 10)
