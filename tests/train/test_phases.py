"""Phases: what is frozen stays bit for bit, schedules and optimizers begin anew, any stop resumes the same."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcomp.checkpoint.trees import flatten
from flaxcomp.errors import UserError
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Optimizer, Phase, Schedule, TrialConfig
from flaxcomp.train import cost, pack
from flaxcomp.train.job import EpochDone, Finished, Stopped, Tick
from flaxcomp.train.names import by_name
from flaxcomp.train.pack import Trainer
from flaxcomp.train.phases import class_axes, stages
from flaxcomp.train.program import Program
from transfers import BATCH, STEPS, assert_equal, config, make_job, network, rows_of, small_trainer

# Five steps of the last layer, then four of all: nine steps are two epochs and a quarter.
LAST = Phase(train="last", steps=5, optimizer=Optimizer(name="rmsprop", learning_rate=1e-2, weight_decay=0.1))
ALL = Phase(
    epochs=1, optimizer=Optimizer(learning_rate=2e-3), schedule=Schedule(name="multi_step", milestones=(1,), factor=0.5)
)
TOTAL = 9
MOBILE = {"name": "mobilenet_v1", "layout": "embedded", "width": 2, "blocks": 3}


def pair(**changes: Any) -> dict[str, TrialConfig]:
    """Trials that differ in seed and in both phases' learning rates."""
    other = (
        Phase(train="last", steps=5, optimizer=Optimizer(name="rmsprop", learning_rate=2e-2, weight_decay=0.1)),
        Phase(epochs=1, optimizer=Optimizer(learning_rate=4e-3), schedule=ALL.schedule),
    )
    return {"a": config(0, phases=(LAST, ALL), **changes), "b": config(1, phases=other, **changes)}


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return small_trainer()


@pytest.fixture(scope="module", autouse=True)
def one_step_a_dispatch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "DISPATCH_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def whole(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    root = tmp_path_factory.mktemp("whole")
    return root, list(trainer.train(make_job(root, pair()), lambda: False))


