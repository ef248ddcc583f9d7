import copy
import itertools
import math
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep import ids
from flaxcomp.sweep.expand import Tally, Trial, count_points, expand
from flaxcomp.sweep.spec import TrialConfig
from sweep_samples import FINGERPRINTS, FakeCatalog, load, trials_of

STUDENT = "  distill: {teacher: {model: {name: big}, train: {epochs: 3}}}\n"

# Values for parameters whose points can be resolved naively, without teachers.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 5),
    "model": st.sampled_from([{"name": "wide"}, {"name": "slim"}, {"name": "wide", "width": 4}]),
    "train.epochs": st.integers(1, 3),
    "train.optimizer.learning_rate": st.sampled_from([1, 1.0, 0.5, 1e-3]),
    "train.optimizer": st.sampled_from([{"name": "sgd"}, {"learning_rate": 0.5}]),
    "dataset.name": st.sampled_from(["mnist", "fashion_mnist"]),
}
BLOCKS = st.lists(
    st.fixed_dictionaries({}, optional={path: st.lists(values, min_size=1, max_size=3) for path, values in VALUES.items()}),
    min_size=1,
    max_size=3,
)
EXCLUDES = st.sampled_from(
    ["false", "seed == 1", "train.epochs > 1 and model.name == 'slim'", "train.optimizer.learning_rate == 1"]
)


def naive(blocks: list[dict[str, list[Any]]]) -> list[tuple[str, TrialConfig]]:
    """All points by nested copies and full validation."""
    found = []
    for block in blocks:
        paths = sorted(block, key=lambda path: path.count("."))
        for values in itertools.product(*(block[path] for path in paths)):
            raw: dict[str, Any] = {"dataset": {"name": "mnist"}, "model": {"name": "wide"}}
            for path, value in zip(paths, values, strict=True):
                *parents, last = path.split(".")
                inside = raw
                for parent in parents:
                    inside = inside.setdefault(parent, {})
                inside[last] = copy.deepcopy(value)
            raw["model"] = FakeCatalog().canonical_model(raw["model"])
            config = msgspec.convert(raw, TrialConfig)
            found.append((ids.trial_id(config, FINGERPRINTS[config.dataset.name]), config))
    return found


@settings(deadline=None)
@given(BLOCKS, EXCLUDES)
def test_expansion_is_the_naive_one(blocks: list[dict[str, list[Any]]], exclude: str) -> None:
    forms = [{path: {"values": values} for path, values in block.items()} for block in blocks]
    body = f"parameters: {msgspec.json.encode(forms).decode()}\nexclude: {msgspec.json.encode([exclude]).decode()}\n"
    expected = naive(blocks)

    def is_excluded(config: TrialConfig) -> bool:
        rate = config.train.optimizer.learning_rate
        return {
            "false": False,
            "seed == 1": config.seed == 1,
            "train.epochs > 1 and model.name == 'slim'": config.train.epochs > 1 and config.model["name"] == "slim",
            "train.optimizer.learning_rate == 1": rate == 1,
        }[exclude]

    kept = {id_: config for id_, config in expected if not is_excluded(config)}
    loaded, tally = load(body), Tally()
    assert count_points(loaded.sweep) == len(expected)
    if not kept:
        with pytest.raises(SweepFileError, match="leaves none"):
            trials_of(loaded)
        return
    trials = trials_of(loaded, tally)
    assert {trial.id: trial.config for trial in trials} == kept
    assert len(trials) == len(kept) == len(expected) - tally.excluded - tally.repeated
    assert tally.excluded == sum(is_excluded(config) for _, config in expected)
    assert all(trial.signature == ids.signature(trial.config) for trial in trials)
    assert all(trial.role == "trial" and trial.needs == () for trial in trials)


def check_order(trials: list[Trial]) -> dict[str, Trial]:
    seen: dict[str, Trial] = {}
    for trial in trials:
        assert trial.id not in seen
        assert all(need in seen for need in trial.needs)
        assert trial.id == ids.trial_id(trial.config, FINGERPRINTS[trial.config.dataset.name])
        assert trial.signature == ids.signature(trial.config)
        assert (trial.config.distill.teacher,) == trial.needs if trial.config.distill else trial.needs == ()
        seen[trial.id] = trial
    return seen


def test_the_last_parameter_varies_fastest() -> None:
    trials = trials_of(load("parameters:\n  seed: {range: [0, 2]}\n  train.epochs: {values: [1, 2]}\n"))
    assert [(trial.config.seed, trial.config.train.epochs) for trial in trials] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_without_parameters_there_is_one_trial() -> None:
    (trial,) = trials_of(load(""))
    assert trial.config.model == {"name": "wide"}


