"""A trial whose network is made smaller, from its source's weights to its results: with a method of the tests' own."""

import itertools
import json
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.compress import run
from flaxcomp.compress.method import Found, Workshop
from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.prune.surgery import mask_of, plan, sliced
from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression.prune import Prune
from flaxcomp.sweep.compression.quantize import Quantize
from flaxcomp.sweep.compression.retraining import retrained
from flaxcomp.sweep.spec import Dataset, Optimizer, Phase, Train, TrialConfig
from flaxcomp.train import fit, pack
from flaxcomp.train.fit import Stop
from flaxcomp.train.found import as_trained
from flaxcomp.train.job import EpochDone, Event, Finished, Stopped
from flaxcomp.train.pack import Trainer
from flaxcomp.train.restore import weights_of, with_weights
from searches import job, never, small_trainer, train_source

SHAPE = (28, 28, 1)
DENSE = TrialConfig(
    dataset=Dataset(name="mnist_sample"),
    model={"name": "simplenet_v1"},
    train=Train(epochs=2, batch_size=64, optimizer=Optimizer(learning_rate=3e-3)),
)
PRUNED = replace(DENSE, prune=Prune(ratio=0.5), source="dense")


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return small_trainer()


@pytest.fixture(scope="module")
def trained(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the trained source."""
    return train_source(trainer, tmp_path_factory.mktemp("run"), DENSE)


@pytest.fixture
def dense(trained: Path, tmp_path: Path) -> Path:
    """A copy for each test."""
    return shutil.copytree(trained, tmp_path / "run")


@dataclass
class Halving:
    """Keeps the first half of all channels; counts how often it is asked to search."""

    fine_tuned: bool = False
    trains: bool = True
    searches: int = 0
    stop_in: list[str] = field(default_factory=list)

    def check(self, config: TrialConfig, shape: tuple[int, int, int], classes: int) -> None:
        assert (config.prune, shape, classes) == (Prune(ratio=0.5), SHAPE, 10)

    def search(self, workshop: Workshop) -> Generator[Event, None, Found]:
        self.searches += 1
        yield workshop.note("halving")
        source = workshop.source
        coupling = couple(source.model, workshop.shape, workshop.classes)
        cut = plan(coupling, {group.name: np.arange(group.size // 2) for group in coupling.free})
        model = weights_of(sliced(source.module, cut)) if self.fine_tuned or not self.trains else None
        return Found(cut.model, model, {"prune_ratio": 0.5}, {"groups": [g.name for g in coupling.free]}, self.trains)


def use(monkeypatch: pytest.MonkeyPatch, method: Any) -> None:
    monkeypatch.setattr(run, "load_method", lambda _: method)


def results_of(events: list[Event]) -> dict[str, Any]:
    assert isinstance(events[-1], Finished), events
    return events[-1].results["pruned"]


def test_the_smaller_network_is_trained_evaluated_and_written(
    trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Halving())
    events = list(run.train(trainer, job(dense, "pruned", PRUNED), never))
    results = results_of(events)
    model = {"name": "simplenet_v1", "widths": [1, 3]}
    expected = count(model, SHAPE, 10)
    assert (results["params"], results["macs"], results["prune_ratio"]) == (expected.params, expected.macs, 0.5)
    assert [event.rows[0]["epoch"] for event in events if isinstance(event, EpochDone)] == [1, 2]
    paths = RunPaths.at(dense)
    assert as_trained(paths, "pruned", PRUNED).model == model
    assert json.loads(paths.compression_file("pruned").read_text())["figures"] == {"prune_ratio": 0.5}
    kernel = next(leaf for name, leaf in flatten(load_model(paths.model("pruned"))).items() if leaf.shape == (5, 5, 1, 1))
    assert np.isfinite(kernel).all()


def test_fine_tuning_begins_with_what_is_left(trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step with a rate of nearly nothing leaves the weights where they were; from scratch they are others."""
    still = replace(PRUNED, prune=Prune(ratio=0.5, epochs=1, learning_rate=1e-12))
    monkeypatch.setattr(Halving, "check", lambda *_: None)
    source = flatten(load_model(RunPaths.at(dense).model("dense")))
    first = next(name for name, leaf in source.items() if leaf.shape == (5, 5, 1, 3))
    for fine_tuned in (True, False):
        use(monkeypatch, Halving(fine_tuned=fine_tuned))
        list(run.train(trainer, job(dense, "pruned", still, attempt=2 + fine_tuned), never))
        left = flatten(load_model(RunPaths.at(dense).model("pruned")))[first]
        assert np.allclose(left, source[first][..., :1], atol=1e-6) == fine_tuned
        shutil.rmtree(RunPaths.at(dense).pack("pack-pruned"))


def test_a_network_that_needs_no_training_is_evaluated_as_it_is(
    trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Halving(trains=False))
    root = dense
    events = list(run.train(trainer, job(root, "pruned", PRUNED, attempt=9), never))
    results = results_of(events)
    assert not any(isinstance(event, EpochDone) for event in events)
    assert results["train_seconds"] == 0.0
    assert 0 <= results["val_accuracy"] == results["best_val_accuracy"] <= 1
    source, left = (flatten(load_model(RunPaths.at(root).model(name))) for name in ("dense", "pruned"))
    name = next(name for name, leaf in source.items() if leaf.shape == (5, 5, 1, 3))
    np.testing.assert_array_equal(left[name], source[name][..., :1])


def test_interrupted_in_training_the_search_is_not_repeated_and_the_outcome_is_the_same(
    trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "DISPATCH_SECONDS", 0.0)
    use(monkeypatch, Halving())
    whole = results_of(list(run.train(trainer, job(dense, "pruned", PRUNED), never)))
    shutil.rmtree(RunPaths.at(dense).pack("pack-pruned"))
    method = Halving()
    use(monkeypatch, method)
    events: list[Event] = []
    for attempt in itertools.count(1):
        asked = itertools.count()
        events = list(run.train(trainer, job(dense, "pruned", PRUNED, attempt), lambda c=asked: next(c) >= 2))
        if not isinstance(events[-1], Stopped):
            break
    assert attempt > 2
    assert method.searches == 1
    same = set(whole) - {"train_seconds", "search_seconds"}
    assert {name: results_of(events)[name] for name in same} == {name: whole[name] for name in same}


def test_a_search_that_is_asked_to_stop_goes_on_from_what_it_kept(
    trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InSteps(Halving):
        def search(self, workshop: Workshop) -> Generator[Event, None, Found]:
            found = workshop.kept("steps")
            step = 0 if found is None else found[1]["step"]
            if found is not None:
                np.testing.assert_array_equal(found[0]["left"], np.arange(step))
            workshop.keep("steps", {"left": np.arange(step + 1)}, {"step": step + 1})
            if step < 2:
                raise Stop
            return (yield from super().search(workshop))

    method = InSteps()
    use(monkeypatch, method)
    last = [list(run.train(trainer, job(dense, "pruned", PRUNED, n), never))[-1] for n in (1, 2, 3)]
    assert [type(event) for event in last] == [Stopped, Stopped, Finished]
    assert method.searches == 1


def test_what_the_network_makes_impossible_is_the_trials_own_error(
    trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Halving):
        def check(self, *_: Any) -> None:
            raise UserError("prune.criterion must be another")

    use(monkeypatch, Refusing())
    with pytest.raises(UserError, match=r"prune\.criterion must be another"):
        list(run.train(trainer, job(dense, "pruned", PRUNED), never))


def test_a_block_says_how_long_and_how_fast_and_replaces_phases() -> None:
    train = Train(epochs=7, optimizer=Optimizer(name="sgd", learning_rate=0.1))
    assert retrained(train, Prune()) == train
    changed = retrained(train, Prune(epochs=3, learning_rate=0.01))
    assert (changed.epochs, changed.optimizer.learning_rate, changed.optimizer.name) == (3, 0.01, "sgd")
    phased = replace(train, phases=(Phase(epochs=1), Phase(steps=5)))
    assert retrained(phased, Prune()) == phased
    assert retrained(phased, Prune(epochs=3)).phases == ()
    assert [p.optimizer.learning_rate for p in retrained(phased, Prune(learning_rate=0.5)).phases] == [0.5, 0.5]


# Short trainings side by side.


@pytest.fixture
def workshop(trainer: Trainer, dense: Path) -> Workshop:
    return Workshop(trainer, job(dense, "pruned", PRUNED), never)


def test_a_masked_network_trains_as_the_one_without_its_channels(workshop: Workshop) -> None:
    """Side by side with others, in the program of the whole network."""
    source = workshop.source
    coupling = couple(source.model, workshop.shape, workshop.classes)
    cuts = [plan(coupling, {g.name: np.arange(size) for g, size in zip(coupling.free, sizes, strict=True)})
            for sizes in ((3, 6), (2, 6), (2, 3))]  # fmt: skip
    masks = [mask_of(source.module, cut) for cut in cuts]
    whole = source.weights
    together = workshop.fit()
    state = together.train(together.state([whole] * 3, masks), 6)
    accuracy = together.accuracy(state)
    for i, cut in enumerate(cuts):
        alone = workshop.fit(replace(workshop.plain, model=cut.model))
        small = alone.train(alone.state([weights_of(sliced(source.module, cut))]), 6)
        assert alone.accuracy(small)[0] == pytest.approx(accuracy[i], abs=0.04)
        left = flatten(weights_of(sliced(with_weights(source.module, together.models(state)[i]), cut))["params"])
        for name, leaf in flatten(alone.models(small)[0]["params"]).items():
            np.testing.assert_allclose(left[name], leaf, atol=2e-5, err_msg=name)


def test_steps_in_parts_are_the_steps_in_one(workshop: Workshop) -> None:
    """Over the end of an epoch as well: 4 steps make one here."""
    whole = workshop.source.weights
    one = workshop.fit()
    together = one.models(one.train(one.state([whole]), 7))[0]
    parts = one.state([whole])
    for first, steps in ((0, 3), (3, 2), (5, 2)):
        parts = one.train(parts, steps, first)
    for (name, a), b in zip(flatten(together).items(), flatten(one.models(parts)[0]).values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7, err_msg=name)


def test_a_training_that_is_asked_to_stop_says_so(trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "DISPATCH_SECONDS", 0.0)
    asked: Iterator[bool] = iter([False, False, True])
    stopping: Callable[[], bool] = lambda: next(asked)  # noqa: E731
    short = Workshop(trainer, job(dense, "pruned", PRUNED), stopping)
    one = short.fit()
    with pytest.raises(Stop) as stopped:
        one.train(one.state([short.source.weights]), 20)
    assert stopped.value.step == 2
    rest = one.models(Workshop(trainer, job(dense, "pruned", PRUNED), never).fit().train(stopped.value.state, 3, 2))[0]
    whole = Workshop(trainer, job(dense, "pruned", PRUNED), never).fit()
    for (name, a), b in zip(
        flatten(rest).items(),
        flatten(whole.models(whole.train(whole.state([short.source.weights]), 5))[0]).values(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-7, err_msg=name)


def test_a_method_is_asked_again_of_the_network_that_another_has_found(
    trainer: Trainer, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked:
        def __init__(self) -> None:
            self.models: list[Any] = []

        def check(self, config: TrialConfig, shape: tuple[int, int, int], classes: int) -> None:
            self.models.append(config.model)

        def search(self, workshop: Workshop) -> Generator[Event, None, Found]:
            yield from ()
            return Found(workshop.source.model, workshop.source.weights, trains=False)

    use(monkeypatch, Halving(trains=False))
    list(run.train(trainer, job(dense, "pruned", PRUNED), never))
    asked = Asked()
    use(monkeypatch, asked)
    chain = replace(PRUNED, quantize=Quantize(), source="pruned")
    assert isinstance(list(run.train(trainer, job(dense, "rounded", chain), never))[-1], Finished)
    assert asked.models == [{"name": "simplenet_v1"}, {"name": "simplenet_v1", "widths": [1, 3]}]
