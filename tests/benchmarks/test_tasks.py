"""What both sides are given, and the networks of the Flax peers beside ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cifar, throughput
from benchmarks.harness import Noise, UnequalError, timed
from benchmarks.peers.peer_job import digest, read_arrays, read_job
from benchmarks.sides import OURS, PEERS, ours, peer, read_result, same
from benchmarks.tasks import MODELS, Task, arrays_of, grid, name_of, write_arrays
from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.sweep.expand import expand
from flaxcomp.sweep.load import load_sweep

SAMPLE = {"name": "mnist_sample", "train_limit": 300}


def sample_task(**options: Any) -> Task:
    train = {"epochs": 2, "batch_size": 64, "optimizer": {"name": "adam"}}
    return Task("simplenet_v1", SAMPLE, train, grid(learning_rate=[1e-3, 2e-3], seed=[0, 1]), **options)


@pytest.mark.parametrize(
    ("trials", "rates", "temperatures", "seeds"), [(64, 4, 4, 4), (16, 4, 4, 1), (8, 2, 2, 2), (1, 1, 1, 1)]
)
def test_the_grid_is_learning_rate_by_temperature_by_seed(trials: int, rates: int, temperatures: int, seeds: int) -> None:
    points = throughput.make_task(trials, 1, None).points
    sizes = [len({point[name] for point in points}) for name in ("learning_rate", "temperature", "seed")]
    assert sizes == [rates, temperatures, seeds]
    assert len({name_of(point) for point in points}) == len(points) == trials


def test_cifar_has_eight_seeds_of_four_rates() -> None:
    task = cifar.make_task("resnet20", 32, 1, 10_000)
    assert len(task.points) == 32
    assert len({point["learning_rate"] for point in task.points}) == 4
    assert task.train["batch_norm_momentum"] == 0.9


def test_the_sweep_expands_to_the_points(tmp_path: Path) -> None:
    task = sample_task(teacher=throughput.TEACHER)
    points = grid(learning_rate=[1e-3, 2e-3], temperature=[1.0, 6.0], seed=[0, 1])
    task = Task(task.model, task.dataset, task.train, points, task.teacher)
    (tmp_path / "sweep.yaml").write_text(task.sweep(pack=3))
    trials = list(expand(load_sweep(tmp_path / "sweep.yaml"), RoomCatalog()))
    students = [trial.config for trial in trials if trial.role == "trial"]
    found = [{"learning_rate": c.train.optimizer.learning_rate, "temperature": c.distill.temperature if c.distill else 0,
              "seed": c.seed} for c in students]  # fmt: skip
    assert sorted(map(name_of, found)) == sorted(task.names)
    (teacher,) = [trial.config for trial in trials if trial.role == "dependency"]
    assert teacher.model["name"] == "simplenet_lm"
    assert teacher.train.epochs == 1


def test_the_teacher_is_the_same_trial_whatever_its_students(tmp_path: Path) -> None:
    """What `train_teacher` has trained is what the measured run finds finished."""
    ids = set()
    for epochs, parameters in ((1, {}), (5, {}), (1, {"model.name": {"value": "simplenet_v3"}, "train.epochs": {"value": 1}})):
        task = throughput.make_task(4, epochs, 2000)
        task = Task(task.model, SAMPLE, task.train, task.points, task.teacher)
        (tmp_path / "sweep.yaml").write_text(task.sweep(**parameters))
        trials = expand(load_sweep(tmp_path / "sweep.yaml"), RoomCatalog())
        ids.update(trial.id for trial in trials if trial.role == "dependency")
    assert len(ids) == 1


def test_a_peer_is_given_the_same_arrays_and_numbers(tmp_path: Path) -> None:
    task = sample_task()
    said = write_arrays(tmp_path, task.arrays)
    task.job(processes=3).write(tmp_path)
    assert said == digest(read_arrays(tmp_path)) == digest(arrays_of(SAMPLE))
    job = read_job(tmp_path)
    assert (job.epochs, job.batch_size, job.optimizer, job.processes, job.points) == (2, 64, "adam", 3, list(task.points))
    assert not job.distills
    assert (job.mean, job.std) == ([0.0], [1.0])
    assert task.steps == 270 // 64 * 2


def test_other_data_have_another_digest() -> None:
    arrays = arrays_of(SAMPLE)
    other = {**arrays, "train_labels": np.where(np.arange(300) == 7, 9 - arrays["train_labels"], arrays["train_labels"])}
    assert digest(arrays) != digest(other)
    assert digest(arrays) != digest(arrays_of(SAMPLE | {"train_limit": 299}))


@pytest.mark.parametrize("model", ["simplenet_v1", "mobilenet_v1", "resnet20"])
def test_the_flax_peers_network_computes_what_ours_does(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax
    from flax import nnx

    from flaxcomp.models import registry

    monkeypatch.syspath_prepend(str(PEERS))
    from flax_nets import build, count  # type: ignore[import-not-found]

    shape = (28, 28, 1) if model == "simplenet_v1" else (32, 32, 3)
    mine, theirs = registry.build(MODELS[model], shape, 10, nnx.Rngs(0)), build(model, 1)
    ours_graph, ours_params, ours_rest = nnx.split(mine, nnx.Param, ...)
    graph, params, rest = nnx.split(theirs, nnx.Param, ...)
    assert count(theirs) == sum(leaf.size for leaf in jax.tree.leaves(ours_params))
    given = jax.tree.leaves(ours_params)
    # The names differ, their order does not, so equal places hold equal layers.
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [leaf.shape for leaf in given]
    copied = jax.tree.unflatten(jax.tree.structure(params), given)
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    expected = jax.jit(lambda *state: nnx.merge(ours_graph, *state)(x))(ours_params, ours_rest)  # as in training
    found = jax.jit(lambda *state: nnx.merge(graph, *state)(x))(copied, rest)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.e2e
def test_two_sides_do_the_same_work(tmp_path: Path) -> None:
    """flaxcomp in one process and the serial Flax loop, two trials of the sample: what a pair of a benchmark is."""
    task = Task("simplenet_v1", SAMPLE, {**sample_task().train, "epochs": 1}, grid(learning_rate=[1e-3], seed=[0, 1]))
    works = {}
    for side in (ours(task, executor="inline"), peer(task, "serial_flax")):
        _, works[side.name] = timed(side)
    same(task, Noise(cap=0.3))(works)  # four steps teach little
    mine, theirs = works[OURS], works["serial JAX"]
    assert mine.steps == theirs.steps == 4
    assert mine.params == theirs.params == 3484
    assert mine.data == theirs.data
    assert sorted(mine.accuracy) == sorted(task.names)
    assert mine.train_seconds is not None
    assert theirs.train_seconds is not None
    assert json.loads(task.sweep())["parameters"]["seed"] == {"values": [0, 1]}


def test_a_peer_whose_trials_differ_in_steps_is_refused(tmp_path: Path) -> None:
    trials = [{"point": {"learning_rate": 1e-3, "seed": seed}, "params": 5, "steps": 8 + seed, "test_accuracy": 0.5}
              for seed in (0, 1)]  # fmt: skip
    told = {"batch_size": 64, "data": "d", "trials": trials}
    (tmp_path / "result.json").write_text(json.dumps(told))
    with pytest.raises(UnequalError, match="steps a trial of a peer differ: 8, 9"):
        read_result(tmp_path)
    trials[1]["steps"] = 8
    (tmp_path / "result.json").write_text(json.dumps({**told, "train_seconds": 2.5}))
    assert read_result(tmp_path).accuracy == {"learning_rate 0.001, seed 0": 0.5, "learning_rate 0.001, seed 1": 0.5}
    assert read_result(tmp_path).train_seconds == 2.5
