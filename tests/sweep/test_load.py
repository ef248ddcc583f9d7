import time

import msgspec
import pytest

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep.dependencies import MAX_CHAIN
from flaxcomp.sweep.expand import check_size, count_points
from flaxcomp.sweep.load import load_sweep, load_text
from flaxcomp.sweep.spec import Metric, Optimizer, Sweep
from sweep_samples import HEAD, load, trials_of

DESIGN = """\
version: 1
name: simplenet-temperature
method: grid
base:
  dataset: {name: mnist}
  model: {name: wide}
  train: {epochs: 20, batch_size: 128, optimizer: {name: adam, learning_rate: 1e-3}}
  distill: {loss: soft_mse, teacher: {model: {name: big}, train: {epochs: 10}}}
parameters:
  model.name: {values: [wide, slim]}
  distill.temperature: {values: [1, 3, 10]}
  seed: {range: [0, 10]}
exclude: ["model.name == 'slim' and distill.temperature == 10"]
metrics: [{name: val_accuracy, goal: maximize}, {name: latency_ms, goal: minimize}, {name: size_bytes, goal: minimize}]
constraints: ["size_bytes <= 512 KiB"]
export: {select: front, precisions: [float32, float16, dynamic, int8]}
benchmark: {pool: launch/devices/emulated.yaml, protocol: standard}
resources: {gpu: 1, pack: auto}
retry: {error: 0, out_of_memory: 2, lost: 10}
"""


def test_the_example_of_the_design() -> None:
    loaded = load_text(DESIGN, "s.yaml")
    sweep = loaded.sweep
    assert sweep.metrics[2] == Metric(name="size_bytes", goal="minimize")
    assert (sweep.resources.gpu, sweep.resources.pack, sweep.retry.lost) == (1.0, "auto", 10)
    assert count_points(sweep) == 60
    trials = trials_of(loaded)
    assert len(trials) == 1 + 60 - 10
    assert trials[0].config.train.optimizer == Optimizer(learning_rate=1e-3)


def test_a_loaded_sweep_as_json_is_the_same_sweep() -> None:
    loaded = load_text(DESIGN, "s.yaml", ["seed=0,1"])
    again = load_text(msgspec.json.encode(loaded.sweep).decode(), "sweep.json")
    assert msgspec.json.decode(msgspec.json.encode(loaded.sweep), type=Sweep) == loaded.sweep == again.sweep
    assert trials_of(again) == trials_of(loaded)


