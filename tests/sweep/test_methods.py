"""Blocks that make networks smaller, as the file has them: what starts from what, trained once, and what is refused."""

import pytest

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep.plan import make_plan
from sweep_samples import FakeCatalog, checked, load, trials_of


def test_a_method_starts_from_the_same_trial_without_it() -> None:
    dense, pruned = checked(trials_of(load("  prune: {ratio: 0.25}\n")))
    (alone,) = trials_of(load(""))
    assert (dense.id, dense.role, dense.config) == (alone.id, "dependency", alone.config)
    assert (pruned.role, pruned.needs, pruned.config.source) == ("trial", (dense.id,), dense.id)
    assert pruned.config.prune is not None
    assert pruned.config.prune.ratio == 0.25


def test_a_ratio_of_zero_is_the_dense_trial_and_ratios_share_it() -> None:
    trials = checked(trials_of(load("parameters:\n  prune.ratio: {values: [0.5, 0.0, 0.25]}\n")))
    (dense,) = [trial for trial in trials if trial.config.prune is None]
    assert trials[0] == dense
    assert dense.role == "trial"  # asked for by the sweep itself, so it is no dependency
    assert [trial.needs for trial in trials[1:]] == [(dense.id,)] * 2


def test_methods_make_a_chain() -> None:
    dense, pruned, quantized = checked(trials_of(load("  quantize: {}\n  prune: {ratio: 0.5}\n")))
    assert (pruned.config.prune, pruned.config.quantize) == (quantized.config.prune, None)
    assert (quantized.config.source, pruned.config.source, dense.config.source) == (pruned.id, dense.id, None)
    assert quantized.needs == (pruned.id,)


def test_a_grid_that_crosses_methods_trains_what_is_shared_once() -> None:
    body = """\
  distill: {teacher: {model: {name: big}}}
parameters:
  model.name: {values: [wide, slim]}
  distill.temperature: {values: [1, 4]}
  prune.ratio: {values: [0.0, 0.25, 0.5]}
  quantize: {values: [null, {}]}
"""
    trials = checked(trials_of(load(body)))
    wanted = [trial for trial in trials if trial.role == "trial"]
    assert len(wanted) == 2 * 2 * 3 * 2
    assert len(trials) == len(wanted) + 1  # the teacher: every other network that is needed is wanted as well
    teacher = trials[0].id
    assert all(teacher in trial.needs for trial in wanted)  # also of those that are trained after pruning


def test_initial_weights_are_of_the_dense_network_alone() -> None:
    source, dense, pruned = checked(
        trials_of(load("  train: {init_from: {trial: {model: {name: wide}, seed: 7}}}\n  prune: {ratio: 0.5}\n"))
    )
    assert dense.needs == (source.id,)
    assert pruned.needs == (dense.id,)


def test_each_trial_with_a_method_is_a_pack_of_its_own() -> None:
    plan = make_plan(load("  prune: {ratio: 0.5}\nparameters:\n  seed: {range: [0, 6]}\n"), FakeCatalog())
    dense, pruned = plan.groups.values()
    assert (dense.packs, dense.dependencies, pruned.packs, pruned.trials) == (1, 6, 6, 6)


def test_exclude_may_name_a_method_that_does_nothing_there() -> None:
    body = """\
parameters:
  prune.ratio: {values: [0.0, 0.5]}
  seed: {values: [0, 1]}
exclude: ["prune.ratio == 0 and seed == 1"]
"""
    wanted = [trial for trial in trials_of(load(body)) if trial.role == "trial"]
    assert sorted((trial.config.seed, trial.config.prune is None) for trial in wanted) == [(0, False), (0, True), (1, False)]


def test_a_cost_table_is_known_by_its_content_and_not_by_its_path() -> None:
    parameters = "parameters:\n  prune.costs: {values: [a.npz, b.npz, same_as_a.npz]}\n"
    body = f"  prune: {{ratio: 0.5, of: latency, costs: a.npz}}\n{parameters}"
    wanted = [trial.config.prune for trial in checked(trials_of(load(body))) if trial.role == "trial"]
    assert [block and block.costs for block in wanted] == ["1" * 64, "2" * 64]


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("  prune: {ratio: 1.0}\n", 6, "prune.ratio must be a number >= 0 and < 1, got 1"),
        ("parameters:\n  prune.ratio: {values: [0.5, -0.1]}\n", 7, "prune.ratio must be a number >= 0 and < 1, got -0.1"),
        ("  prune: {of: latency, costs: no.yaml}\n", 6, "no.yaml"),
        ("  prune: {ration: 0.5}\n", 6, "unknown key 'ration' in prune. Did you mean 'ratio'?"),
    ],
)
def test_bad_input_is_refused(body: str, line: int, words: str) -> None:
    with pytest.raises(SweepFileError) as caught:
        trials_of(load(body))
    assert caught.value.line == line
    assert words in str(caught.value)


def test_what_methods_record_can_be_metric_and_constraint() -> None:
    names = ("prune_ratio", "morphnet_cost", "netadapt_steps", "cramnet_val_accuracy", "subset_macs_skipped", "search_seconds")
    metrics = "".join(f"  - {{name: {name}, goal: minimize}}\n" for name in names)
    loaded = load(f'metrics:\n{metrics}constraints: ["prune_ratio >= 0.5", "cramnet_ended == \'done\'"]\n')
    assert tuple(metric.name for metric in loaded.sweep.metrics) == names
