"""What students learn from: several teachers, memoised logits, teachers in training mode, hints; packs of them, resumed."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from msgspec.structs import replace

from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.models.abstract import abstract
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Augment, Dataset, Distill, Hint, Optimizer, Train, TrialConfig
from flaxcomp.train import memo, pack
from flaxcomp.train.job import EpochDone, Event, Finished, Note, PackJob, Stopped
from flaxcomp.train.lessons import Memo, Networks, combined
from flaxcomp.train.pack import Trainer

IMAGES, BATCH = 120, 36  # 12 are held out: three steps an epoch
TRAIN = Train(epochs=2, batch_size=BATCH, optimizer=Optimizer(learning_rate=3e-3))
MOVING = replace(TRAIN, augment=Augment(pad=1, flip=True))
CONV = {"name": "simplenet_v5"}
NORMED = {"name": "mobilenet_v1", "layout": "embedded", "blocks": 3, "width": 2}

Files = dict[str, np.ndarray[Any, Any]]


def config(seed: int = 0, *, model: Any = CONV, train: Train = TRAIN, distill: Distill | None = None) -> TrialConfig:
    return TrialConfig(dataset=Dataset(name="mnist_sample"), model=model, train=train, distill=distill, seed=seed)


TEACHERS = {
    "a": config(10, model={"name": "simplenet_v3"}),
    "b": config(11, model={"name": "simplenet_v3"}),
    "n": config(12, model={**NORMED, "width": 3}),
}


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    full = load("mnist_sample")
    images, labels = full.train_images[:IMAGES], full.train_labels[:IMAGES]
    return Trainer(Arrays(images, labels, full.test_images[:20], full.test_labels[:20], full.info))


@pytest.fixture(scope="module", autouse=True)
def one_step_a_dispatch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "DISPATCH_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def taught(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the teachers' networks."""
    root = tmp_path_factory.mktemp("taught")
    for group in (("a", "b"), ("n",)):
        run(trainer, job(root, {name: TEACHERS[name] for name in group}))
    return root


@pytest.fixture
def root(taught: Path, tmp_path: Path) -> Path:
    shutil.copytree(taught / "trials", tmp_path / "trials")
    return tmp_path


def job(root: Path, configs: dict[str, TrialConfig], attempt: int = 1) -> PackJob:
    first = next(iter(configs.values()))
    return PackJob(str(root), f"pack-{'-'.join(configs)}", attempt, signature(first), configs, TEACHERS)


def after(calls: int) -> Callable[[], bool]:
    asked = itertools.count()
    return lambda: next(asked) >= calls


def run(trainer: Trainer, job: PackJob, stop: Callable[[], bool] = lambda: False) -> list[Event]:
    return list(trainer.train(job, stop))


def network(root: Path, trial: str) -> Files:
    return flatten(load_model(RunPaths.at(root).model(trial)))


def trained(trainer: Trainer, root: Path, **configs: TrialConfig) -> dict[str, Files]:
    events = run(trainer, job(root, configs))
    assert isinstance(events[-1], Finished), events[-1]
    return {name: network(root, name) for name in configs}


def difference(one: Files, other: Files) -> float:
    assert set(one) == set(other)
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


# Several teachers.


