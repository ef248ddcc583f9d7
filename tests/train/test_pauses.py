"""Packs that pause at a rung: who goes on in another pack ends as if nothing had happened."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Optimizer, Phase, Train, TrialConfig
from flaxcomp.train import pack
from flaxcomp.train.job import EpochDone, Event, Finished, Note, PackJob, Paused, Stopped
from flaxcomp.train.members import Sizes
from flaxcomp.train.pack import Trainer

EPOCHS = 4
PHASES = (Phase(train="last", epochs=1), Phase(epochs=3, optimizer=Optimizer(learning_rate=1e-2)))


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    full = load("mnist_sample")
    return Trainer(
        Arrays(full.train_images[:320], full.train_labels[:320], full.test_images[:100], full.test_labels[:100], full.info)
    )


@pytest.fixture(scope="module", autouse=True)
def one_step_a_dispatch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "DISPATCH_SECONDS", 0.0)
        yield


def config(seed: int, phases: tuple[Phase, ...] = ()) -> TrialConfig:
    train = Train(epochs=1 if phases else EPOCHS, batch_size=64, optimizer=Optimizer(learning_rate=3e-3), phases=phases)
    return TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v5"}, train=train, seed=seed)


def make_job(root: Path, trials: str, phases: tuple[Phase, ...] = (), attempt: int = 1, **more: Any) -> PackJob:
    """A pack of trials that are called a letter each."""
    configs = {trial: config(ord(trial), phases) for trial in trials}
    return PackJob(str(root), f"pack-{trials}", attempt, signature(config(0, phases)), configs, **more)


def run(trainer: Trainer, job: PackJob, stop: Callable[[], bool] = lambda: False) -> list[Event]:
    return list(trainer.train(job, stop))


def origins(**trials: str) -> dict[str, str]:
    return {trial: f"pack-{pack}" for trial, pack in trials.items()}


def networks(root: Path, trial: str) -> dict[str, np.ndarray[Any, Any]]:
    folders = RunPaths.at(root).model(trial), RunPaths.at(root).best_model(trial)
    return flatten(dict(zip(("last", "best"), map(load_model, folders), strict=True)))


def assert_equal(root: Path, other: Path, trials: str, tolerance: float = 0.0) -> None:
    for trial in trials:
        expected = networks(other, trial)
        for name, array in networks(root, trial).items():
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=tolerance, err_msg=f"{trial} {name}")


def results(events: list[Event]) -> dict[str, dict[str, Any]]:
    assert isinstance(events[-1], Finished | Paused)
    timing = ("train_seconds", "pack_trials")
    return {trial: {k: v for k, v in row.items() if k not in timing} for trial, row in events[-1].results.items()}


@pytest.fixture(scope="module", params=[(), PHASES], ids=["plain", "phases"])
def phases(request: pytest.FixtureRequest) -> tuple[Phase, ...]:
    found: tuple[Phase, ...] = request.param
    return found


@pytest.fixture(scope="module")
def whole(trainer: Trainer, phases: tuple[Phase, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Four trials together in one go, in a pack that never pauses."""
    root = tmp_path_factory.mktemp("whole")
    return root, run(trainer, make_job(root, "abcd", phases))


def rungs(trainer: Trainer, root: Path, phases: tuple[Phase, ...] = (), stop: Any = lambda: False) -> list[list[Event]]:
    """Two packs that pause after an epoch; of each one trial goes on, both pause again after the next, and end."""
    return [
        run(trainer, make_job(root, "ab", phases, pause_at=1)),
        run(trainer, make_job(root, "cd", phases, pause_at=1)),
        run(trainer, make_job(root, "da", phases, pause_at=2, origins=origins(d="cd", a="ab"), origin_epoch=1)),
        run(trainer, make_job(root, "d", phases, origins=origins(d="da"), origin_epoch=2)),
    ]


def test_who_goes_on_in_other_packs_ends_as_one_who_was_never_interrupted(
    trainer: Trainer, whole: tuple[Path, list[Event]], phases: tuple[Phase, ...], tmp_path: Path
) -> None:
    *paused, last = rungs(trainer, tmp_path, phases)
    assert [type(events[-1]) for events in paused] == [Paused] * 3
    assert_equal(tmp_path, whole[0], "d")
    assert results(last)["d"] == results(whole[1])["d"]
    rows = {
        (row["trial"], row["epoch"]): row["val_loss"]
        for event in whole[1]
        if isinstance(event, EpochDone)
        for row in event.rows
    }
    told = [row for events in [*paused, last] for event in events if isinstance(event, EpochDone) for row in event.rows]
    assert {(row["trial"], row["epoch"]) for row in told} == {
        *((t, 1) for t in "abcd"), ("d", 2), ("a", 2), ("d", 3), ("d", 4),
    }  # fmt: skip
    assert all(row["val_loss"] == rows[row["trial"], row["epoch"]] for row in told)
    alone = tmp_path / "alone"
    run(trainer, make_job(alone, "d", phases))
    assert_equal(tmp_path, alone, "d", 2e-5)


def test_a_pause_tells_what_is_known_without_the_test_set(trainer: Trainer, tmp_path: Path) -> None:
    (*_, paused) = run(trainer, make_job(tmp_path, "ab", pause_at=2))
    assert isinstance(paused, Paused)
    assert paused.epoch == 2
    row = paused.results["a"]
    assert not any(name.startswith("test_") or name == "confusion_matrix" for name in row)
    assert (row["epochs_done"], row["trainable_params"], row["pack_trials"]) == (2, 4000, 2)
    assert 0 < row["val_accuracy"] <= row["best_val_accuracy"] < row["val_top5_accuracy"]
    assert not RunPaths.at(tmp_path).model("a").exists()


