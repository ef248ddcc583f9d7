"""MorphNet from a trained network to a smaller one, on small images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from flaxcomp.compress import run
from flaxcomp.compress.method import Found
from flaxcomp.compress.morphnet import method
from flaxcomp.compress.morphnet.method import check
from flaxcomp.compress.prune import training
from flaxcomp.errors import UserError
from flaxcomp.sweep.compression.morphnet import Morphnet
from flaxcomp.sweep.spec import Phase, TrialConfig
from flaxcomp.train.job import Stopped
from flaxcomp.train.pack import Trainer
from searches import (
    PLAIN,
    SEPARABLE,
    after,
    dense,
    found_by,
    job,
    macs_of,
    outcome,
    random_source,
    search,
    small_trainer,
    workshop,
)

SHAPE = (8, 8, 1)
# The network's random scales lie between -0.5 and 1. The first step of Adam moves each by the rate, towards 0 if the
# penalty outweighs the data.
BLOCK = Morphnet(strength=1000.0, threshold=0.25, search_epochs=2, search_learning_rate=0.04, epochs=1)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return small_trainer()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_source(tmp_path_factory.mktemp("separable") / "run", SEPARABLE)


def small(block: Morphnet = BLOCK, model: dict[str, Any] = SEPARABLE) -> TrialConfig:
    return replace(dense(model), morphnet=block, source="dense")


def test_channels_below_the_threshold_go(trainer: Trainer, source: Path) -> None:
    ended = search(trainer, source, small())
    figures, groups = ended.results, ended.details["groups"]
    assert figures["macs"] == figures["morphnet_cost"] == figures["morphnet_found_cost"] == macs_of(ended.model)
    assert figures["morphnet_cost"] < figures["morphnet_source_cost"] == macs_of(SEPARABLE)
    assert figures["morphnet_threshold"] == 0.25
    for group in groups:
        gammas = np.array(group["gammas"])
        assert (np.diff(gammas) <= 0).all()
        assert group["alive"] == (gammas > 0.25).sum()
        assert group["kept"] == max(1, group["alive"])
    assert figures["morphnet_kept"] == sum(group["kept"] for group in groups) < figures["morphnet_channels"]
    assert ended.details["widths"] == ended.details["found_widths"] == ended.model["widths"]
    assert "morphnet: " in ended.notes[-1]


def found(trainer: Trainer, source: Path, block: Morphnet) -> Found:
    return found_by(method, workshop(trainer, source, small(block)))


def test_a_stronger_penalty_leaves_less(trainer: Trainer, source: Path) -> None:
    weak, strong = (found(trainer, source, replace(BLOCK, strength=s)).figures["morphnet_kept"] for s in (1e-9, 1000.0))
    assert strong < weak


def test_the_widths_are_multiplied_back(trainer: Trainer, source: Path) -> None:
    """To all of the source's cost, with other proportions."""
    result = found(trainer, source, replace(BLOCK, ratio=0.0))
    figures = result.figures
    assert figures["morphnet_multiplier"] > 1
    assert figures["morphnet_found_cost"] < figures["morphnet_cost"] <= figures["morphnet_source_cost"]
    assert figures["morphnet_cost"] == macs_of(result.model)
    assert result.weights is None
    before, after_, final = (np.array(result.details[f"{name}widths"]) for name in ("source_", "found_", ""))
    np.testing.assert_array_equal(final, np.floor(after_ * figures["morphnet_multiplier"] + 0.5))
    assert (final > before).any()
    assert (final < before).any()


def test_without_a_search_it_is_a_width_multiplier(trainer: Trainer, source: Path) -> None:
    result = found(trainer, source, Morphnet(strength=0.0, ratio=0.5))
    multiplier = result.figures["morphnet_multiplier"]
    assert result.model["widths"] == [max(1, int(w * multiplier + 0.5)) for w in result.details["source_widths"]]
    assert result.figures["morphnet_cost"] <= 0.5 * result.figures["morphnet_source_cost"]
    assert "morphnet_threshold" not in result.figures


def test_a_killed_search_goes_on(trainer: Trainer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_KEEP_S", 0.0)
    whole = search(trainer, source, small())
    folder = shutil.copytree(source, tmp_path / "run")
    attempts = 0
    while True:
        attempts += 1
        assert attempts < 20
        events = list(run.train(trainer, job(folder, "small", small(), attempts), after(5)))
        if not isinstance(events[-1], Stopped):
            break
    assert attempts > 1
    again = outcome(folder, events)
    assert (again.details, again.model) == (whole.details, whole.model)
    assert again.results["test_loss"] == pytest.approx(whole.results["test_loss"], rel=1e-5)


def test_fine_tuning_begins_with_the_weights_that_are_left(trainer: Trainer, source: Path) -> None:
    """A threshold below all scales takes nothing away, so that the weights are those that the search has trained."""
    shop = workshop(trainer, source, small(replace(BLOCK, threshold=1e-30, then="fine_tune")))
    result = found_by(method, shop)
    assert result.model == SEPARABLE
    assert result.figures["morphnet_kept"] == result.figures["morphnet_channels"]
    fit = shop.fit()
    assert fit.accuracy(fit.state([result.weights]))[0] == result.figures["morphnet_val_accuracy"]
    assert not np.array_equal(
        result.weights["params"]["stem"]["bn"]["scale"], shop.source.weights["params"]["stem"]["bn"]["scale"]
    )


def test_from_random_weights(trainer: Trainer, source: Path) -> None:
    """The scales of a new network are 1 and stay so at hardly any rate; the source's are not."""
    result = found(trainer, source, replace(BLOCK, start="scratch", search_learning_rate=1e-12))
    assert {gamma for group in result.details["groups"] for gamma in group["gammas"]} == {1.0}


def test_a_training_that_diverges(trainer: Trainer, source: Path) -> None:
    with pytest.raises(UserError, match=r"the training with the penalty has diverged; lower morphnet\.search_learning_rate"):
        found(trainer, source, replace(BLOCK, search_learning_rate=1e30))


def test_a_network_without_batch_norm() -> None:
    with pytest.raises(UserError, match=r"morphnet must have a network with batch norm, .* but simplenet_v1 .* has none"):
        check(small(model=PLAIN), SHAPE, 10)
    check(small(Morphnet(strength=0.0, ratio=0.5), PLAIN), SHAPE, 10)


def test_a_ratio_that_no_network_has() -> None:
    with pytest.raises(UserError, match=r"morphnet\.ratio must be at most 0\.\d+: with all widths as small as can be"):
        check(small(replace(BLOCK, ratio=0.9999)), SHAPE, 10)


def test_phases_in_steps() -> None:
    config = small(replace(BLOCK, search_epochs=None))
    config = replace(config, train=replace(config.train, phases=(Phase(steps=7),)))
    with pytest.raises(UserError, match=r"morphnet\.search_epochs must be given"):
        check(config, SHAPE, 10)


def test_a_table_without_a_layer(tmp_path: Path) -> None:
    table = tmp_path / "table.yaml"
    table.write_text("layers:\n  conv 3x3/1 8x8x1 -> 8x8x4: 0.5\n")
    with pytest.raises(UserError, match=r"cost table .* has no entry for layer "):
        check(small(replace(BLOCK, of="latency", costs=str(table))), SHAPE, 10)
