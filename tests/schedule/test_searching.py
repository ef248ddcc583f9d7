"""A search in a run: trials come in batches, from the store alone; only the training is played by the test."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.errors import SweepFileError
from flaxcomp.schedule.controller import Controller, Summary, acquire
from flaxcomp.schedule.searching import Search
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.load import LoadedSweep, load_text
from flaxcomp.sweep.search import keys_of, suggest, values_of
from flaxcomp.train.job import Event, Failed, Finished, PackJob
from parts import require
from test_early_stopping import KilledError, Played, Silent

SWEEP = """\
version: 1
name: searched
method: optuna
trials: 10
sampler: {{batch: 4}}
base:
  dataset: {{name: mnist_sample}}
  model: {{name: simplenet_v1}}
  distill: {{teacher: {{model: {{name: simplenet_v2}}}}}}
parameters:
  model.name: {{values: [simplenet_v1, simplenet_v5]}}
  distill.temperature: {temperature}
{more}"""


@pytest.fixture(autouse=True)
def optuna() -> None:
    require(importlib.util.find_spec("optuna"), "optuna: pip install 'flaxcomp[full]'")


class Trained(Played):
    """Finishes every pack; the hotter, the better."""

    fails: str | None = None  # the network that fails

    def _training(self, job: PackJob) -> list[Event]:
        config = next(iter(job.configs.values()))
        if config.model["name"] == self.fails:
            return [Failed(job.pack_id, job.attempt, "error", "error!")]
        temperatures = {trial: config.distill.temperature if config.distill else 0.0 for trial, config in job.configs.items()}
        for trial in job.configs:
            RunPaths.at(job.root).model(trial).mkdir(parents=True, exist_ok=True)
        results = {trial: {"val_accuracy": t / 100, "params": 5} for trial, t in temperatures.items()}
        return [Finished(job.pack_id, job.attempt, results)]


def sweep(more: str = "", temperature: str = "{min: 1.0, max: 90.0}") -> LoadedSweep:
    return load_text(SWEEP.format(more=more, temperature=temperature), "f.yaml")


def run(paths: RunPaths, executor: Played, loaded: LoadedSweep | None = None) -> tuple[Summary, list[dict[str, Any]]]:
    loaded = loaded or sweep()
    with Store.create(paths, name="n", sweep_text="x", sweep_json=msgspec.json.encode(loaded.sweep)) as store:
        lease = acquire(store)
        try:
            search = Search(loaded, RoomCatalog(), store)
            chief = Controller(store, paths, search.begin(lease), executor, Silent(), more=search.more)
            return chief.run(lease), store.suggestions()
        finally:
            store.release(lease)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths.at(tmp_path / "run")


def test_batches_follow_each_other_and_share_their_teacher(paths: RunPaths) -> None:
    executor = Trained()
    summary, suggestions = run(paths, executor)
    assert len(suggestions) == 10
    assert set(summary.statuses.values()) == {"finished"}
    assert len(summary.statuses) == 11, "ten trials and their teacher, once"
    students = [sum(1 for c in job.configs.values() if c.distill) for job in executor.jobs]
    assert sum(students[:3]) == 4, "a teacher, then two networks of the first batch"
    temperatures = [row["point"]["distill.temperature"] for row in suggestions]
    assert all(1 <= t <= 90 for t in temperatures)
    assert max(temperatures[4:]) > max(temperatures[:4])


def test_killed_anywhere_the_suggestions_are_the_same(paths: RunPaths) -> None:
    _, expected = run(RunPaths.at(paths.root.parent / "whole"), Trained())
    asked = 0
    for kill_after in (0, 1, 1, 1, 1):
        with pytest.raises(KilledError):
            run(paths, Trained(kill_after=kill_after))
        with Store.open(paths) as store:
            suggestions = store.suggestions()
        assert suggestions == expected[: len(suggestions)]
        assert len(suggestions) >= asked
        asked = len(suggestions)
    assert run(paths, Trained(slots=2))[1] == expected


def test_more_trials_go_on_and_finished_ones_are_not_done_again(paths: RunPaths) -> None:
    _, first = run(paths, Trained())
    again = Trained()
    _, same = run(paths, again)
    assert (again.jobs, same) == ([], first)
    more = Trained()
    summary, suggestions = run(paths, more, changed("trials: 10", "trials: 13"))
    assert (suggestions[:10], len(suggestions)) == (first, 13)
    assert sum(len(job.configs) for job in more.jobs) == 3
    assert summary.count("finished") == 14


def changed(old: str, new: str) -> LoadedSweep:
    return load_text(SWEEP.format(more="", temperature="{min: 1.0, max: 90.0}").replace(old, new), "f.yaml")


def test_points_that_fail_are_told_as_failed_and_excluded_ones_train_nothing(paths: RunPaths) -> None:
    executor = Trained()
    executor.fails = "simplenet_v5"
    summary, suggestions = run(paths, executor, sweep('exclude: ["distill.temperature > 60"]\n'))
    excluded = [row for row in suggestions if row["trial_id"] is None]
    assert {row["point"]["distill.temperature"] > 60 for row in excluded} == {True}
    assert len(suggestions) == 10
    for row in suggestions:
        if row["trial_id"]:
            wanted = "failed" if row["point"]["model.name"] == "simplenet_v5" else "finished"
            assert summary.statuses[row["trial_id"]] == wanted


def test_the_same_point_again_is_the_same_trial(paths: RunPaths) -> None:
    summary, suggestions = run(paths, Trained(), sweep(temperature="{values: [1, 2]}"))
    assert len(suggestions) == 10
    assert len({row["trial_id"] for row in suggestions}) == len(summary.statuses) - 1 <= 4


def test_a_changed_space_is_refused_before_anything_is_trained(paths: RunPaths) -> None:
    run(paths, Trained())
    with pytest.raises(SweepFileError, match=r"f.yaml:11: a search goes on in the space that it began in, but model.name has"):
        run(paths, Trained(), changed("[simplenet_v1, simplenet_v5]", "[simplenet_v1, simplenet_v4]"))


NEEDING = """\
version: 1
name: searched
method: optuna
trials: 8
sampler: {batch: 2}
base:
  dataset: {name: mnist_sample}
  model: {name: simplenet_v1}
