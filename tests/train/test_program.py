"""The compiled program: packed equals alone, dispatches do not matter, all forms of a layer are one function."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Augment, Dataset, Distill, Optimizer, Schedule, Train, TrialConfig
from flaxcomp.train.batches import in_batches
from flaxcomp.train.lessons import Networks, Table
from flaxcomp.train.names import by_name
from flaxcomp.train.program import Program
from flaxcomp.train.resident import Resident

IMAGES = 640


Programs = dict[tuple[str, str | None], Program]


@pytest.fixture(scope="module")
def data() -> Resident:
    full = load("mnist_sample")
    return Resident.of(
        Arrays(
            full.train_images[:IMAGES], full.train_labels[:IMAGES], full.test_images[:200], full.test_labels[:200], full.info
        )
    )


@pytest.fixture(scope="module")
def programs() -> Programs:
    """By signature and execution: what one test compiled serves the others."""
    return {}


def trial(
    seed: int = 0, *, model: str = "simplenet_v5", train: Train | None = None, distill: Distill | None = None, **dataset: Any
) -> TrialConfig:
    train = train or Train(batch_size=64, optimizer=Optimizer(learning_rate=3e-3))
    described = Dataset(name="mnist_sample", **dataset)
    return TrialConfig(dataset=described, model={"name": model}, train=train, distill=distill, seed=seed)


@pytest.fixture
def run(data: Resident, programs: Programs) -> Any:
    def train(configs: list[TrialConfig], *, cuts: tuple[int, ...] = (), epochs: int = 1, execution: Any = None,
              lessons: Any = None, teachers: list[int] | None = None) -> tuple[Program, Any]:  # fmt: skip
        key = (signature(configs[0]), execution)
        program = programs.setdefault(key, Program(configs[0], data, execution=execution))
        hyper = program.hyper(configs, teachers or [0] * len(configs))
        state = program.init(hyper)
        for epoch in range(epochs):
            order = program.order(hyper, epoch)
            for first, last in itertools.pairwise([0, *cuts, program.steps_per_epoch]):
                state = program.train(state, hyper, order, lessons, epoch, first, last)
        return program, jax.device_get(state)

    return train


def largest_difference(a: Any, b: Any) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def member(state: Any, index: int) -> Any:
    return jax.tree.map(lambda a: a[index : index + 1], state)


@pytest.mark.parametrize("execution", ["map", "vmap"])
@pytest.mark.parametrize("model", ["simplenet_v1", "simplenet_v4"])
def test_packed_equals_alone(run: Any, model: str, execution: str) -> None:
    configs = [trial(seed, model=model, train=Train(batch_size=64, optimizer=Optimizer(learning_rate=rate)))
               for seed, rate in ((0, 1e-3), (1, 3e-3), (7, 1e-2))]  # fmt: skip
    _, packed = run(configs, execution=execution)
    for i, config in enumerate(configs):
        _, alone = run([config])
        assert largest_difference(member(packed, i)["params"], alone["params"]) < 2e-5
    assert largest_difference(member(packed, 0)["params"], member(packed, 1)["params"]) > 1e-2  # seeds do differ


def test_cutting_an_epoch_into_dispatches_changes_no_bit(run: Any) -> None:
    _, whole = run([trial(3)], epochs=2)
    _, cut = run([trial(3)], epochs=2, cuts=(1, 4, 5))
    assert largest_difference(whole, cut) == 0.0


def test_batch_order_depends_on_seed_and_epoch_alone(data: Resident) -> None:
    program = Program(trial(), data)
    pair = program.hyper([trial(5), trial(6)], [0, 0])
    alone = Program(trial(train=Train(batch_size=32)), data)
    first, second = np.asarray(program.order(pair, 0)), np.asarray(program.order(pair, 1))
    n = min(first.shape[1], np.asarray(alone.order(alone.hyper([trial(6)], [0]), 0)).shape[1])
    np.testing.assert_array_equal(first[1][:n], np.asarray(alone.order(alone.hyper([trial(6)], [0]), 0))[0][:n])
    assert (first[0] != first[1]).any()
    assert (first[0] != second[0]).any()
    assert set(first[0]) <= set(np.asarray(program.split.train).tolist())
    assert len(set(first[0].tolist())) == first.shape[1], "an image twice in one epoch"


def test_held_out_images_are_never_trained_on(data: Resident) -> None:
    program = Program(trial(), data)
    train, validation = set(np.asarray(program.split.train).tolist()), set(np.asarray(program.split.validation).tolist())
    assert not train & validation
    assert len(train) + len(validation) == IMAGES


def test_learning_rates_and_temperatures_share_one_compilation(data: Resident) -> None:
    logits = jnp.zeros((1, IMAGES, 10))
    program = Program(trial(distill=Distill(teacher="t")), data)
    for temperature, rate in ((1.0, 1e-3), (20.0, 1e-2)):
        train = Train(batch_size=64, optimizer=Optimizer(learning_rate=rate))
        configs = [trial(s, distill=Distill(teacher="t", temperature=temperature), train=train) for s in (0, 1)]
        hyper = program.hyper(configs, [0, 0])
        state = program.train(program.init(hyper), hyper, program.order(hyper, 0), Table(logits), 0, 0, 2)
    assert program.compilations() == 1
    assert np.isfinite(np.asarray(state["loss_sum"])).all()


def test_each_student_learns_from_its_own_teacher(run: Any) -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, IMAGES, 10)), jnp.float32)
    configs = [trial(0, distill=Distill(teacher=t)) for t in ("a", "b")]
    _, together = run(configs, lessons=Table(logits), teachers=[0, 1])
    _, second = run(configs[1:], lessons=Table(logits[1:]), teachers=[0])
    assert largest_difference(member(together, 1)["params"], second["params"]) < 2e-5
    assert largest_difference(member(together, 0)["params"], member(together, 1)["params"]) > 1e-3


def test_with_random_augmentation_the_teachers_network_sees_the_changed_image(data: Resident, run: Any) -> None:
    """Both ways of asking a teacher agree where nothing is changed, also with one that normalises in its own way."""
    teacher_program, state = run([trial(9, normalize="channel")])
    model = jax.tree.map(lambda a: jnp.asarray(a[0]), {"params": state["params"], "stats": state["stats"]})
    logits = teacher_program.all_logits(model)[None]
    config = trial(0, distill=Distill(teacher="t", loss="hinton", temperature=3.0))
    _, by_table = run([config], lessons=Table(logits))
    live = Program(config, data, teachers=[teacher_program])
    hyper = live.hyper([config], [0])
    by_network = live.train(live.init(hyper), hyper, live.order(hyper, 0), Networks((model,)), 0, 0, live.steps_per_epoch)
    assert largest_difference(by_table["params"], jax.device_get(by_network["params"])) < 2e-5


def test_training_lowers_the_loss_under_every_optimizer_and_schedule(data: Resident) -> None:
    optimizers = [Optimizer(name="adam", learning_rate=3e-3), Optimizer(name="rmsprop", learning_rate=1e-3, momentum=0.5),
                  Optimizer(name="sgd", learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)]  # fmt: skip
    schedules = [
        Schedule(),
        Schedule(name="cosine"),
        Schedule(name="multi_step", milestones=(2,)),
        Schedule(name="exponential", factor=0.94),
    ]
    for optimizer, schedule in zip([*optimizers, optimizers[0]], schedules, strict=True):
        config = trial(train=Train(epochs=4, batch_size=32, optimizer=optimizer, schedule=schedule))
        program = Program(config, data)
        hyper = program.hyper([config], [0])
        state = program.init(hyper)
        before = program.evaluate(state, "validation")["loss"][0]
        for epoch in range(4):
            state = program.train(state, hyper, program.order(hyper, epoch), None, epoch, 0, program.steps_per_epoch)
        assert program.evaluate(state, "validation")["loss"][0] < 0.8 * before, (optimizer.name, schedule.name)


def test_bfloat16_learns_and_keeps_float32_parameters(run: Any) -> None:
    config = trial(train=Train(batch_size=32, dtype="bfloat16", optimizer=Optimizer(learning_rate=3e-3)))
    program, state = run([config], epochs=4)
    assert {leaf.dtype for leaf in jax.tree.leaves(state["params"])} == {np.dtype("float32")}
    confusion = program.evaluate(jax.tree.map(jnp.asarray, state), "test")["confusion"][0]
    assert np.trace(confusion) > 0.5 * 200


def test_dropout_acts_in_training_only(run: Any) -> None:
    wet = TrialConfig(
        dataset=Dataset(name="mnist_sample"),
        model={"name": "simplenet_v2", "hidden": 32, "dropout": 0.5},
        train=Train(batch_size=64),
    )
    dry = TrialConfig(
        dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v2", "hidden": 32}, train=Train(batch_size=64)
    )
    (program, a), (_, b) = run([wet]), run([dry])
    assert largest_difference(a["params"], b["params"]) > 1e-4
    state = jax.tree.map(jnp.asarray, a)
    first, second = program.evaluate(state, "test"), program.evaluate(state, "test")
    np.testing.assert_array_equal(first["loss"], second["loss"])


def test_augmented_training_differs_by_seed_and_repeats(run: Any) -> None:
    train = Train(batch_size=64, augment=Augment(pad=2, flip=True, brightness=20, contrast=(0.8, 1.2)))
    _, a = run([trial(1, train=train)])
    _, again = run([trial(1, train=train)])
    _, plain = run([trial(1)])
    assert largest_difference(a, again) == 0.0
    assert largest_difference(a["params"], plain["params"]) > 1e-3


def test_evaluation_counts_every_image_once(data: Resident) -> None:
    program = Program(trial(), data)
    figures = program.evaluate(program.init(program.hyper([trial()], [0])), "test")
    np.testing.assert_array_equal(figures["confusion"][0].sum(1), np.bincount(np.asarray(data.test_labels), minlength=10))


def test_a_diverged_trial_disturbs_no_other(run: Any) -> None:
    rates = (1e-3, 1e30, 1e-2)
    configs = [trial(seed, model="simplenet_v4", train=Train(batch_size=64, optimizer=Optimizer(learning_rate=rate)))
               for seed, rate in enumerate(rates)]  # fmt: skip
    for execution in ("map", "vmap"):
        _, packed = run(configs, execution=execution)
        assert not np.isfinite(packed["loss_sum"][1])
        for i in (0, 2):
            _, alone = run([configs[i]])
            assert largest_difference(member(packed, i)["params"], alone["params"]) < 2e-5


def test_two_images_are_enough(run: Any) -> None:
    program, state = run([trial(train=Train(batch_size=1), train_limit=2)])
    figures = program.evaluate(jax.tree.map(jnp.asarray, state), "validation")
    assert figures["confusion"].sum() == 1
    assert np.isfinite(figures["loss"]).all()


@pytest.mark.parametrize("n", [1, 499, 500, 501, 1250])
def test_evaluation_goes_over_every_image_in_order(n: int) -> None:
    index = jnp.arange(n, dtype=jnp.int32)[::-1]
    squares = in_batches(lambda batch: batch * batch, index)
    np.testing.assert_array_equal(squares[:n], np.arange(n)[::-1] ** 2)


def test_dropout_differs_from_step_to_step(data: Resident) -> None:
    """One batch is all images and the weights stand still: only the dropped units change a step's loss."""
    train = Train(batch_size=IMAGES * 9 // 10, epochs=3, optimizer=Optimizer(name="sgd", learning_rate=1e-12))
    config = TrialConfig(
        dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v3", "hidden": 32, "dropout": 0.5}, train=train
    )
    program = Program(config, data)
    hyper = program.hyper([config], [0])
    state, sums = program.init(hyper), [0.0]
    for epoch in range(3):
        state = program.train(state, hyper, program.order(hyper, epoch), None, epoch, 0, 1)
        sums.append(float(state["loss_sum"][0]))
    losses = np.diff(sums)
    assert len({round(loss, 4) for loss in losses}) == 3
    assert np.ptp(losses) < 0.2 * losses.mean()


def top5_by_numpy(logits: np.ndarray, labels: np.ndarray) -> int:
    own = logits[np.arange(len(labels)), labels]
    return int(((logits > own[:, None]).sum(1) < 5).sum())


def test_top_five_is_counted_as_by_numpy(data: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(trial(), data)
    state = program.init(program.hyper([trial(), trial(1)], [0, 0]))
    figures = program.evaluate(state, "test")
    for i in range(2):
        model = jax.tree.map(lambda a, i=i: a[i], {"params": state["params"], "stats": state["stats"]})
        logits = np.asarray(program.network(model, data.test_images))
        assert figures["top5"][i] == top5_by_numpy(logits, np.asarray(data.test_labels))
    assert 0 < figures["top5"][0] < 200

    # Ties do no harm; of numbers that are none nothing is known.
    table = jnp.asarray(np.random.default_rng(0).integers(0, 3, (len(data.test_labels), 10)), jnp.float32)
    positions = jnp.arange(len(table), dtype=jnp.int32)
    monkeypatch.setattr(program, "network", lambda _, rows: table[rows])
    tied = program.evaluate_one({}, positions, positions, data.test_labels)
    assert tied["top5"] == top5_by_numpy(np.asarray(table), np.asarray(data.test_labels)) < len(table)
    monkeypatch.setattr(program, "network", lambda _, rows: table[rows] * jnp.nan)
    assert program.evaluate_one({}, positions, positions, data.test_labels)["top5"] == 0


def test_five_classes_have_no_top_five(data: Resident) -> None:
    few = dataclasses.replace(data, info=dataclasses.replace(data.info, num_classes=5), test_labels=data.test_labels % 5)
    program = Program(trial(), few)
    assert set(program.evaluate(program.init(program.hyper([trial()], [0])), "test")) == {"confusion", "loss"}


def test_a_batch_may_be_all_images_and_is_never_cut(data: Resident) -> None:
    program = Program(trial(train=Train(batch_size=18), train_limit=20), data)
    assert (program.batch_size, program.steps_per_epoch) == (18, 1)
    order = np.asarray(program.order(program.hyper([trial()], [0]), 0))[0]
    assert sorted(order) == np.asarray(program.split.train).tolist()
    assert set(order) | set(np.asarray(program.split.validation).tolist()) == set(range(20))
    with pytest.raises(UserError, match=r"train.batch_size must be at most 18, the images to train on, got 19"):
        Program(trial(train=Train(batch_size=19), train_limit=20), data)


def test_batch_norms_keep_as_much_of_their_statistics_as_the_training_says(data: Resident) -> None:
    """After one step with weights that stand still the running mean is (1 - momentum) times the batch's, for it began at 0."""
    means = {}
    for momentum in (0.0, 0.75):
        train = Train(batch_size=64, optimizer=Optimizer(learning_rate=1e-12), batch_norm_momentum=momentum)
        config = TrialConfig(
            dataset=Dataset(name="mnist_sample"),
            model={"name": "wide_resnet", "layout": "embedded", "blocks": 3, "width": 2},
            train=train,
        )
        program = Program(config, data)
        hyper = program.hyper([config], [0])
        state = program.train(program.init(hyper), hyper, program.order(hyper, 0), None, 0, 0, 1)
        means[momentum] = {name: np.asarray(leaf) for name, leaf in by_name(state["stats"]).items() if name.endswith("mean")}
    assert all(np.abs(leaf).max() > 0 for leaf in means[0.0].values())
    for name, leaf in means[0.75].items():
        np.testing.assert_allclose(leaf, 0.25 * means[0.0][name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_network_without_batch_norm_has_no_momentum_to_set(data: Resident) -> None:
    train = Train(batch_size=64, batch_norm_momentum=0.5)
    with pytest.raises(UserError, match=r"train\.batch_norm_momentum must be left out for simplenet_v5"):
        Program(trial(train=train), data)
