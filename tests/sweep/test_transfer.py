"""`train.init_from` and `train.phases` as the file has them: ids, dependencies, signatures, refusals."""

from typing import Any

import msgspec
import pytest

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep import ids
from flaxcomp.sweep.plan import make_plan
from flaxcomp.sweep.spec import InitFrom, Optimizer, Phase, Schedule, Train
from sweep_samples import FakeCatalog, checked, load, trials_of

# Of canonical forms made before there were phases and initial weights.
OLD_IDS = {
    "": "8f50ab67aeba17e0",
    "  train: {epochs: 9, batch_size: 64, optimizer: {name: sgd, momentum: 0.9}, schedule: {name: cosine}}\n": (
        "395d1446e1a2e94b"
    ),
}
PHASES = """\
  train:
    optimizer: {name: rmsprop, learning_rate: 0.01}
    schedule: {name: exponential, factor: 0.94, every_epochs: 2}
    phases:
      - {train: last, steps: 25000}
      - {epochs: 3, optimizer: {learning_rate: 0.001}, schedule: {every_epochs: 4}}
"""


def refused(body: str) -> SweepFileError:
    with pytest.raises(SweepFileError) as caught:
        trials_of(load(body))
    return caught.value


@pytest.mark.parametrize("body", OLD_IDS)
def test_ids_of_trials_without_them_are_what_they_were(body: str) -> None:
    (trial,) = checked(trials_of(load(body)))
    assert trial.id == OLD_IDS[body]


# Initial weights.


def test_a_file_is_known_by_its_content_and_not_by_its_path() -> None:
    body = "parameters:\n  train.init_from.file: {values: [a.npz, b.npz, same_as_a.npz]}\n"
    first, second = checked(trials_of(load(body)))
    assert [trial.config.train.init_from for trial in (first, second)] == [InitFrom(file="1" * 64), InitFrom(file="2" * 64)]
    assert first.id != second.id
    assert b"a.npz" not in ids.canonical(first.config)
    assert first.signature == second.signature == trials_of(load(""))[0].signature, "initial weights are inputs"


def test_names_and_layout_belong_to_the_trial_wherever_the_names_are_written() -> None:
    inline, by_file, other, plain = (
        checked(trials_of(load(f"  train: {{init_from: {{file: a.npz{more}}}}}\n")))[0]
        for more in (", names: {logits: fc}", ", names: names.yaml", ", names: {logits: head}, layout: torch", ", names: {}")
    )
    assert inline == by_file
    assert len({inline.id, other.id, plain.id}) == 3
    assert ids.plain(plain.config, defaults=False)["train"] == {"init_from": {"file": "1" * 64}}


def test_a_training_to_start_from_is_trained_once_for_all() -> None:
    body = """\
  train:
    epochs: 9
    init_from: {trial: {dataset: {name: fashion_mnist, train_limit: 700}, model: {name: wide}, train: {epochs: 5}, seed: 3}}
parameters:
  seed: {values: [0, 1]}
"""
    source, *trials = checked(trials_of(load(body)))
    assert (source.role, source.config.dataset.name, source.config.dataset.train_limit) == ("dependency", "fashion_mnist", 700)
    assert source.config.train == Train(epochs=5), "base.train without the initial weights"
    assert source.config.seed == 3
    assert [trial.needs for trial in trials] == [(source.id,)] * 2
    assert [trial.config.train.init_from for trial in trials] == [InitFrom(trial=source.id)] * 2
    assert make_plan(load(body), FakeCatalog()).dependencies == 1


def test_without_a_data_set_of_its_own_it_has_the_trials() -> None:
    body = "parameters:\n  dataset.name: {values: [mnist, fashion_mnist]}\n"
    body += "  train.init_from.trial: {value: {model: {name: slim}}}\n"
    trials = checked(trials_of(load(body)))
    sources = {trial.id: trial for trial in trials if trial.role == "dependency"}
    assert len(sources) == 2
    for trial in trials:
        if trial.role == "trial":
            assert sources[trial.needs[0]].config.dataset == trial.config.dataset


def test_a_trial_of_the_sweep_is_its_own_dependency() -> None:
    body = """\
parameters:
  - train.init_from: {value: {trial: {model: {name: wide}, seed: 4}}}
  - seed: {values: [4]}
"""
    own, started = checked(trials_of(load(body)))
    assert (own.role, started.needs) == ("trial", (own.id,))