parameters:
  model.name: {values: [simplenet_v1, simplenet_v5]}
  quantize: {values: [{epochs: 1}, null]}
"""


def test_a_point_that_another_needed_before_is_a_trial_once_it_is_suggested(paths: RunPaths) -> None:
    """The network before its training with rounding is a point of the search too."""
    loaded = load_text(NEEDING, "f.yaml")
    for _ in range(2):  # and when the run is taken up again
        summary, suggestions = run(paths, Trained(), loaded)
        with Store.open(paths) as store:
            roles = {row["trial"]: row["role"] for row in store.frame(epochs=False).trials}
        suggested = {row["trial_id"] for row in suggestions}
        assert len(suggested) > 2
        assert {roles[trial] for trial in suggested} == {"trial"}
        assert set(summary.statuses.values()) == {"finished"}


def test_a_range_of_billions_is_searched_at_once() -> None:
    names, seeds = "model.name: {values: [simplenet_v1, simplenet_v5]}", "seed: {range: [0, 2147483647]}"
    text = SWEEP.format(more="", temperature="{min: 1.0, max: 90.0}").replace(names, seeds)
    began = time.process_time()
    (block,) = load_text(text, "f.yaml").blocks
    points = suggest(load_text(text, "f.yaml"), [], 3)
    values = [values_of(block, point) for point in points]
    assert [keys_of(block, value) for value in values] == points
    assert time.process_time() - began < 5, "not a second for 30 million"
