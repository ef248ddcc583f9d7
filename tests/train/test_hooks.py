"""What networks do in training besides their forward pass: condensation in stages, a penalty, drop-path's progress."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.checkpoint.models import load_model as load_arrays
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.export.check import predict
from flaxcomp.export.metadata import read_metadata
from flaxcomp.export.run import export_trial
from flaxcomp.models import condensenet, registry
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Export, Optimizer, Train, TrialConfig
from flaxcomp.train import cost, pack
from flaxcomp.train.hooks import Hooks
from flaxcomp.train.inputs import normalise_array
from flaxcomp.train.job import Finished, PackJob
from flaxcomp.train.pack import Trainer
from flaxcomp.train.program import Program
from flaxcomp.train.resident import Resident
from flaxcomp.train.restore import load_model

IMAGES, BATCH, STEPS, EPOCHS, SIZE = 107, 16, 6, 2, 8  # 12 steps: stages of a factor of 4 begin at steps 2, 4, 6
STAGES = [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]
CONDENSENET = {"name": "condensenet", "depth": 8, "growth_rate": 4, "groups": 2, "condense_factor": 4}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    full = load("mnist_sample")
    train, test = slice(IMAGES), slice(60)
    return Arrays(full.train_images[train], full.train_labels[train], full.test_images[test], full.test_labels[test], full.info)


@pytest.fixture(scope="module")
def data(arrays: Arrays) -> Resident:
    return Resident.of(arrays)


def trial(seed: int = 0, *, rate: float = 1e-2, epochs: int = EPOCHS, **options: Any) -> TrialConfig:
    train = Train(epochs=epochs, batch_size=BATCH, optimizer=Optimizer(name="sgd", momentum=0.9, learning_rate=rate))
    dataset = Dataset(name="mnist_sample", size=SIZE)
    return TrialConfig(dataset=dataset, model={**CONDENSENET, **options}, train=train, seed=seed)


PAIR = {"a": trial(0), "b": trial(1, rate=2e-2)}


def train(program: Program, configs: list[TrialConfig], steps: int, *, cut: bool = False) -> list[Any]:
    """States after the dispatches of the first `steps` steps: of one step each, or of whole epochs."""
    hyper = program.hyper(configs, [0] * len(configs))
    state, states = program.init(hyper), []
    for epoch, left in enumerate(range(steps, 0, -program.steps_per_epoch)):
        order, last = program.order(hyper, epoch), min(left, program.steps_per_epoch)
        for first, end in itertools.pairwise(range(last + 1) if cut else [0, last]):
            state = program.train(state, hyper, order, None, epoch, first, end)
            states.append(jax.device_get(state))
    return states


def masks(stats: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: mask for name, mask in flatten(stats).items() if name.endswith("/mask")}


def assert_equal(one: Any, other: Any, tolerance: float = 0.0) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def trainer(arrays: Arrays) -> Iterator[Trainer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "DISPATCH_SECONDS", 0.0)  # one step a dispatch
        yield Trainer(arrays)


@pytest.fixture(scope="module")
def program(trainer: Trainer) -> Program:
    return trainer.program(job(Path("nowhere"), 1))


def test_connections_go_in_stages_at_their_steps_and_stay_away(program: Program) -> None:
    assert (program.steps_per_epoch, program.steps) == (STEPS, EPOCHS * STEPS)
    states = train(program, list(PAIR.values()), program.steps, cut=True)
    before: dict[str, Any] = {}
    for stage, state in zip(STAGES, states, strict=True):
        present = masks(state["stats"])
        assert len(present) == 3
        for name, mask in present.items():
            np.testing.assert_array_equal(mask.mean((1, 2, 3, 4)), 1 - stage / 4, err_msg=name)
            assert (mask <= before.get(name, 1)).all(), name
        before = present


def test_cuts_into_dispatches_change_no_bit_across_stages(program: Program) -> None:
    pair = list(PAIR.values())
    assert_equal(train(program, pair, program.steps, cut=True)[-1], train(program, pair, program.steps)[-1])


@pytest.mark.parametrize("execution", ["map", "vmap"])
def test_packed_equals_alone_across_a_stage(data: Resident, program: Program, execution: Any) -> None:
    """Three steps, the last one behind the first stage; further on, batch norm magnifies the last digits."""
    together = program if execution == program.execution else Program(trial(), data, execution=execution)
    (packed,) = train(together, list(PAIR.values()), 3)
    for i, config in enumerate(PAIR.values()):
        (alone,) = train(program, [config], 3)
        mine = jax.tree.map(lambda a, i=i: a[i : i + 1], packed)
        assert_equal(masks(mine["stats"]), masks(alone["stats"]))
        assert 0.7 < np.mean([mask.mean() for mask in masks(alone["stats"]).values()]) < 0.8
        assert_equal(mine["params"], alone["params"], 2e-4)


def test_group_lasso_is_in_the_loss_until_the_last_stage(data: Resident, program: Program) -> None:
    strong, none = (Program(trial(group_lasso=weight), data) for weight in (0.5, 0.0))
    network: Any = registry.build(CONDENSENET, (SIZE, SIZE, 1), 10, nnx.Rngs(params=jax.random.key(0)))
    lasso = float(condensenet.group_lasso(network))
    for step in (0, 5, 6, 11):
        values = [float(network_penalty(p, network, step)) for p in (strong, program, none)]
        np.testing.assert_allclose(values, [0.5 * lasso, 1e-5 * lasso, 0] if step < 6 else 0, rtol=1e-5)
    losses = [train(p, [trial()], 1)[0]["loss_sum"][0] for p in (strong, program)]
    initial = masked_lasso(program, trial())
    assert losses[0] - losses[1] == pytest.approx((0.5 - 1e-5) * initial, rel=1e-4)


def network_penalty(program: Program, network: nnx.Module, step: int) -> jax.Array:
    _, params, stats = nnx.split(network, nnx.Param, ...)
    plain = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    return program._hooks.penalised(jnp.zeros(()), *plain, jnp.asarray(step))


def masked_lasso(program: Program, config: TrialConfig) -> float:
    state = jax.tree.map(lambda a: a[0], program.init(program.hyper([config], [0])))
    return float(condensenet.group_lasso(nnx.merge(program._train_graph, state["params"], state["stats"])))


@pytest.fixture(scope="module")
def whole(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path, Any]:
    root = tmp_path_factory.mktemp("whole")
    *_, last = trainer.train(job(root, 1), lambda: False)
    assert isinstance(last, Finished)
    return trainer, root, last.results


def job(root: Path, attempt: int) -> PackJob:
    return PackJob(str(root), "pack", attempt, signature(PAIR["a"]), PAIR)


def test_stopped_and_resumed_around_every_stage_it_ends_bit_for_bit_the_same(
    whole: tuple[Trainer, Path, Any], tmp_path: Path
) -> None:
    trainer, root, results = whole
    attempt, last = 0, None
    while not isinstance(last, Finished):
        attempt += 1
        asked = itertools.count()
        *_, last = trainer.train(job(tmp_path, attempt), lambda asked=asked: next(asked) >= 1)
    assert attempt == EPOCHS * STEPS
    for trial_id in PAIR:
        ended, resumed = (load_arrays(RunPaths.at(folder).model(trial_id)) for folder in (root, tmp_path))
        assert masks(ended["stats"])
        assert_equal(ended, resumed)
        assert last.results[trial_id]["test_loss"] == results[trial_id]["test_loss"]


def test_a_finished_trial_reports_and_restores_the_condensed_network(whole: tuple[Trainer, Path, Any], arrays: Arrays) -> None:
    trainer, root, results = whole
    form = {**CONDENSENET, "form": "condensed"}
    counts, full = (count(model, (SIZE, SIZE, 1), 10) for model in (form, CONDENSENET))
    assert counts.params < full.params
    for trial_id, config in PAIR.items():
        found = {name: results[trial_id][name] for name in ("params", "trainable_params", "macs")}
        assert found == {name: getattr(counts, name) for name in found}
        assert found == {name: getattr(cost.estimate(config), name) for name in found}
        network = load_model(RunPaths.at(root).model(trial_id), config, arrays.info)
        assert not masks(nnx.to_pure_dict(nnx.state(network)))
        sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))]
        assert sum(sizes) == counts.trainable_params
        shipped = nnx.jit(lambda net, x: net(x))(network, normalise_array(arrays.test_images, config.dataset, arrays.info))
        masked = trainer.program(job(root, 1)).network(load_arrays(RunPaths.at(root).model(trial_id)), arrays.test_images)
        assert np.std(masked) > 0.05
        np.testing.assert_allclose(shipped, masked, atol=1e-4)
    training = cost.estimate(PAIR["a"]).step_flops
    assert training == 6 * full.macs * BATCH, "it is the masked form that training computes"


def test_the_exported_file_equals_the_trained_masked_network(whole: tuple[Trainer, Path, Any], arrays: Arrays) -> None:
    trainer, root, _ = whole
    spec = Export(precisions=("float32", "int8"), onnx=False, max_accuracy_drop=1.0)
    rows = export_trial(RunPaths.at(root), "a", PAIR["a"], spec, arrays)
    assert [row["reason"] for row in rows] == [None, None], rows  # an int8 file with float operators would be flagged
    inputs = normalise_array(arrays.test_images, PAIR["a"].dataset, arrays.info)
    path = RunPaths.at(root).artifact(rows[0]["artifact"], "tflite")
    file = predict(path, inputs)
    masked = trainer.program(job(root, 1)).network(load_arrays(RunPaths.at(root).model("a")), arrays.test_images)
    np.testing.assert_allclose(file, masked, atol=1e-4)
    described = read_metadata(path)
    assert described["input"]["shape"] == [1, SIZE, SIZE, 1]
    assert (described["resize"]["source"], described["resize"]["target"]) == ([28, 28], [SIZE, SIZE])


def test_what_is_not_condensed_yet_is_not_shipped() -> None:
    network = registry.build(CONDENSENET, (SIZE, SIZE, 1), 10, nnx.Rngs(params=jax.random.key(0)))
    with pytest.raises(UserError, match="train to the last condensation stage"):
        registry.ship(network, CONDENSENET, (SIZE, SIZE, 1), 10)


def test_shipped_forms() -> None:
    assert registry.shipped(CONDENSENET) == {**CONDENSENET, "form": "condensed", "classifier_kept": 1.0}
    asked = {**CONDENSENET, "classifier_kept": 0.5}
    assert registry.shipped(asked) == {**asked, "form": "condensed"}
    for model in ({**CONDENSENET, "form": "condensed"}, {"name": "simplenet_v1"}):
        assert registry.shipped(model) == model
        shape = (28, 28, 1)
        network = registry.build(model, shape, 10, nnx.Rngs(params=jax.random.key(0)))
        assert registry.ship(network, model, shape, 10) is network


def test_who_wants_nothing_is_left_alone() -> None:
    network = registry.build({"name": "simplenet_v5"}, (28, 28, 1), 10, nnx.Rngs(params=jax.random.key(0)))
    hooks, stats, loss, step = Hooks(network, 10), {}, jnp.ones(()), jnp.asarray(3)
    assert hooks.options(step) == {}
    assert hooks.before_step({}, stats, step) is stats
    assert hooks.penalised(loss, {}, stats, step) is loss


def test_drop_path_grows_from_nothing_to_what_is_configured(data: Resident) -> None:
    model = {"name": "nasnet_a", "layout": "cifar", "cells": 1, "filters": 24, "drop_path": 0.6}
    config = TrialConfig(dataset=Dataset(name="mnist_sample", size=SIZE), model=model, train=Train(epochs=2, batch_size=BATCH))
    program = Program(config, data)
    shapes = jax.eval_shape(program.init, program.hyper([config], [0]))
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda a: jnp.asarray(random.normal(0, 0.3, a.shape[1:]), jnp.float32), shapes)
    x = jnp.asarray(random.random((2, SIZE, SIZE, 1)), jnp.float32)

    @jax.jit
    def logits(step: jax.Array, seed: int) -> jax.Array:
        rngs = nnx.Rngs(dropout=jax.random.key(seed))
        output = program._apply(program._train_graph, state["params"], state["stats"], x, step, rngs, program.stages[0])
        return output.logits[0]

    def apart(step: int) -> float:
        """What chance changes."""
        return float(np.abs(logits(step, 1) - logits(step, 2)).max())

    assert apart(0) == 0
    assert apart(program.steps // 2) > 1e-3
    steps = (0, program.steps // 2, program.steps, 9 * program.steps)
    progress = [program._hooks.options(jnp.asarray(step))["progress"] for step in steps]
    assert progress == [0, 0.5, 1, 1], "a search may count more steps than the training has"