def test_reads_files(tmp_path) -> None:
    path = tmp_path / "it's a sweep ü.yaml"
    path.write_text(DESIGN)
    loaded = load_sweep(path)
    assert (loaded.text, loaded.file) == (DESIGN, str(path))
    path.write_text(DESIGN + "export: {}\n")
    with pytest.raises(SweepFileError, match=r"it's a sweep ü.yaml:20: the key 'export' stands here twice, first in line 16"):
        load_sweep(path)


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        # unknown keys, at every depth
        ("metric: []", 6, "unknown key 'metric'. Did you mean 'metrics'?"),
        ("  trian: {epochs: 2}", 6, "unknown key 'trian'. Did you mean 'train'?"),
        (
            "  train:\n    optimizer: {learning_rat: 1}",
            7,
            "unknown key 'learning_rat' in train.optimizer. Did you mean 'learning_rate'?",
        ),
        (
            "  distill:\n    teacher:\n      modell: {name: big}",
            8,
            "unknown key 'modell' in distill.teacher. Did you mean 'model'?",
        ),
        (
            "  distill:\n    teacher:\n      model: {name: big}\n      train:\n        schedule:\n          nam: cosine",
            11,
            "unknown key 'nam' in distill.teacher.train.schedule. Did you mean 'name'?",
        ),
        ("teachers:\n  big:\n    model: {name: big}\n    sed: 1", 9, "unknown key 'sed' in teachers.big. Did you mean 'seed'?"),
        ("parameters:\n  train.epoch: {value: 1}", 7, "unknown key 'epoch' in train. Did you mean 'epochs'?"),
        ("parameters:\n  train:\n    optimizer:\n      lr: {value: 1}", 9, "unknown key 'lr' in train.optimizer."),
        (
            "parameters:\n  resources.pack: {value: 1}",
            7,
            "unknown key 'resources'. Known: cramnet, dataset, distill, model, morphnet, prune,",
        ),
        ("parameters:\n  distill.teacher.train.epocs: {value: 1}", 7, "Did you mean 'epochs'?"),
        ("parameters:\n  seed: {vals: [1]}", 7, "unknown key 'vals' in the parameter seed. Did you mean 'values'?"),
        (
            "parameters:\n  seed:\n    values: [1]\n    rnge: [1]",
            9,
            "unknown key 'rnge' in the parameter seed. Did you mean 'range'?",
        ),
        ("parameters:\n  seed.x: {values: [1]}", 7, "seed is an integer >= 0 and <= 2147483647 and has no keys"),
        ("parameters:\n  distill: {values: [{techer: big}]}", 7, "unknown key 'techer' in distill. Did you mean 'teacher'?"),
        ("export: {precision: [int8]}", 6, "unknown key 'precision' in export. Did you mean 'precisions'?"),
        # wrong types and impossible values
        ("  train: {epochs: 1.5}", 6, "train.epochs must be an integer >= 1 and <= 2147483647, got 1.5"),
        ("  train: {epochs: 0}", 6, "got 0"),
        ("  train: {epochs: true}", 6, "got true"),
        ("  train: [1]", 6, "train must be a mapping, got [1]"),
        ("  train: null", 6, "train must be a mapping, got null"),
        ("  train: {optimizer: {nesterov: yes}}", 6, "must be true or false, got 'yes'; write true or false"),
        (
            "  train: {optimizer: {name: adamm}}",
            6,
            "must be one of 'adam', 'rmsprop', 'sgd', got 'adamm'. Did you mean 'adam'?",
        ),
        ("  train: {optimizer: {learning_rate: 1e-3x}}", 6, "must be a number > 0, got '1e-3x'"),
        ("  train: {augment: {contrast: [1.8, 0.2]}}", 6, "low <= high"),
        ("  train: {augment: {contrast: [0.2]}}", 6, "a list of 2 values"),
        ("  distill: {teacher: 5}", 6, "distill.teacher must be text or a mapping or a list of 1 or more, got 5"),
        ("  distill: {temperature: 0}", 6, "distill.temperature must be a number > 0, got 0"),
        ("  distill: {lambda: 1.5}", 6, "distill.lambda must be a number >= 0 and <= 1, got 1.5"),
        ("  seed: -1", 6, "seed must be an integer >= 0"),
        (
            "parameters:\n  seed:\n    values:\n      - 1\n      - two",
            10,
            "seed must be an integer >= 0 and <= 2147483647, got 'two'",
        ),
        ("parameters:\n  seed: {value: -1}", 7, "got -1"),
        ("parameters:\n  seed: {range: [-1, 3]}", 7, "got -1"),
        ("parameters:\n  train.epochs: {range: [1, 10000000000]}", 7, "got 9999999999"),
        ("parameters:\n  model: {values: [wide]}", 7, "model must be a mapping, got 'wide'"),
        ("metrics: []", 6, "metrics must be a list of 1 or more, got []"),
        ("metrics:\n  - {name: val_acuracy, goal: maximize}", 7, "unknown metric 'val_acuracy'. Did you mean 'val_accuracy'?"),
        ("metrics:\n  - {name: status, goal: maximize}", 7, "a metric must be a number, which status is not"),
        ("metrics:\n  - {name: params, goal: up}", 7, "metrics[0].goal must be one of 'maximize', 'minimize', got 'up'"),
        ("export:\n  precisions: [int8, int4]", 7, "export.precisions[1] must be one of"),
        ("export: {select: best}", 6, "export.select must be text that matches"),
        ("benchmark: {pool: p.yaml}", 6, "`benchmark` needs `export`"),
        ("teachers: {big: 5}", 6, "teachers.big must be a mapping, got 5"),
        ("resources: {pack: autoo}", 6, "or 'auto', got 'autoo'. Did you mean 'auto'?"),
        # empty grids and faulty forms
        ("parameters: []", 6, "empty list"),
        ("parameters: 3", 6, "parameters must be a mapping or a list, got 3"),
        ("parameters: [3]", 6, "parameters must"),
        ("parameters:\n  seed: {values: []}", 7, "seed: values must be a list of one value or more, got []"),
        ("parameters:\n  seed: {values: 3}", 7, "got 3"),
        ("parameters:\n  seed: {}", 7, "a parameter is written {values: [...]} or {value: ...}, got {}"),
        ("parameters:\n  seed: [1, 2]", 7, "a parameter is written {values: [...]} or {value: ...}, got [1, 2]"),
        ("parameters:\n  seed: {range: [3, 3]}", 7, "the range [3, 3] is empty"),
        ("parameters:\n  seed: {range: [3]}", 7, "a range is [start, stop]"),
        ("parameters:\n  seed: {range: [0, true]}", 7, "a range is [start, stop]"),
        ("parameters:\n  seed: {range: [0, 3, 0]}", 7, "step must not be 0"),
        ("parameters:\n  seed: {value: 1, values: [1]}", 7, "'values' stands alone, got also value"),
        ("parameters:\n  seed: {min: 0, max: 3}", 7, "min and max are for `method: random`"),
        (
            "parameters:\n  train.epochs: {value: 1}\n  train: {epochs: {value: 2}}",
            8,
            "train.epochs is varied twice, first in line 7",
        ),
        ("trials: 3", 6, "`trials` is for `method: random`"),
        ("method: random", 6, "needs `trials`"),
        ("method: optuna", 6, "`method: optuna` needs `trials`"),
        ("sampler: {name: tpe}", 6, "`sampler` is for `method: optuna`, got `method: grid`"),
        ("early_stop: {name: asha, grace_epoch: 2}", 6, "Did you mean 'grace_epochs'?"),
        ("early_stop: {name: median, factor: 2}", 6, "factor is for `name: asha`, got `name: median`"),
        ("early_stop: {metric: val_loss}", 6, "early_stop needs the key 'name'"),
        ("method: bayes", 6, "method must be one of 'grid', 'random', 'optuna', got 'bayes'"),
        ("method: random\ntrials: 3\nparameters:\n  seed: {min: 3, max: 3}", 9, "min must be below max"),
        ("method: random\ntrials: 3\nparameters:\n  seed: {min: 0}", 9, "needs min and max"),
        ("method: random\ntrials: 3\nparameters:\n  seed: {min: 0, max: 2.5}", 9, "seed must be an integer"),
        (
            "method: random\ntrials: 3\nparameters:\n  distill.temperature: {min: 0, max: 9, distribution: log_uniform}",
            9,
            "log_uniform needs min > 0",
        ),
        (
            "method: random\ntrials: 3\nparameters:\n  seed: {min: 0, max: 9, distribution: log_unifrm}",
            9,
            "unknown distribution 'log_unifrm'. Did you mean 'log_uniform'?",
        ),
        # expressions
        ("exclude:\n  - seed = 1", 7, "exclude[0]: in 'seed = 1', character 6: '=' does not fit here"),
        ("exclude:\n  - sed == 1", 7, "exclude[0] reads the unknown column 'sed'. Did you mean 'seed'?"),
        ("exclude: [size_bytes > 3]", 6, "exclude[0] reads the unknown column 'size_bytes'."),
        ("exclude: [model.width == 1]", 6, "exclude[0] reads the unknown column 'model.width'."),
        ("constraints:\n  - seed == 1\n  - size_byte <= 512 KiB", 8, "constraints[1] reads the unknown column 'size_byte'"),
        ("exclude: [3]", 6, "exclude[0] must be text, got 3"),
        # retention
        ("retention: {keep: [front]}", 6, "retention needs the key 'total'"),
        ("retention: {total: 1 KX}", 6, "total must be bytes, or text such as 200 GiB, and at least 1 B; got '1 KX'"),
        ("retention: {total: 0 B}", 6, "total must be bytes, or text such as 200 GiB, and at least 1 B; got '0 B'"),
        ("retention: {total: 0}", 6, "total must be bytes, or text such as 200 GiB, and at least 1 B; got 0"),
        ("retention: {total: [1]}", 6, "retention.total must be an integer or text, got"),
        (
            "retention:\n  total: 1 GiB\n  keep: [frnt]",
            8,
            "one of 'latest', 'best', 'front', got 'frnt'. Did you mean 'front'?",
        ),
        # teachers
        ("  distill: {teacher: bigg}\nteachers: {big: {model: {name: big}}}", 6, "unknown teacher 'bigg'. Did you mean 'big'?"),
        ("  distill: {teacher: big}", 6, "unknown teacher 'big'. Name them under `teachers:`"),
        ("parameters:\n  distill.teacher: {values: [big]}", 7, "unknown teacher 'big'"),
        ("parameters:\n  distill: {value: {teacher: {model: {name: big}, distill: {teacher: no}}}}", 7, "unknown teacher 'no'"),
        ("teachers:\n  big: {train: {epochs: 1}}", 7, "teachers.big needs the key 'model'"),
    ],
)
def test_bad_input_is_refused_with_file_line_and_the_nearest_name(body: str, line: int, words: str) -> None:
    with pytest.raises(SweepFileError) as caught:
        load(body + "\n")
    assert caught.value.line == line, caught.value
    assert str(caught.value).startswith(f"s.yaml:{line}: ")
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a mapping that starts with `version: 1`, got null"),
        ("- a", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("name: x\nbase: {}", "needs the key 'version'"),
        ("version: 2\nname: x\nbase: {}", "version must be 1, got 2"),
        ("version: 1\nbase: {}", "needs the key 'name'"),
        ("version: 1\nname: a/b\nbase: {}", "name must be text that matches"),
        ("version: 1\nname: x", "needs the key 'base'"),
        ("version: 1\nname: x\nbase: []", "base must be a mapping, got []"),
    ],
)
def test_the_outermost_level(text: str, words: str) -> None:
    with pytest.raises(SweepFileError) as caught:
        load_text(text, "s.yaml")
    assert words in str(caught.value)