def test_logits_of_several_teachers_as_one() -> None:
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(2, 3, 4)) * 3, np.array([0.25, 0.75])
    given = (jnp.asarray(logits, jnp.float32), jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(combined(*given, "logits", jnp.float32(2)), np.tensordot(weights, logits, 1), rtol=1e-5)
    as_one = combined(*given, "probabilities", jnp.float32(2))
    mean = np.tensordot(weights, np.asarray(jax.nn.softmax(logits / 2)), 1)
    np.testing.assert_allclose(jax.nn.softmax(as_one / 2), mean, rtol=1e-5)
    np.testing.assert_array_equal(combined(given[0][:1], jnp.ones(1), "probabilities", jnp.float32(2)), given[0][0])


def test_students_of_several_teachers_packed_and_alone(trainer: Trainer, root: Path) -> None:
    """The weights are inputs; a weight of nearly 1 is nearly a single teacher."""
    both = Distill(teacher=("a", "b"), loss="hinton", temperature=3.0)
    one_sided = replace(both, weights=(1 - 1e-7, 1e-7))
    assert (
        signature(config(distill=both))
        == signature(config(distill=one_sided))
        == signature(config(distill=replace(both, teacher=("b", "n"))))
    )
    together = trained(trainer, root, s=config(1, distill=both), t=config(1, distill=one_sided))
    alone = trained(trainer, root, s=config(1, distill=both))
    single = trained(trainer, root, u=config(1, distill=replace(both, teacher="a")))
    assert difference(together["s"], alone["s"]) < 2e-5
    assert difference(together["t"], single["u"]) < 1e-4
    assert difference(together["s"], together["t"]) > 1e-3


def test_a_teacher_with_other_classes_is_refused_before_training(trainer: Trainer, root: Path) -> None:
    teachers = {"a": config(10, model={"name": "simplenet_v3", "num_classes": 7})}
    wrong = PackJob(str(root), "p", 1, "wrong", {"s": config(distill=Distill(teacher="a"))}, teachers)
    with pytest.raises(UserError, match="must have its student's 10 classes, but a has 7"):
        run(trainer, wrong)


# Memoised logits.


def test_a_memo_teaches_what_the_network_does(trainer: Trainer, root: Path) -> None:
    both = Distill(teacher=("a", "n"), loss="hinton", temperature=2.0, memoise="always")
    memoised, asked = (config(3, train=MOVING, distill=replace(both, memoise=how)) for how in ("always", "never"))
    assert signature(memoised) == signature(asked)
    kinds = [type(trainer.teachers.lessons(job(root, {"s": each}), trainer.program(job(root, {"s": each}))))
             for each in (memoised, asked)]  # fmt: skip
    assert kinds == [Memo, Networks]
    first, second = trained(trainer, root, s=memoised), trained(trainer, root, t=asked)
    assert difference(first["s"], second["t"]) < 2e-5
    files = sorted(RunPaths.at(root).teacher_memos("n").rglob("*.f32"))
    assert [int(file.stem) for file in files] == sorted(range(18), key=str)
    assert {file.stat().st_size for file in files} == {4 * 108 * 10 + 4}


def test_a_memo_that_is_stopped_goes_on_where_it_was_and_a_damaged_part_is_made_again(trainer: Trainer, root: Path) -> None:
    student = {"s": config(3, train=MOVING, distill=Distill(teacher="a", loss="soft_ce", memoise="always"))}
    stopped = run(trainer, job(root, student), after(5))
    assert [type(event) for event in stopped] == [Note, Stopped]
    assert isinstance(stopped[0], Note)
    assert stopped[0].text == "memoising the logits of teacher a: 108 images changed in 18 ways"
    folder = RunPaths.at(root).teacher_memo("a", memo.key_of(student["s"]))
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert len(kept) == 5
    (folder / "2.f32").write_bytes(b"damaged")
    times = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = run(trainer, job(root, student, 2))
    assert not any(isinstance(event, Note) for event in again)
    assert isinstance(again[-1], Finished)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    rewritten = {name for name in kept if (folder / name).stat().st_mtime_ns != times[name]}
    assert rewritten == {"2.f32"}


@pytest.mark.parametrize(
    ("changes", "students", "epochs", "expected"),
    [
        ({"pad": 4, "flip": True}, 1, 162, False),  # 162 ways: as many epochs cost the same
        ({"pad": 4, "flip": True}, 1, 163, True),
        ({"pad": 4, "flip": True}, 2, 82, True),
        ({"pad": 4, "flip": True, "brightness": 1.0}, 1, 1000, False),
        ({"pad": 40, "flip": True}, 1, 100_000, False),  # 13,122 ways do not fit
        ({"flip": True}, 1, 3, True),
    ],
)
def test_a_memo_is_made_where_it_costs_less(changes: dict[str, Any], students: int, epochs: int, expected: bool) -> None:
    train = replace(TRAIN, batch_size=100, augment=Augment(**changes))
    configs = [config(seed, train=train, distill=Distill(teacher="a")) for seed in range(students)]
    assert memo.is_worthwhile(configs, epochs * 50, 5000, 10) is expected
    if expected:
        never = replace(configs[0], distill=Distill(teacher="a", memoise="never"))
        assert not memo.is_worthwhile([*configs, never], epochs * 50, 5000, 10)
        hinted = replace(configs[0], distill=Distill(teacher="a", hint=Hint()))
        assert not memo.is_worthwhile([hinted], epochs * 50, 5000, 10)


def test_memos_of_other_images_or_changes_are_others() -> None:
    moving = config(train=MOVING, distill=Distill(teacher="a"))
    others = [
        replace(moving, train=replace(MOVING, augment=Augment(pad=1))),
        replace(moving, train=replace(MOVING, augment=Augment(pad=1, flip=True, pad_mode="constant"))),
        replace(moving, dataset=Dataset(name="mnist_sample", train_limit=100)),
    ]
    assert len({memo.key_of(each) for each in (moving, *others)}) == 4
    assert memo.key_of(moving) == memo.key_of(replace(moving, seed=3, train=replace(MOVING, epochs=9)))


# A teacher in training mode.


def test_a_teacher_in_training_mode_uses_the_batchs_statistics(trainer: Trainer, root: Path) -> None:
    teacher = trainer.program(job(root, {"n": TEACHERS["n"]}))
    model = jax.tree.map(jnp.asarray, load_model(RunPaths.at(root).model("n")))
    images = trainer.data.train_images[:8].astype(jnp.float32)
    plain = abstract(TEACHERS["n"].model, (28, 28, 1), 10)
    plain.eval()
    plain.set_attributes(use_running_average=False, raise_if_not_found=False)
    expected = nnx.merge(nnx.graphdef(plain), model["params"], model["stats"])(images / 255)
    np.testing.assert_allclose(teacher.shown(model, images, mode="train")[0], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(expected - teacher.network(model, images))).max() > 1e-2
    own = teacher.shown(model, images[:4], mode="train")[0]
    assert np.abs(np.asarray(own - expected[:4])).max() > 1e-3, "another batch, other statistics"


def test_the_mode_of_the_teacher_changes_its_students(trainer: Trainer, root: Path) -> None:
    modes = {mode: config(2, distill=Distill(teacher="n", loss="hinton", teacher_mode=mode)) for mode in ("eval", "train")}  # type: ignore[arg-type]
    assert signature(modes["eval"]) != signature(modes["train"])
    evaluated = trained(trainer, root, e=modes["eval"])
    batched = trained(trainer, root, t=modes["train"])
    assert difference(evaluated["e"], batched["t"]) > 1e-4


# Hints.


def hinted(seed: int = 0, weight: float = 1.0, epochs: int = 0, train: Train = TRAIN) -> TrialConfig:
    hint = Hint(weight=weight, epochs=epochs)
    return config(seed, model=NORMED, train=train, distill=Distill(teacher="n", loss="hinton", hint=hint))


def test_students_with_hints_packed_and_alone_and_the_networks_without_the_regressor(trainer: Trainer, root: Path) -> None:
    assert signature(hinted(1)) == signature(hinted(2, weight=5.0)) != signature(hinted(1, epochs=1))
    together = trained(trainer, root, s=hinted(1), t=hinted(1, weight=50.0))
    alone = trained(trainer, root, s=hinted(1))
    assert difference(together["s"], alone["s"]) < 2e-5
    assert difference(together["s"], together["t"]) > 1e-3
    assert set(network(root, "n")) == set(alone["s"]), "the regressor is not in the network"


@pytest.mark.parametrize("epochs", [0, 1])
def test_hints_stopped_after_every_dispatch_end_bit_for_bit_the_same(trainer: Trainer, root: Path, epochs: int) -> None:
    whole = trained(trainer, root, s=hinted(4, epochs=epochs))["s"]
    shutil.rmtree(root / "packs")
    rows: list[Any] = []
    for attempt in range(1, 20):
        events = run(trainer, job(root, {"s": hinted(4, epochs=epochs)}, attempt), after(1))
        rows += [row for event in events if isinstance(event, EpochDone) for row in event.rows]
        if isinstance(events[-1], Finished):
            break
    assert attempt == 6
    np.testing.assert_equal(network(root, "s"), whole)
    assert all(np.isfinite(row["train_loss"]) for row in rows)


def test_hints_alone_train_what_leads_to_them_and_the_rest_comes_after(trainer: Trainer, root: Path) -> None:
    staged = hinted(5, epochs=1)
    program = trainer.program(job(root, {"s": staged}))
    lessons = trainer.teachers.lessons(job(root, {"s": staged}), program)
    states = []
    hyper = program.hyper([staged], [0])
    state = program.init(hyper)
    states.append(jax.device_get(state))
    state = program.train(state, hyper, program.order(hyper, 0), lessons, 0, 0, 3, 0)
    states.append(jax.device_get(state))
    hyper = program.hyper([staged], [0], 1)
    state = program.train(program.begin(state, hyper, 1), hyper, program.order(hyper, 1), lessons, 1, 0, 3, 1)
    states.append(jax.device_get(state))
    layer = program.bridge.student_layer if program.bridge else ""
    assert layer == "blocks.1"

    def moved(first: int, part: str) -> set[str]:
        one, other = (flatten(each[part]) for each in states[first : first + 2])
        return {name for name in one if not np.array_equal(one[name], other[name])}

    assert {name.split("/")[0] + name.split("/")[1] for name in moved(0, "params")} == {
        "stemconv",
        "stembn",
        "blocks0",
        "blocks1",
    }
    assert any(name.startswith("logits") for name in moved(1, "params"))
    assert {name for name in moved(0, "hint") if name.startswith("params")} == {"params/bias", "params/kernel"}
    assert {name for name in moved(1, "hint") if name.startswith("params")} == set()


def test_hints_lower_the_difference_to_the_teacher(trainer: Trainer, root: Path) -> None:
    long = replace(TRAIN, epochs=9, optimizer=Optimizer(learning_rate=1e-2))
    events = run(trainer, job(root, {"s": hinted(6, epochs=8, train=long)}))
    losses = [row["train_loss"] for event in events if isinstance(event, EpochDone) for row in event.rows]
    assert losses[7] < 0.7 * losses[0], losses