def test_a_teacher_is_a_dependency_of_its_students() -> None:
    body = "  train: {epochs: 9, batch_size: 64}\n" + STUDENT
    body += "parameters:\n  distill.temperature: {values: [1, 3]}\n  train.batch_size: {value: 32}\n"
    teacher, *students = trials_of(load(body))
    check_order([teacher, *students])
    assert (teacher.role, [student.role for student in students]) == ("dependency", ["trial", "trial"])
    # base.train and the teacher's own, without what is varied
    assert (teacher.config.train.epochs, teacher.config.train.batch_size) == (3, 64)
    assert (teacher.config.model, teacher.config.seed, teacher.config.distill) == ({"name": "big"}, 0, None)
    assert [student.config.distill and student.config.distill.temperature for student in students] == [1.0, 3.0]


def test_a_teacher_takes_the_data_set_of_its_student() -> None:
    trials = trials_of(load(STUDENT + "parameters:\n  dataset.name: {values: [mnist, fashion_mnist]}\n"))
    check_order(trials)
    assert [(trial.role, trial.config.dataset.name) for trial in trials] == [
        ("dependency", "mnist"),
        ("trial", "mnist"),
        ("dependency", "fashion_mnist"),
        ("trial", "fashion_mnist"),
    ]


def test_a_teacher_that_the_grid_trains_is_that_trial_wherever_it_stands() -> None:
    body = (
        STUDENT
        + """\
parameters:
  - seed: {range: [0, 3]}
  - model: {value: {name: big, dropout: 0.4}}
    distill: {value: null}
    train.epochs: {value: 3}
    seed: {range: [0, 2]}
"""
    )
    trials = trials_of(load(body))
    seen = check_order(trials)
    assert len(trials) == 5
    assert {trial.role for trial in trials} == {"trial"}
    assert {seen[trial.needs[0]].config.seed for trial in trials if trial.needs} == {0}


def test_chains_of_teachers_and_named_teachers() -> None:
    body = """\
  distill: {teacher: assistant}
teachers:
  assistant: {model: {name: slim}, distill: {teacher: master, temperature: 5}}
  master: {model: {name: big}, seed: 4}
parameters:
  - distill.teacher: {values: [assistant, master]}
  - model.name: {value: slim}
    distill: {value: {teacher: master, temperature: 5}}
"""
    trials = trials_of(load(body))
    seen = check_order(trials)
    assert [(trial.config.model["name"], trial.role) for trial in trials] == [
        ("big", "dependency"),
        ("wide", "trial"),
        ("slim", "trial"),  # the assistant, which the second block asks for
        ("wide", "trial"),
    ]
    assert seen[trials[3].needs[0]] is trials[2]
    assert seen[trials[2].needs[0]] is trials[0]
    assert trials[0].config.seed == 4


def test_a_teacher_can_be_varied_in_part() -> None:
    trials = trials_of(load(STUDENT + "parameters:\n  distill.teacher.seed: {range: [0, 3]}\n  seed: {values: [0, 1]}\n"))
    seen = check_order(trials)
    assert [trial.role for trial in trials].count("dependency") == 3
    assert len({trial.signature for trial in trials}) == 2
    assert {seen[trial.needs[0]].config.seed for trial in trials if trial.needs} == {0, 1, 2}


def test_what_lies_inside_a_section_set_to_null_does_not_apply() -> None:
    body = (
        STUDENT
        + "parameters:\n  distill.temperature: {values: [1, 3]}\n  distill: {values: [null, {teacher: {model: {name: big}}}]}\n"
    )
    tally = Tally()
    trials = trials_of(load(body), tally)
    assert [trial.config.distill and trial.config.distill.temperature for trial in trials] == [None, None, 1.0, 3.0]
    assert (len(trials), tally) == (4, Tally(excluded=0, repeated=1))


def test_a_section_is_replaced_and_not_merged() -> None:
    body = "  train: {epochs: 7, batch_size: 16}\n"
    body += "parameters:\n  train: {values: [{epochs: 2}]}\n  train.dtype: {value: bfloat16}\n"
    (trial,) = trials_of(load(body))
    assert (trial.config.train.epochs, trial.config.train.batch_size, trial.config.train.dtype) == (2, 128, "bfloat16")