def test_teacher_and_initial_weights_together() -> None:
    body = """\
  distill: {teacher: first}
  train: {init_from: {trial: second}}
teachers:
  first: {model: {name: big}, train: {init_from: {trial: third}}}
  second: {model: {name: wide}, distill: {teacher: third}}
  third: {model: {name: big}, train: {epochs: 7}}
"""
    *others, trial = checked(trials_of(load(body)))
    assert [other.config.train.epochs for other in others] == [7, 1, 1]
    third, first, second = others
    assert trial.needs == (first.id, second.id)
    assert first.needs == second.needs == (third.id,)
    assert first.config.train.init_from == InitFrom(trial=third.id)
    same = checked(trials_of(load(body.replace("second}", "first}", 1))))[-1]
    assert same.needs == (same.config.distill.teacher,)  # type: ignore[union-attr]


def test_exclude_reads_what_it_starts_from() -> None:
    body = """\
teachers: {one: {model: {name: big}}, two: {model: {name: wide}}}
parameters:
  train.init_from: {values: [null, {trial: one}, {trial: two}, {file: a.npz}, {file: b.npz}]}
exclude:
  - train.init_from.trial == 'one'
  - train.init_from.trial.model.name == 'wide'
  - train.init_from.file == 'b.npz'
"""
    assert [trial.config.train.init_from for trial in trials_of(load(body))] == [None, InitFrom(file="1" * 64)]


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("{}", "train.init_from must have one of trial, checkpoint and file, got none of them"),
        ("{file: a.npz, checkpoint: c}", "got checkpoint and file"),
        ("{checkpoint: c, layout: torch}", "names and layout describe a `file`; a checkpoint needs neither"),
        ("{file: gone.npz}", "gone.npz: initial weights must be there, but there is nothing"),
        ("{file: a.npz, layout: keras}", "layout must be one of 'flax', 'torch', got 'keras'"),
        ("{file: a.npz, names: {'a.*.b': c}}", "'c' must have as many wildcards as 'a.*.b'"),
        ("{fil: a.npz}", "Did you mean 'file'?"),
        ("{trial: nobody}", "unknown teacher 'nobody'."),
        ("{trial: {model: {name: wide, wdth: 1}}}", "Did you mean 'width'?"),
        ("{trial: {model: {name: wide}, dataset: {name: mnits}}}", "Did you mean 'mnist'?"),
    ],
)
def test_faulty_initial_weights_are_refused_with_their_line(init: str, words: str) -> None:
    error = refused(f"  train:\n    batch_size: 8\n    init_from: {init}\n")
    assert (words in str(error), error.file, error.line) == (True, "s.yaml", 8), str(error)


def test_a_circle_through_initial_weights_is_printed() -> None:
    error = refused("""\
teachers:
  a: {model: {name: big}, train: {init_from: {trial: b}}}
  b: {model: {name: big}, distill: {teacher: a}}
""")
    assert "in a circle: a -> b -> a" in str(error)
    assert error.line == 8


def test_many_ways_to_few_trainings_are_walked_once() -> None:
    links = [f"  t{i}: {{model: {{name: big}}, distill: {{teacher: t{i + 1}}}, train: {{init_from: {{trial: t{i + 1}}}}}}}"
             for i in range(19)]  # fmt: skip
    loaded = load("  train: {init_from: {trial: t1}}\nteachers:\n" + "\n".join(links) + "\n  t19: {model: {name: big}}\n")
    assert len(checked(trials_of(loaded))) == 20


# Phases.


def test_a_phase_has_the_common_optimizer_and_schedule_but_for_what_it_says() -> None:
    (trial,) = checked(trials_of(load(PHASES)))
    common = Optimizer(name="rmsprop", learning_rate=0.01)
    schedule = Schedule(name="exponential", factor=0.94, every_epochs=2)
    assert trial.config.train.phases == (
        Phase(train="last", steps=25000, optimizer=common, schedule=schedule),
        Phase(
            epochs=3,
            optimizer=msgspec.structs.replace(common, learning_rate=0.001),
            schedule=msgspec.structs.replace(schedule, every_epochs=4),
        ),
    )
    assert ids.plain(trial.config, defaults=False)["train"]["phases"][1] == {
        "epochs": 3, "optimizer": {"name": "rmsprop"},
        "schedule": {"name": "exponential", "factor": 0.94, "every_epochs": 4.0},
    }  # fmt: skip
    written_out = PHASES.replace("epochs: 3,", "train: all, epochs: 3, freeze_statistics: false,")
    assert checked(trials_of(load(written_out)))[0].id == trial.id