def test_seconds_add_up_over_packs(trainer: Trainer, tmp_path: Path) -> None:
    first, _, second, last = rungs(trainer, tmp_path)
    seconds = [events[-1].results[trial]["train_seconds"] for events, trial in ((first, "a"), (second, "a"))]  # type: ignore[attr-defined]
    assert 0 < seconds[0] < seconds[1]
    assert last[-1].results["d"]["train_seconds"] > second[-1].results["d"]["train_seconds"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("dispatches", [0, 3])
def test_stopped_between_two_rungs_it_goes_on_to_the_same(
    trainer: Trainer, whole: tuple[Path, list[Event]], phases: tuple[Phase, ...], dispatches: int, tmp_path: Path
) -> None:
    asked = itertools.count()
    run(trainer, make_job(tmp_path, "abcd", phases, pause_at=1))
    more: dict[str, Any] = {"origins": origins(b="abcd", c="abcd"), "origin_epoch": 1}
    stopped = run(trainer, make_job(tmp_path, "bc", phases, **more), lambda: next(asked) >= dispatches)
    assert isinstance(stopped[-1], Stopped)
    if dispatches:
        shutil.rmtree(RunPaths.at(tmp_path).pack("pack-abcd"))  # its own checkpoint has it all
    events = run(trainer, make_job(tmp_path, "bc", phases, attempt=2, **more))
    assert_equal(tmp_path, whole[0], "bc")
    assert results(events) == {trial: row for trial, row in results(whole[1]).items() if trial in "bc"}


def test_killed_between_the_checkpoint_and_the_pause_it_pauses_at_once(trainer: Trainer, tmp_path: Path) -> None:
    first = run(trainer, make_job(tmp_path, "ab", pause_at=1))
    again = run(trainer, make_job(tmp_path, "ab", attempt=2, pause_at=1))
    assert [type(event) for event in again] == [EpochDone, Paused]
    assert results(again) == results(first)


def test_a_pack_that_all_go_on_in_goes_on_from_its_own_checkpoint(
    trainer: Trainer, whole: tuple[Path, list[Event]], phases: tuple[Phase, ...], tmp_path: Path
) -> None:
    run(trainer, make_job(tmp_path, "abcd", phases, pause_at=1))
    own = origins(**dict.fromkeys("abcd", "abcd"))
    run(trainer, make_job(tmp_path, "abcd", phases, attempt=2, pause_at=3, origins=own, origin_epoch=1))
    run(trainer, make_job(tmp_path, "abcd", phases, attempt=3, origins=own, origin_epoch=3))
    assert_equal(tmp_path, whole[0], "abcd")


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_without_the_checkpoint_the_training_starts_anew_and_ends_the_same(
    trainer: Trainer, tmp_path: Path, damage: str
) -> None:
    run(trainer, make_job(tmp_path, "ab", pause_at=1))
    folder = RunPaths.at(tmp_path).pack("pack-ab")
    for path in folder.rglob("*"):
        if path.is_file() and damage == "cut" and "state" in path.parts and path.stat().st_size:
            path.write_bytes(path.read_bytes()[:-1])
    if damage == "gone":
        shutil.rmtree(folder)
    events = run(trainer, make_job(tmp_path, "b", origins=origins(b="ab"), origin_epoch=1))
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert note.startswith("the checkpoint of pack pack-ab after epoch 1: ")
    assert note.endswith("the training of the 1 trials that went on from it starts anew")
    plain = tmp_path / "plain"
    assert results(events) == results(run(trainer, make_job(plain, "b")))
    assert_equal(tmp_path, plain, "b")


def test_places_that_nobody_has_change_nothing(
    trainer: Trainer,
    whole: tuple[Path, list[Event]],
    phases: tuple[Phase, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(trainer, make_job(tmp_path, "abcd", phases, pause_at=1))
    monkeypatch.setattr(Sizes, "fitting", lambda *_: 4)
    more: dict[str, Any] = {"origins": origins(c="abcd"), "origin_epoch": 1}
    asked = itertools.count()
    stopped = run(trainer, make_job(tmp_path, "c", phases, **more), lambda: next(asked) >= 3)
    assert isinstance(stopped[-1], Stopped)
    monkeypatch.setattr(Sizes, "fitting", lambda *_: pytest.fail("a pack keeps the size it has begun with"))
    events = run(trainer, make_job(tmp_path, "c", phases, attempt=2, **more))
    assert results(events) == {"c": results(whole[1])["c"]}
    assert_equal(tmp_path, whole[0], "c")
    assert {row["trial"] for event in events if isinstance(event, EpochDone) for row in event.rows} == {"c"}


def test_a_smaller_program_is_compiled_when_it_pays() -> None:
    sizes = Sizes()
    assert sizes.fitting(8, 1000) == 8, "nothing is compiled yet"
    sizes.compiled(32, 5.0)
    sizes.trained(32, 10, 0.64)  # 2 ms a step and place
    assert sizes.fitting(12, 100) == 32, "20 idle places cost 4 s, compiling 5"
    assert sizes.fitting(12, 200) == 12, "8 s"
    sizes.compiled(16, 5.0)
    assert sizes.fitting(12, 200) == 16, "4 idle places cost 1.6 s"
    assert sizes.fitting(16, 10**9) == 16
    assert sizes.fitting(33, 1) == 33
