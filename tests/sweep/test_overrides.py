import pytest

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep.expand import count_points
from sweep_samples import load, trials_of

BODY = """\
  train: {epochs: 5, optimizer: {learning_rate: 1e-3}}
parameters:
  seed: {range: [0, 4]}
  train: {optimizer: {learning_rate: {values: [1e-3, 1e-2]}}}
"""
UNION = """\
  distill: {teacher: {model: {name: big}}}
parameters:
  - distill.temperature: {values: [1, 3]}
    seed: {values: [0, 1]}
  - distill: {value: null}
"""


def test_one_value_changes_the_base() -> None:
    trials = trials_of(load(BODY, "train.epochs=1"))
    assert len(trials) == 8
    assert {trial.config.train.epochs for trial in trials} == {1}
    assert load(BODY, "base.train.epochs=1").sweep == load(BODY, "train.epochs=1").sweep


def test_one_value_replaces_a_parameter_also_a_nested_one() -> None:
    loaded = load(BODY, "train.optimizer.learning_rate=0.5", "seed=7")
    assert count_points(loaded.sweep) == 1
    (trial,) = trials_of(loaded)
    assert (trial.config.train.optimizer.learning_rate, trial.config.seed) == (0.5, 7)


def test_several_values_make_or_replace_a_parameter() -> None:
    trials = trials_of(load(BODY, "seed=1, 2", "train.batch_size=32,64"))
    assert len(trials) == 2 * 2 * 2
    assert {trial.config.seed for trial in trials} == {1, 2}
    assert {trial.config.train.batch_size for trial in trials} == {32, 64}


def test_a_section_replaces_what_was_varied_inside_it() -> None:
    (trial,) = trials_of(load(BODY, "train={epochs: 2}", "seed=0"))
    assert trial.config.train.epochs == 2
    assert count_points(load(UNION, "distill=null").sweep) == 2 + 1


def test_in_list_form_every_block_is_changed() -> None:
    trials = trials_of(load(UNION, "seed=5,6", "train.epochs=3"))
    assert [(t.config.seed, t.config.distill and t.config.distill.temperature) for t in trials if t.role == "trial"] == [
        (5, None),
        (6, None),
        (5, 1.0),
        (6, 1.0),
        (5, 3.0),
        (6, 3.0),
    ]
    assert {trial.config.train.epochs for trial in trials} == {3}


def test_a_part_of_what_a_block_sets_as_a_whole() -> None:
    body = "parameters:\n  - model: {values: [{name: wide, width: 8}, {name: wide, depth: 3}]}\n  - seed: {value: 1}\n"
    assert [trial.config.model for trial in trials_of(load(body, "model.width=2"))] == [
        {"name": "wide", "width": 2},
        {"name": "wide", "width": 2, "depth": 3},
        {"name": "wide", "width": 2},
    ]


def test_a_temperature_does_not_apply_where_a_block_has_no_teacher() -> None:
    for override in ("distill.temperature=7", "distill.temperature=7,8"):
        temperatures = [t.config.distill and t.config.distill.temperature for t in trials_of(load(UNION, override))]
        assert temperatures.count(None) == 2  # the block on hard targets, once, and the teacher
        assert set(temperatures) == {None, 7.0, 8.0} if "," in override else {None, 7.0}


def test_keys_of_the_sweep_itself() -> None:
    sweep = load(BODY, "resources.pack=8", "name=x", "export.precisions=[int8, float32]", "teachers.t.model.name=big").sweep
    assert (sweep.resources.pack, sweep.name) == (8, "x")
    assert sweep.export is not None
    assert sweep.export.precisions == ("int8", "float32")
    assert sweep.teachers == {"t": {"model": {"name": "big"}}}


def test_the_file_itself_is_not_changed() -> None:
    loaded = load(BODY, "train.epochs=1")
    assert loaded.text == load(BODY).text
    assert load(BODY).sweep.base["train"]["epochs"] == 5


def test_a_shared_anchor_is_changed_in_one_place_only() -> None:
    body = "  train: &t {epochs: 5}\n  distill: {teacher: {model: {name: big}, train: *t}}\n"
    teacher, trial = trials_of(load(body, "train.epochs=1"))
    assert (teacher.config.train.epochs, trial.config.train.epochs) == (5, 1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=1", "--set train.epoch=1: unknown key 'epoch' in train. Did you mean 'epochs'?"),
        ("trian.epochs=1", "--set trian.epochs=1: unknown key 'trian'. Did you mean 'train'?"),
        ("train.epochs=abc", "--set train.epochs=abc: train.epochs must be an integer"),
        ("train.epochs=1,abc", "--set train.epochs=1,abc: train.epochs must be an integer"),
        ("resources.pak=1", "--set resources.pak=1: unknown key 'pak' in resources. Did you mean 'pack'?"),
        ("resources.pack=1,2", "--set resources.pack=1,2: resources.pack takes one value, got 2"),
        ("train.epochs", "an override is PATH=VALUE"),
        ("train.epochs=", "an override is PATH=VALUE"),
        ("=1", "an override is PATH=VALUE"),
        ("train..epochs=1", "an override is PATH=VALUE"),
        ("train.epochs=[1", "--set train.epochs=[1: not valid YAML"),
        ("train.epochs=1], [2", "not valid YAML"),
        ("parameters.seed=1", "name what is varied itself"),
        ("metrics.0.goal=minimize", "cannot set '0.goal' inside"),
        ("distill.teacher.seed=1", "distill.teacher needs the key 'model'"),
    ],
)
def test_bad_overrides_are_quoted(override: str, words: str) -> None:
    body = BODY + "metrics: [{name: params, goal: minimize}]\n"
    with pytest.raises(SweepFileError) as caught:
        trials_of(load(body, override))
    assert words in str(caught.value)