@pytest.mark.parametrize(
    "parameters",
    [
        "train.optimizer.learning_rate: {values: [1, 2]}",
        "train: {optimizer: {learning_rate: {values: [1, 2]}}}",
        "train: {optimizer.learning_rate: {values: [1, 2]}}",
        "train: {parameters: {optimizer: {parameters: {learning_rate: {values: [1, 2]}}}}}",
        "train.optimizer: {values: [{learning_rate: 1}, {learning_rate: 2}]}",
        "train.optimizer.learning_rate: {range: [1, 3]}",
        "train.optimizer.learning_rate: {range: [1.0, 2.5, 1.0]}",
    ],
)
def test_all_ways_to_write_a_parameter_are_one(parameters: str) -> None:
    trials = trials_of(load(f"parameters:\n  {parameters}\n"))
    assert [trial.config.train.optimizer.learning_rate for trial in trials] == [1.0, 2.0]
    assert [trial.id for trial in trials] == [
        trial.id for trial in trials_of(load("parameters:\n  train.optimizer.learning_rate: {values: [1, 2]}\n"))
    ]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ("[0, 0.5, 0.1]", [0.0, 0.1, 0.2, 0.3, 0.4]),
        ("[0.5, 0, -0.25]", [0.5, 0.25]),
        ("[0, 0.31, 0.1]", [0.0, 0.1, 0.2, 0.3]),
        ("[5, 0, -2]", [5, 3, 1]),
    ],
)
def test_ranges_with_fractions_are_as_one_writes_them(bounds: str, expected: list[float]) -> None:
    trials = trials_of(load(f"parameters:\n  train.optimizer.weight_decay: {{range: {bounds}}}\n"))
    assert [trial.config.train.optimizer.weight_decay for trial in trials] == expected


def test_equal_trials_of_a_union_are_one() -> None:
    body = "parameters:\n  - seed: {values: [0, 1]}\n  - seed: {values: [1, 2, 2]}\n    model.width: {value: 4}\n"
    tally = Tally()
    assert [trial.config.seed for trial in trials_of(load(body), tally)] == [0, 1, 2]
    assert tally.repeated == 2


def test_exclude_sees_defaults_the_teacher_and_the_models_own_words() -> None:
    body = "  distill: {teacher: big}\n"
    body += "teachers: {big: {model: {name: big}}, small: {model: {name: slim}, distill: {teacher: big}}}\n"
    body += "parameters:\n  distill.teacher: {values: [big, small]}\n  model.width: {values: [4, 8]}\n"

    def kept(expression: str) -> set[tuple[str, int]]:
        trials = trials_of(load(body + f'exclude: ["{expression}"]\n'))
        names = {trial.id: trial.config.model["name"] for trial in trials}
        return {(names[trial.needs[0]], trial.config.model.get("width", 4)) for trial in trials if trial.role == "trial"}

    assert kept("train.batch_size == 128 and model.width == 4") == {("big", 8), ("slim", 8)}
    assert kept("distill.teacher == 'small'") == {("big", 4), ("big", 8)}
    assert kept("distill.teacher.model.name == 'big'") == {("slim", 4), ("slim", 8)}
    assert kept("distill.teacher.distill.teacher.model.name == 'big' or model.width == 8") == {("big", 4)}
    assert kept("distill.teacher.distill.teacher == 'big'") == {("big", 4), ("big", 8)}


def test_a_trial_without_teacher_can_be_told_by_null() -> None:
    body = STUDENT + "parameters:\n  - {}\n  - distill: {value: null}\nexclude: [distill.loss is null]\n"
    assert [trial.role for trial in trials_of(load(body))] == ["dependency", "trial"]


def test_an_excluded_trial_brings_no_dependency() -> None:
    body = STUDENT + "parameters:\n  - distill: {values: [null]}\n  - seed: {values: [1, 2]}\nexclude: [seed > 0]\n"
    (trial,) = trials_of(load(body))
    assert trial.config.distill is None


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (
            "parameters:\n  model.name:\n    values:\n      - wide\n      - wid",
            10,
            "no architecture is called 'wid'. Did you mean 'wide'?",
        ),
        (
            "parameters:\n  model.name:\n    values: [wide]\n  model:\n    widt: {value: 3}",
            10,
            "model.widt: wide has no such option.",
        ),
        ("  dataset.name: 3", 6, "unknown key 'dataset.name'. Did you mean"),
        ("parameters:\n  dataset.name: {value: mnits}", 7, "no data set is called 'mnits'. Did you mean 'mnist'?"),
        ("parameters:\n  model.name: {value: [wide]}", 7, "model needs a `name`"),
        ("  distill: {loss: hinton}", 6, "distill needs the key 'teacher'"),
        ("  distill:\n    teacher: {train: {epochs: 1}}", 7, "distill.teacher needs the key 'model'"),
        ("  distill:\n    teacher:\n      model: {name: bigg}", 8, "no architecture is called 'bigg'. Did you mean 'big'?"),
        ("  distill: {teacher: t}\nteachers:\n  t:\n    model: {name: bigg}", 9, "no architecture is called 'bigg'"),
        (
            "  distill: {teacher: t}\nteachers: {t: {model: {name: big}}}\nparameters:\n  distill.teacher.seed: {value: 1}",
            9,
            "inside 't'",
        ),
        ("exclude:\n  - dataset.name < 3", 7, "exclude[0]: in 'dataset.name < 3': cannot tell whether 'mnist' < 3"),
        ("exclude: [seed == 0]", 6, "`exclude` leaves none of the 1 points"),
    ],
)
def test_what_only_whole_trials_show_has_its_line_too(body: str, line: int, words: str) -> None:
    with pytest.raises(SweepFileError) as caught:
        trials_of(load(body + "\n"))
    assert (caught.value.line, caught.value.file) == (line, "s.yaml"), caught.value
    assert words in str(caught.value)


