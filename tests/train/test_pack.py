"""A pack from its first event to its last: stopped and resumed anywhere, its files, its teachers."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.packs import PackCheckpoints
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.store.frame import TRIAL_COLUMNS
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Augment, Dataset, Distill, Optimizer, Train, TrialConfig
from flaxcomp.train import pack
from flaxcomp.train.job import EpochDone, Event, Finished, Note, PackJob, Stopped, Tick
from flaxcomp.train.lessons import Networks, Table
from flaxcomp.train.pack import Trainer

IMAGES, BATCH, STEPS, EPOCHS = 320, 64, 4, 3  # a tenth of the images is held out
TRAIN = Train(epochs=EPOCHS, batch_size=BATCH, optimizer=Optimizer(learning_rate=3e-3))


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    full = load("mnist_sample")
    return Trainer(
        Arrays(
            full.train_images[:IMAGES], full.train_labels[:IMAGES], full.test_images[:100], full.test_labels[:100], full.info
        )
    )


@pytest.fixture(scope="module", autouse=True)
def one_step_a_dispatch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "DISPATCH_SECONDS", 0.0)
        yield


def config(seed: int = 0, *, rate: float = 3e-3, train: Train = TRAIN, distill: Distill | None = None) -> TrialConfig:
    train = msgspec.structs.replace(train, optimizer=Optimizer(learning_rate=rate))
    dataset, model = Dataset(name="mnist_sample"), {"name": "simplenet_v5"}
    return TrialConfig(dataset=dataset, model=model, train=train, distill=distill, seed=seed)


PAIR = {"a": config(0), "b": config(1, rate=1e-2)}


def make_job(root: Path, configs: dict[str, TrialConfig] | None = None, attempt: int = 1, **more: Any) -> PackJob:
    configs = configs or PAIR
    name = "-".join(configs)
    return PackJob(str(root), f"pack-{name}", attempt, signature(next(iter(configs.values()))), configs, **more)


def after(dispatches: int) -> Callable[[], bool]:
    """Stop when so many dispatches are done."""
    asked = itertools.count()
    return lambda: next(asked) >= dispatches


def run(trainer: Trainer, job: PackJob, stop: Callable[[], bool] = lambda: False) -> list[Event]:
    return list(trainer.train(job, stop))


def results_of(events: list[Event]) -> dict[str, dict[str, Any]]:
    assert isinstance(events[-1], Finished)
    return events[-1].results


def rows_of(events: list[Event]) -> list[dict[str, Any]]:
    return [row for event in events if isinstance(event, EpochDone) for row in event.rows]


def without(times: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != times} for row in rows]


def networks(root: Path, trial: str) -> dict[str, np.ndarray[Any, Any]]:
    last, best = (load_model(folder) for folder in (RunPaths.at(root).model(trial), RunPaths.at(root).best_model(trial)))
    return flatten({"last": last, "best": best})


@pytest.fixture(scope="module")
def whole(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """The pair trained in one go."""
    root = tmp_path_factory.mktemp("whole")
    return root, run(trainer, make_job(root))


def assert_as_whole(root: Path, rows: list[dict[str, Any]], results: Any, whole: tuple[Path, list[Event]]) -> None:
    once = {(row["trial"], row["epoch"]): row for row in without("images_per_second", rows)}  # told again after a resume
    assert list(once.values()) == without("images_per_second", rows_of(whole[1]))
    assert without("train_seconds", list(results.values())) == without("train_seconds", list(results_of(whole[1]).values()))
    for trial in PAIR:
        expected = networks(whole[0], trial)
        for name, array in networks(root, trial).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=f"{trial} {name}")


def test_events_come_in_order(whole: tuple[Path, list[Event]]) -> None:
    ticks = [event for event in whole[1] if isinstance(event, Tick)]
    assert [tick.images_done for tick in ticks] == list(range(2 * BATCH, 2 * BATCH * STEPS * EPOCHS + 1, 2 * BATCH))
    rates = [tick.images_per_second for tick in ticks]
    assert rates[0] is None, "the first dispatch was compiled"
    assert all(rate is not None and rate > 0 for rate in rates[1:])
    assert {tick.images_total for tick in ticks} == {2 * BATCH * STEPS * EPOCHS}
    kinds = [type(event) for event in whole[1]]
    assert kinds == [*([Tick] * STEPS + [EpochDone]) * EPOCHS, Finished]
    assert {(event.pack_id, event.attempt) for event in whole[1]} == {("pack-a-b", 1)}
    assert [(row["trial"], row["epoch"]) for row in rows_of(whole[1])] == [
        (t, e) for e in range(1, EPOCHS + 1) for t in ("a", "b")
    ]


def test_results_have_the_stores_columns_and_agree_with_the_rows(whole: tuple[Path, list[Event]]) -> None:
    for trial, row in results_of(whole[1]).items():
        assert set(TRIAL_COLUMNS) - {"status"} <= set(row)
        assert (row["pack_trials"], row["trainable_params"]) == (2, 4000)
        assert np.asarray(row["confusion_matrix"]).sum() == 100
        assert row["test_accuracy"] == np.trace(row["confusion_matrix"]) / 100
        assert row["test_accuracy"] < row["test_top5_accuracy"] <= 1
        assert (100 * row["test_top5_accuracy"]).is_integer()
        own = [r for r in rows_of(whole[1]) if r["trial"] == trial]
        assert row["val_accuracy"] == own[-1]["val_accuracy"]
        assert row["val_accuracy"] < row["val_top5_accuracy"] == own[-1]["val_top5_accuracy"]
        assert row["best_val_accuracy"] == max(r["val_accuracy"] for r in own)
        assert own[0]["learning_rate"] == pytest.approx(PAIR[trial].train.optimizer.learning_rate)
        assert 0 < row["train_seconds"] < 60
    msgspec.json.encode([results_of(whole[1]), rows_of(whole[1])])


def test_stopped_after_every_dispatch_and_resumed_it_ends_bit_for_bit_the_same(
    trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Event]]
) -> None:
    rows: list[dict[str, Any]] = []
    for attempt in range(1, STEPS * EPOCHS + 1):
        events = run(trainer, make_job(tmp_path, attempt=attempt), after(1))
        rows += rows_of(events)
        if not isinstance(events[-1], Stopped):
            break
    assert attempt == STEPS * EPOCHS, "the last dispatch ends the training"
    assert_as_whole(tmp_path, rows, results_of(events), whole)


@pytest.mark.parametrize("keep", ["checkpoints of the last epoch", "nothing"])
def test_a_worker_lost_without_a_word(trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Event]], keep: str) -> None:
    """Killed in the middle of the second epoch, and just before its results were recorded."""
    events = trainer.train(make_job(tmp_path), lambda: False)
    for _ in range(STEPS + 1 + 2):
        next(events)
    events.close()  # type: ignore[attr-defined]
    if keep == "nothing":
        shutil.rmtree(RunPaths.at(tmp_path).pack("pack-a-b"))
    again = run(trainer, make_job(tmp_path, attempt=2))
    first = next(event for event in again if isinstance(event, Tick))
    assert first.images_done == 2 * BATCH * (1 if keep == "nothing" else STEPS + 1)
    assert_as_whole(tmp_path, rows_of(again), results_of(again), whole)
    once_more = run(trainer, make_job(tmp_path, attempt=3))
    assert [type(event) for event in once_more] == [EpochDone, Finished]
    assert_as_whole(tmp_path, rows_of(once_more), results_of(once_more), whole)


def test_stopped_is_told_when_its_checkpoint_is_on_disk(trainer: Trainer, tmp_path: Path) -> None:
    events = trainer.train(make_job(tmp_path), after(2))
    while not isinstance(event := next(events), Stopped):
        assert not isinstance(event, Finished)
    with PackCheckpoints(RunPaths.at(tmp_path).pack("pack-a-b"), 2) as later:  # what a worker killed now would leave behind
        found = later.restore(pytest.fail)
    assert found is not None
    assert (found[0], found[2]["epoch"], found[2]["step"]) == (2, 0, 2)
    assert list(events) == []


def test_a_checkpoint_that_cannot_be_written_is_an_error_not_a_clean_stop(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PackCheckpoints) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PackCheckpoints, "wait", full)
    told: list[Event] = []
    with pytest.raises(OSError, match="No space"):
        told.extend(trainer.train(make_job(tmp_path), after(1)))
    assert not any(isinstance(event, Stopped) for event in told)


def test_a_damaged_checkpoint_is_passed_over_with_a_note(
    trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Event]]
) -> None:
    run(trainer, make_job(tmp_path), after(STEPS + 1))  # leaves checkpoints of steps 4 and 5
    folder = RunPaths.at(tmp_path).pack("pack-a-b") / "1"
    shutil.rmtree(folder / str(STEPS + 1) / "state")
    again = run(trainer, make_job(tmp_path, attempt=2))
    assert isinstance(again[0], Note)
    assert f"checkpoint {STEPS + 1} is damaged" in again[0].text
    assert_as_whole(tmp_path, rows_of(again), results_of(again), whole)


def test_times_leave_nothing_out_and_count_nothing_twice(
    trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which every dispatch takes a second; the program is compiled already."""
    clock = itertools.count()
    monkeypatch.setattr(pack.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(pack, "DISPATCH_SECONDS", 0.7)  # slower than wished: no dispatch may have more than one step
    first = run(trainer, make_job(tmp_path), after(2))
    rest = run(trainer, make_job(tmp_path, attempt=2))
    assert sum(isinstance(event, Tick) for event in first + rest) == STEPS * EPOCHS
    assert {row["images_per_second"] for row in rows_of(rest)} == {2.0 * BATCH}
    assert {row["train_seconds"] for row in results_of(rest).values()} == {STEPS * EPOCHS / 2}


def test_dispatches_grow_to_the_wanted_length(
    trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "DISPATCH_SECONDS", 600.0)
    events = run(trainer, make_job(tmp_path))
    done = [event.images_done // (2 * BATCH) for event in events if isinstance(event, Tick)]
    assert done == [1, STEPS, 2 * STEPS, 3 * STEPS]
    assert_as_whole(tmp_path, rows_of(events), results_of(events), whole)


def test_best_is_the_network_of_the_best_epoch(trainer: Trainer, tmp_path: Path) -> None:
    """At such a learning rate accuracy jumps about: the last epoch is not the best of all these trials."""
    paths, last_is_best = RunPaths.at(tmp_path), []
    for seed in (4, 6, 8):  # in pairs, as the program is compiled
        configs = {f"t{seed + i}": config(seed + i, rate=1.0) for i in range(2)}
        events = run(trainer, make_job(tmp_path, configs))
        program = trainer.program(make_job(tmp_path, configs))
        results = results_of(events)
        for folder, column in ((paths.best_model, "best_val_accuracy"), (paths.model, "val_accuracy")):
            state = jax.tree.map(lambda *both: jnp.stack(both), *(load_model(folder(trial)) for trial in configs))
            for confusion, row in zip(program.evaluate(state, "validation")["confusion"], results.values(), strict=True):
                assert np.trace(confusion) / confusion.sum() == pytest.approx(row[column])
        last_is_best += [row["best_val_accuracy"] == row["val_accuracy"] for row in results.values()]
    assert not all(last_is_best)


def test_a_diverged_trial_is_told_as_such_and_disturbs_no_other(
    trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Event]]
) -> None:
    events = run(trainer, make_job(tmp_path, {"a": config(0), "d": config(1, rate=1e30)}))
    results, rows = results_of(events), rows_of(events)
    assert results["d"]["test_loss"] is None
    assert results["d"]["val_loss"] is None
    assert 0 <= results["d"]["best_val_accuracy"] <= 1
    assert [row["train_loss"] for row in rows if row["trial"] == "d"][1:] == [None, None]
    assert b"NaN" not in msgspec.json.encode([results, rows])
    alone = {row["epoch"]: row for row in rows_of(whole[1]) if row["trial"] == "a"}
    for row in rows:
        if row["trial"] == "a":
            assert row["train_loss"] == pytest.approx(alone[row["epoch"]]["train_loss"], rel=1e-4)