def signature_of(change: tuple[str, str]) -> str:
    assert change[0] in PHASES
    return checked(trials_of(load(PHASES.replace(*change))))[0].signature


def test_numbers_of_optimizers_are_inputs_and_the_rest_of_a_phase_is_not() -> None:
    own = signature_of(("", ""))
    assert signature_of(("learning_rate: 0.001", "learning_rate: 0.002, weight_decay: 0.1, decay: 0.5")) == own
    assert signature_of(("learning_rate: 0.01}", "learning_rate: 0.05}")) == own
    for change in (("25000", "25001"), ("train: last", "train: [logits]"), ("epochs: 3", "steps: 3"), ("0.94", "0.93"),
                   ("epochs: 3", "epochs: 3, freeze_statistics: true"), ("rmsprop", "adam"),
                   ("every_epochs: 4", "every_epochs: 5")):  # fmt: skip
        assert signature_of(change) != own, change


def test_a_plan_tells_signatures_apart_by_phases_without_their_numbers() -> None:
    body = PHASES.replace("phases:", "batch_size: 8\n    phases:") + "parameters:\n  train.batch_size: {values: [8, 16]}\n"
    plan = make_plan(load(body + "  train.optimizer.learning_rate: {values: [0.01, 0.02]}\n"), FakeCatalog())
    assert [(group.trials, group.differs) for group in plan.groups.values()] == [
        (2, {"train.batch_size": 8}), (2, {"train.batch_size": 16})
    ]  # fmt: skip


def test_teachers_do_not_inherit_phases() -> None:
    body = PHASES.replace("    phases:", "    init_from: {trial: {model: {name: big}, train: {epochs: 2}}}\n    phases:")
    source, trial = checked(trials_of(load(body)))
    assert (source.config.train.phases, source.config.train.epochs, source.config.train.init_from) == ((), 2, None)
    assert source.config.train.optimizer == trial.config.train.optimizer
    own = "  train: {epochs: 4, init_from: {trial: {model: {name: big}, train: {phases: [{steps: 3}]}}}}\n"
    source, trial = checked(trials_of(load(own)))
    assert (source.config.train.epochs, len(source.config.train.phases), trial.config.train.epochs) == (1, 1, 4)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("{train: last}", "give one of them"),
        ("{epochs: 1, steps: 1}", "give one of them"),
        ("{train: first, epochs: 1}", "train.phases[0].train must be one of 'all', 'last' or a list of 1 or more"),
        ("{train: [], epochs: 1}", "train.phases[0].train must be"),
        ("{train: [3], epochs: 1}", "train.phases[0].train"),
        ("{epochs: 0}", "train.phases[0].epochs must be an integer >= 1"),
        ("{epochs: 1, optimizer: {learning_rat: 1}}", "Did you mean 'learning_rate'?"),
        ("{epochs: 1, schedul: {}}", "Did you mean 'schedule'?"),
    ],
)
def test_faulty_phases_are_refused_with_their_line(phase: str, words: str) -> None:
    error = refused(f"  train:\n    batch_size: 8\n    phases:\n      - {phase}\n")
    assert words in str(error)
    assert error.line == 9


@pytest.mark.parametrize("where", ["base", "parameters"])
def test_phases_and_epochs_exclude_each_other(where: str) -> None:
    if where == "base":
        body, line = "  train:\n    epochs: 3\n    phases: [{steps: 4}]\n", 8
    else:
        body, line = "  train: {epochs: 3}\nparameters:\n  train.phases:\n    values:\n      - [{steps: 4}]\n", 10
    error = refused(body)
    assert "train.phases replaces train.epochs" in str(error)
    assert error.line == line


def test_total_epochs_are_known_unless_counted_in_steps() -> None:
    def total(*phases: Any) -> int | None:
        return Train(epochs=6, phases=phases).total_epochs

    assert (total(), total(Phase(epochs=2), Phase(epochs=3)), total(Phase(epochs=2), Phase(steps=3))) == (6, 5, None)