def steps(program: Program, configs: list[TrialConfig], stage: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A single trial before and after some steps of a stage, by name."""
    hyper = program.hyper(configs, [0] * len(configs), stage)
    state = program.begin(program.init(hyper), hyper, stage)
    before = jax.device_get(state)
    state = program.train(state, hyper, program.order(hyper, 0), None, 0, 0, count, stage)
    after = jax.device_get(state)
    return tuple({**by_name(s["params"]), **by_name(s["stats"])} for s in (before, after))  # type: ignore[return-value]


@pytest.mark.parametrize("execution", ["map", "vmap"])
def test_what_is_frozen_stays_bit_for_bit_and_has_no_moments(trainer: Trainer, execution: Any) -> None:
    configs = list(pair().values())
    program = Program(configs[0], trainer.data, execution=execution)
    before, after = steps(program, configs, 0, 3)
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {"logits.kernel", "logits.bias"}
    before, after = steps(program, configs, 1, 3)
    assert {name for name in before if (before[name] != after[name]).any()} == set(before)
    hyper = program.hyper(configs, [0, 0])
    sizes = [leaf[0].size for leaf in jax.tree.leaves(program.init(hyper)["opt"])]
    last = before["logits.kernel"][0].size + 10
    assert sum(sizes) == 2 * last, "RMSProp's mean square and momentum, of the last layer only"


def test_training_a_part_is_training_all_with_the_other_gradients_thrown_away(trainer: Trainer) -> None:
    sgd = Optimizer(name="sgd", learning_rate=0.05, momentum=0.9)
    part, everything = config(phases=(Phase(train=("logits",), steps=1, optimizer=sgd),)), config(optimizer=sgd)
    _, some = steps(Program(part, trainer.data), [part], 0, 1)
    before, full = steps(Program(everything, trainer.data), [everything], 0, 1)
    for name in full:
        expected = full[name] if name.startswith("logits") else before[name]
        np.testing.assert_allclose(some[name], expected, rtol=1e-5, atol=1e-7)


def test_a_single_phase_of_all_is_a_plain_training(trainer: Trainer, tmp_path: Path) -> None:
    schedule = Schedule(name="cosine")
    plain = config(epochs=2, schedule=schedule)
    phased = config(phases=(Phase(epochs=2, optimizer=plain.train.optimizer, schedule=schedule),))
    assert signature(plain) != signature(phased)
    for name, each in (("plain", plain), ("phased", phased)):
        list(trainer.train(make_job(tmp_path, {name: each}), lambda: False))
    assert_equal(network(tmp_path, "plain"), network(tmp_path, "phased"))


def test_epochs_ticks_and_rows_of_phases_that_end_within_an_epoch(whole: tuple[Path, list[Any]]) -> None:
    kinds = [type(event) for event in whole[1]]
    assert kinds == [*[Tick] * STEPS, EpochDone, *[Tick] * STEPS, EpochDone, Tick, EpochDone, Finished]
    ticks = [event for event in whole[1] if isinstance(event, Tick)]
    assert [tick.images_done for tick in ticks] == [2 * BATCH * n for n in range(1, TOTAL + 1)]
    assert {tick.images_total for tick in ticks} == {2 * BATCH * TOTAL}
    rows = rows_of(whole[1])
    rates = {trial: [row["learning_rate"] for row in rows if row["trial"] == trial] for trial in "ab"}
    assert rates["a"] == pytest.approx([1e-2, 2e-3, 2e-3])  # the multi-step's epoch counts from the phase's beginning
    assert rates["b"] == pytest.approx([2e-2, 4e-3, 4e-3])
    assert [row["epoch"] for row in rows if row["trial"] == "a"] == [1, 2, 3]
    assert all(0.1 < row["train_loss"] < 10 for row in rows), "a mean over the steps that an epoch has"
    assert whole[1][-1].results["a"]["val_accuracy"] == rows[-2]["val_accuracy"]


def test_schedules_count_from_the_beginning_of_their_phase(trainer: Trainer) -> None:
    halving = Schedule(name="exponential", factor=0.5, every_epochs=0.5)
    cosine = Schedule(name="cosine")
    phases = (Phase(steps=5, schedule=halving), Phase(epochs=1, schedule=cosine), Phase(steps=2, schedule=halving))
    found = stages(config(phases=phases), (28, 28, 1), 10, STEPS)
    assert [(stage.first, stage.last) for stage in found] == [(0, 5), (5, 9), (9, 11)]
    rates = [float(stage.rate(jnp.int32(step))) for stage in found for step in range(stage.first, stage.last)]
    expected = [1, 1, 0.5, 0.5, 0.25, *(0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))), 1, 1]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    program = Program(config(phases=phases), trainer.data)
    assert [program.stage_at(step) for step in (0, 4, 5, 8, 9, 10, 11, 12)] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert program.learning_rate_factor(7) == pytest.approx(0.5)


def test_stopped_after_every_dispatch_and_resumed_it_ends_bit_for_bit_the_same(
    trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Any]]
) -> None:
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for attempt in range(1, TOTAL + 1):
        asked = itertools.count()
        events = list(trainer.train(make_job(tmp_path, pair(), attempt), lambda: next(asked) >= 1))  # noqa: B023
        rows |= {(row["trial"], row["epoch"]): row | {"images_per_second": 0} for row in rows_of(events)}
        assert isinstance(events[-1], Stopped if attempt < TOTAL else Finished)
    assert list(rows.values()) == [row | {"images_per_second": 0} for row in rows_of(whole[1])]
    for trial in "ab":
        assert_equal(network(tmp_path, trial), network(whole[0], trial))


@pytest.mark.parametrize("dispatches", [2, STEPS, STEPS + 1, STEPS + 2, TOTAL])
def test_a_worker_lost_without_a_word_in_any_phase(
    trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Any]], dispatches: int
) -> None:
    events = trainer.train(make_job(tmp_path, pair()), lambda: False)
    for _ in range(dispatches + dispatches // STEPS):
        next(events)
    events.close()  # type: ignore[attr-defined]
    list(trainer.train(make_job(tmp_path, pair(), 2), lambda: False))
    for trial in "ab":
        assert_equal(network(tmp_path, trial), network(whole[0], trial))


def test_packed_equals_alone(trainer: Trainer, tmp_path: Path, whole: tuple[Path, list[Any]]) -> None:
    list(trainer.train(make_job(tmp_path, {"b": pair()["b"]}), lambda: False))
    alone, packed = network(tmp_path, "b"), network(whole[0], "b")
    for name, array in alone.items():
        np.testing.assert_allclose(array, packed[name], atol=2e-5)


def test_checkpoints_hold_the_optimizer_of_the_step_to_come(trainer: Trainer) -> None:
    program = Program(pair()["a"], trainer.data)
    hyper = program.hyper([pair()["a"]], [0])
    first = set(flatten(program.init(hyper)["opt"]))
    second = set(flatten(program.begin(program.init(hyper), hyper, 1)["opt"]))
    assert all("logits" in name for name in first)
    assert len(second) > len(first)


@pytest.mark.parametrize("frozen", [False, True])
def test_statistics_keep_moving_unless_frozen(trainer: Trainer, frozen: bool) -> None:
    phased = config(model=MOBILE, phases=(Phase(train="last", steps=2, freeze_statistics=frozen),))
    program = Program(phased, trainer.data)
    before, after = steps(program, [phased], 0, 2)
    changed = {name.rpartition(".")[2] for name in before if (before[name] != after[name]).any()}
    assert changed == {"kernel", "bias"} | (set() if frozen else {"mean", "var"})
    assert (before["stem.conv.kernel"] == after["stem.conv.kernel"]).all()
    if frozen:  # what the last layer learns from is what it will see when the network is used
        hyper = program.hyper([phased], [0])
        state = program.init(hyper)
        images, labels = trainer.data.train_images, trainer.data.train_labels
        index = program.order(hyper, 0)[0][:BATCH]
        logits = program.network(
            jax.tree.map(lambda a: a[0], {"params": state["params"], "stats": state["stats"]}), images[index]
        )
        loss = -jax.nn.log_softmax(logits)[jnp.arange(BATCH), labels[index]].mean()
        after_one = program.train(state, hyper, program.order(hyper, 0), None, 0, 0, 1)
        assert float(after_one["loss_sum"][0]) == pytest.approx(float(loss), rel=1e-5)


def test_patterns_choose_parameters(trainer: Trainer) -> None:
    def trained(*patterns: str) -> set[str]:
        (stage,) = stages(config(phases=(Phase(train=patterns, steps=1),)), (28, 28, 1), 10, STEPS)
        assert stage.trained is not None
        return set(stage.trained)

    assert trained("logits") == {"logits.kernel", "logits.bias"}
    assert trained("*.*.bias", "logits.kernel") == {"convolutions.0.bias", "halvings.0.bias", "logits.kernel"}
    assert trained("**.kernel") == {"convolutions.0.kernel", "halvings.0.kernel", "logits.kernel"}


def test_a_pattern_for_nothing_names_what_is_near(trainer: Trainer, tmp_path: Path) -> None:
    phased = config(phases=(Phase(steps=1), Phase(train=("convolution.0",), steps=1)))
    with pytest.raises(UserError, match=r"train.phases\[1\].train: 'convolution.0' .* Did you mean 'convolutions.0'\?"):
        list(trainer.train(make_job(tmp_path, {"x": phased}), lambda: False))


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ({"name": "simplenet_lm"}, {"logits"}),
        ({"name": "simplenet_lm", "num_classes": 7}, {"logits"}),
        ({"name": "squeezenet", "layout": "embedded"}, {"logits"}),
        ({"name": "condensenet", "layout": "cifar"}, {"logits"}),
        ({"name": "vgg16", "layout": "cifar"}, {"logits"}),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_the_last_layer_is_what_depends_on_the_classes(model: dict[str, Any], layers: set[str]) -> None:
    axes = class_axes(model, (28, 28, 1) if "simplenet" in model["name"] else (32, 32, 3), 10)
    assert {name.rpartition(".")[0] for name in axes} == layers
    assert {axis for axes_of_one in axes.values() for axis in axes_of_one} <= {0, 1, 3}


def test_cost_knows_phases() -> None:
    images = 9000
    plain = cost.relative_work(config(epochs=1))
    assert cost.relative_work(config(phases=(Phase(epochs=3), Phase(epochs=1)))) == pytest.approx(4 * plain)
    in_steps = cost.relative_work(config(phases=(Phase(steps=images // BATCH),)))
    assert in_steps == pytest.approx(plain, rel=0.2)
    assert cost.relative_work(config(phases=(Phase(train="last", epochs=1),))) < plain