# Teachers.

STUDENTS = {f"s{i}": config(i, distill=Distill(teacher=t, temperature=3.0)) for i, t in enumerate(("b", "a"))}


def test_students_learn_the_same_from_kept_missing_and_damaged_logits(trainer: Trainer, tmp_path: Path) -> None:
    taught = run(trainer, make_job(tmp_path, teaches=("a", "b")))
    file = RunPaths.at(tmp_path).teacher_logits("a")
    kept = file.read_bytes()
    logits = np.frombuffer(kept[:-4], np.float32).reshape(IMAGES, 10)
    held_out = np.asarray(trainer.program(make_job(tmp_path)).split.validation)
    right = (logits[held_out].argmax(1) == np.asarray(trainer.data.train_labels)[held_out]).mean()
    assert right == pytest.approx(results_of(taught)["a"]["val_accuracy"])

    losses = []
    for attempt, content in enumerate((kept, None, bytes([kept[0] ^ 64]) + kept[1:], kept[:400]), start=1):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        job = make_job(tmp_path, STUDENTS, attempt, teachers=PAIR)
        losses.append([row["train_loss"] for row in rows_of(run(trainer, job))])
        shutil.rmtree(RunPaths.at(tmp_path).pack(job.pack_id))
        assert file.read_bytes() == kept
    assert losses[1:] == losses[:1] * 3