def test_a_file_without_data_set_or_model_says_so() -> None:
    for base, words in [
        ("{model: {name: wide}}", "dataset needs the key 'name'"),
        ("{dataset: {name: mnist}}", "model needs a `name`"),
    ]:
        with pytest.raises(SweepFileError, match=words) as caught:
            trials_of(load("", head=f"version: 1\nname: x\nbase: {base}\n"))
        assert caught.value.line == 3


RANDOM = """\
method: random
trials: {trials}
parameters:
  seed: {{min: 3, max: 6}}
  train.optimizer.learning_rate: {{min: 1e-4, max: 1e-1, distribution: log_uniform}}
  train.optimizer.weight_decay: {{min: 0, max: 1}}
  model.name: {{values: [wide, slim, big]}}
"""


def test_an_endless_grid_starts_at_once() -> None:
    stream = expand(
        load("parameters:\n  seed: {range: [0, 2147483647]}\n  train.epochs: {range: [1, 2147483647]}\n"), FakeCatalog()
    )
    assert [(trial.config.seed, trial.config.train.epochs) for trial in itertools.islice(stream, 3)] == [(0, 1), (0, 2), (0, 3)]


def test_random_draws_follow_their_distributions() -> None:
    trials = trials_of(load(RANDOM.format(trials=2000)))
    configs = [trial.config for trial in trials]
    assert len(trials) == 2000
    assert {config.seed for config in configs} == {3, 4, 5, 6}
    for name in ("wide", "slim", "big"):
        assert 0.28 < sum(config.model["name"] == name for config in configs) / 2000 < 0.39
    rates = [config.train.optimizer.learning_rate for config in configs]
    assert 1e-4 <= min(rates) < 1.1e-4
    assert 0.9e-1 < max(rates) <= 1e-1
    logs = sorted(math.log10(rate) for rate in rates)
    assert abs(logs[1000] + 2.5) < 0.1  # the median of the logarithm is the middle
    decays = sorted(config.train.optimizer.weight_decay for config in configs)
    assert abs(decays[1000] - 0.5) < 0.05
    assert all(float(f"{rate:.6g}") == rate for rate in rates)


def test_more_draws_keep_the_earlier_ones() -> None:
    few, many = trials_of(load(RANDOM.format(trials=20))), trials_of(load(RANDOM.format(trials=50)))
    assert many[:20] == few
    other = trials_of(load(RANDOM.format(trials=20) + "sampling_seed: 1\n"))
    assert not {trial.id for trial in other} & {trial.id for trial in few}
    # values for another parameter change no draw
    wider = trials_of(load(RANDOM.format(trials=20) + "  train.epochs: {values: [1, 2]}\n"))
    assert [trial.config.seed for trial in wider] == [trial.config.seed for trial in few]


def test_random_draws_go_round_the_blocks() -> None:
    body = "method: random\ntrials: 7\nparameters:\n  - seed: {min: 0, max: 1000000}\n"
    body += "  - model.name: {value: slim}\n    seed: {min: 0, max: 1000000}\n"
    loaded = load(body)
    assert count_points(loaded.sweep) == 7
    names = [trial.config.model["name"] for trial in trials_of(loaded)]
    assert (names.count("wide"), names.count("slim")) == (4, 3)


def test_a_hundred_thousand_points_are_streamed_quickly_in_little_memory() -> None:
    body = (
        STUDENT
        + """\
parameters:
  model.name: {values: [wide, slim]}
  distill.temperature: {values: [1, 2, 3, 4, 5]}
  train.optimizer.learning_rate: {range: [1, 11]}
  seed: {range: [0, 1000]}
exclude: ["model.name == 'slim' and distill.temperature == 5"]
"""
    )
    loaded = load(body)
    started = time.process_time()
    assert sum(1 for _ in expand(loaded, FakeCatalog())) == 90_001
    assert time.process_time() - started < 5
    tracemalloc.start()
    stream = expand(loaded, FakeCatalog())
    for _ in range(10_000):
        next(stream)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 10_000 * 300 + 2_000_000