def test_teachers_in_a_circle_are_printed() -> None:
    teachers = """\
teachers:
  a: {model: {name: big}, distill: {teacher: b}}
  b:
    model: {name: big}
    distill:
      teacher:
        model: {name: wide}
        distill: {teacher: c}
  c: {model: {name: big}, distill: {teacher: b}}
"""
    with pytest.raises(SweepFileError) as caught:
        load(teachers)
    assert "b -> c -> b" in str(caught.value)
    assert caught.value.line == 14


def test_a_teacher_that_is_its_own_through_an_anchor() -> None:
    with pytest.raises(
        SweepFileError, match=r"\*t contains itself: base.distill.teacher -> .* -> base.distill.teacher$"
    ) as caught:
        load("  distill:\n    teacher: &t\n      model: {name: big}\n      distill: {teacher: *t}\n")
    assert caught.value.line == 9


def test_a_chain_of_many_teachers_is_refused() -> None:
    links = [f"  t{i}: {{model: {{name: big}}, distill: {{teacher: t{i + 1}}}}}" for i in range(5000)]
    with pytest.raises(SweepFileError, match=f"{MAX_CHAIN} members at most"):
        load("teachers:\n" + "\n".join(links) + "\n  t5000: {model: {name: big}}\n")


def test_a_billion_points_are_counted_and_not_made() -> None:
    started = time.process_time()
    loaded = load("parameters:\n  seed: {range: [0, 100000]}\n  train.batch_size: {range: [1, 10001]}\n")
    assert count_points(loaded.sweep) == 1_000_000_000
    with pytest.raises(SweepFileError, match=r"s.yaml:6: the sweep has 1,000,000,000 points, more than 100,000.*--yes"):
        check_size(loaded)
    check_size(loaded, limit=1_000_000_000)
    assert time.process_time() - started < 0.5


def test_ranges_beyond_the_machine_word_are_counted() -> None:
    steps = load("parameters:\n  train.optimizer.learning_rate: {range: [1e-300, 1, 1e-300]}\n")
    assert count_points(steps.sweep) == 10**300 - 1


def test_a_large_list_is_checked_to_its_end() -> None:
    values = ", ".join(map(str, range(50_000)))
    with pytest.raises(SweepFileError, match="got 'x'"):
        load(f"parameters:\n  seed: {{values: [{values}, x]}}\n")
    assert count_points(load(f"parameters:\n  seed: {{values: [{values}]}}\n").sweep) == 50_000


def test_the_line_is_that_of_the_file_also_for_windows_line_ends() -> None:
    with pytest.raises(SweepFileError, match=r"s.yaml:6: unknown key 'metric'"):
        load_text((HEAD + "metric: 1\n").replace("\n", "\r\n"), "s.yaml")