def test_each_student_has_the_row_of_its_teacher(trainer: Trainer, tmp_path: Path) -> None:
    run(trainer, make_job(tmp_path))
    job = make_job(tmp_path, STUDENTS, teachers=PAIR)
    table = trainer.teachers.lessons(job, trainer.program(job))
    assert isinstance(table, Table)
    assert table.logits.shape == (2, IMAGES, 10)
    assert trainer.teachers.places(job) == [(1,), (0,)]
    program = trainer.program(make_job(tmp_path))
    for teacher, row in zip(("a", "b"), table.logits, strict=True):
        np.testing.assert_array_equal(row, program.all_logits(load_model(RunPaths.at(tmp_path).model(teacher))))


def test_students_of_changing_images_ask_the_network_and_a_damaged_one_is_a_users_error(
    trainer: Trainer, tmp_path: Path
) -> None:
    run(trainer, make_job(tmp_path))
    moving = msgspec.structs.replace(TRAIN, epochs=1, augment=Augment(pad=2))
    student = {"m": config(5, train=moving, distill=Distill(teacher="a", loss="hinton"))}
    job = make_job(tmp_path, student, teachers={"a": PAIR["a"]})
    networks = trainer.teachers.lessons(job, trainer.program(job))
    assert isinstance(networks, Networks)
    assert ([set(model) for model in networks.models], trainer.teachers.places(job)) == ([{"params", "stats"}], [(0,)])
    assert isinstance(run(trainer, job)[-1], Finished)
    shutil.rmtree(RunPaths.at(tmp_path).model("a"))
    with pytest.raises(UserError, match="Has its trial finished"):
        run(trainer, make_job(tmp_path, student, 2, teachers={"a": PAIR["a"]}))


def test_programs_are_kept_by_signature_and_not_for_ever(trainer: Trainer, tmp_path: Path) -> None:
    first = trainer.program(make_job(tmp_path))
    assert trainer.program(make_job(tmp_path, {"c": config(7)})) is first
    for size in range(2, 2 + pack._PROGRAMS_KEPT):
        other = msgspec.structs.replace(TRAIN, batch_size=size)
        trainer.program(make_job(tmp_path, {"o": config(train=other)}))
    assert trainer.program(make_job(tmp_path)) is not first
