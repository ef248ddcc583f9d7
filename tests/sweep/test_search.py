"""What `method: optuna` suggests, and what it refuses."""

import importlib.util
import math
from typing import Any

import pytest

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep.expand import count_points, expand
from flaxcomp.sweep.load import LoadedSweep, load_text
from flaxcomp.sweep.plan import make_plan
from flaxcomp.sweep.search import Tried, keys_of, suggest, values_of
from parts import require
from sweep_samples import FakeCatalog

SWEEP = """\
version: 1
name: searched
method: optuna
trials: 48
sampler: {{name: {sampler}, batch: 8}}
base:
  dataset: {{name: mnist}}
  model: {{name: wide}}
parameters:
  train.optimizer.learning_rate: {{min: {low}, max: 1e-1, distribution: log_uniform}}
  model.name: {{values: {models}}}
  seed: {{range: [0, 10]}}
  train.epochs: {{min: 2, max: 5}}
  train.batch_size: {{value: 64}}
{more}"""


@pytest.fixture(autouse=True)
def optuna() -> None:
    require(importlib.util.find_spec("optuna"), "optuna: pip install 'flaxcomp[full]'")


def sweep(sampler: str = "tpe", more: str = "", low: str = "1e-4", models: str = "[wide, slim]") -> LoadedSweep:
    return load_text(SWEEP.format(sampler=sampler, more=more, low=low, models=models), "f.yaml")


def figures(values: Any) -> tuple[float, ...]:
    """The best learning rate is 0.01; the slim network is a little worse and has half the parameters."""
    slim = values["model.name"] == "slim"
    return (1 - abs(math.log10(values["train.optimizer.learning_rate"]) + 2) - 0.1 * slim, 100.0 if slim else 200.0)


def tell(loaded: LoadedSweep, points: list[tuple[Any, ...]]) -> list[Tried]:
    (block,) = loaded.blocks
    return [Tried(values_of(block, point), figures(values_of(block, point))) for point in points]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_is_better_at_its_end_and_the_same_each_time(sampler: str) -> None:
    loaded, tried = sweep(sampler), list[Tried]()
    for _ in range(6):
        points = suggest(loaded, tried, 8)
        assert points == suggest(loaded, tried, 8), "a function of what was tried"
        tried += tell(loaded, points)
    accuracies = [one.figures[0] for one in tried if one.figures]
    assert sum(accuracies[-16:]) / 16 > sum(accuracies[:16]) / 16 + 0.15
    assert max(accuracies) > 0.85
    for one in tried:
        assert 1e-4 <= one.values["train.optimizer.learning_rate"] <= 0.1
        assert (one.values["seed"] in range(10), one.values["train.epochs"] in range(2, 6)) == (True, True)
        assert one.values["train.batch_size"] == 64


def test_the_seed_and_only_the_history_change_what_is_suggested() -> None:
    loaded = sweep()
    first = suggest(loaded, [], 8)
    assert first != suggest(sweep(more="sampling_seed: 1"), [], 8)
    tried = tell(loaded, first)
    good = suggest(loaded, tried, 8)
    failed = [Tried(one.values, None) for one in tried]
    assert suggest(loaded, failed, 8) != good
    assert len(set(good)) == 8, "no point twice within a batch"


def test_a_generation_of_which_nothing_came_is_followed_by_a_random_one() -> None:
    loaded = sweep("nsga2")
    tried = [Tried(one.values, None) for one in tell(loaded, suggest(loaded, [], 8))]
    assert len(suggest(loaded, tried, 8)) == 8


def test_values_may_be_added_and_the_points_before_keep_their_meaning() -> None:
    tried = tell(sweep(), suggest(sweep(), [], 8))
    more = sweep(models="[big, wide, slim]")
    (block,) = more.blocks
    assert [values_of(block, keys_of(block, one.values)) for one in tried] == [one.values for one in tried]
    assert len(suggest(more, tried, 8)) == 8


def test_a_smaller_interval_passes_over_the_points_outside() -> None:
    tried = tell(sweep(), suggest(sweep(), [], 8))
    narrow = sweep(low="5e-2")
    assert all(point[0] >= 5e-2 for point in suggest(narrow, tried, 8))


@pytest.mark.parametrize("models", ["[wide]", "[wide, big]"])
def test_values_that_were_tried_may_not_go(models: str) -> None:
    tried = tell(sweep(), suggest(sweep(), [], 8))
    with pytest.raises(SweepFileError, match=r"f.yaml:11: a search goes on in the space that it began in, but model.name has"):
        suggest(sweep(models=models), tried, 8)


def test_a_plan_draws_an_example() -> None:
    plan = make_plan(sweep(), FakeCatalog())
    assert plan.points == count_points(sweep().sweep) == 48
    assert {group.example.config.model["name"] for group in plan.groups.values()} == {"wide", "slim"}


def test_points_that_are_given_are_expanded_alone() -> None:
    loaded = sweep()
    points = suggest(loaded, [], 2)
    found = [list(expand(loaded, FakeCatalog(), points=[point])) for point in points]
    assert [[trial.config.seed for trial in trials] for trials in found] == [[point[2]] for point in points]


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("trials: 48\n", ""), 3, "`method: optuna` needs `trials`"),
        (("method: optuna", "method: random"), 5, "`sampler` is for `method: optuna`, got `method: random`"),
        (("name: tpe", "name: cmaes"), 5, "sampler.name must be one of 'tpe', 'nsga2', got 'cmaes'"),
        (("batch: 8", "batch: 0"), 5, "sampler.batch must be an integer >= 1"),
        (("", "metrics: [{name: latency_ms, goal: minimize}]"), 15, "latency_ms is not among them"),
        (("", "metrics: [{name: test_accuracy, goal: maximize}]"), 15, "test_accuracy is of the test set, which chooses"),
        (("", "metrics: [{name: val_acuracy, goal: maximize}]"), 15, "unknown metric"),
    ],
)
def test_what_cannot_be_searched_is_refused(change: tuple[str, str], line: int, message: str) -> None:
    text = SWEEP.format(sampler="tpe", low="1e-4", models="[wide, slim]", more="")
    text = text.replace(*change) if change[0] else text + change[1]
    with pytest.raises(SweepFileError) as refused:
        load_text(text, "f.yaml")
    assert message in str(refused.value)
    assert refused.value.line == line


def test_several_grids_are_no_space() -> None:
    head = SWEEP.format(sampler="tpe", low="1e-4", models="[wide, slim]", more="").partition("parameters:")[0]
    grids = "parameters:\n  - {seed: {range: [0, 9]}}\n  - {seed: {range: [9, 12]}}\n"
    with pytest.raises(SweepFileError, match=r"f.yaml:9: .*one space: parameters must be one mapping, got a list of 2"):
        load_text(head + grids, "f.yaml")


def test_nothing_to_vary_is_refused() -> None:
    text = "version: 1\nname: n\nmethod: optuna\ntrials: 3\nbase: {dataset: {name: mnist}, model: {name: wide}}\n"
    with pytest.raises(SweepFileError, match="needs parameters with more than one value"):
        load_text(text + "parameters: {seed: {value: 3}}\n", "f.yaml")


def test_parameters_can_be_metrics_when_they_are_numbers() -> None:
    metrics = "metrics: [{name: val_accuracy, goal: maximize}, {name: train.epochs, goal: minimize}]"
    assert len(sweep(more=metrics).sweep.metrics) == 2
    with pytest.raises(SweepFileError, match=r"model\.name is not among them"):
        sweep(more="metrics: [{name: model.name, goal: minimize}]")
