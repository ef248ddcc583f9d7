"""Options without effect make no other trial; combinations that no training can be made of are refused with their line."""

import pytest

from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.errors import SweepFileError
from flaxcomp.sweep import ids
from flaxcomp.sweep.expand import Tally, expand
from flaxcomp.sweep.load import load_text
from flaxcomp.sweep.spec import Augment, Distill, Optimizer, Schedule, Train
from sweep_samples import load, trials_of

STUDENT = "  distill: {teacher: {model: {name: big}}, loss: LOSS}\n"


def merged(body: str) -> Tally:
    """Expand a sweep that leaves one trial (and what it needs), the one that it would be without the parameter."""
    tally = Tally()
    trials = trials_of(load(body), tally)
    (trial,) = [trial for trial in trials if trial.role == "trial"]
    assert trial.config == trials_of(load(body.partition("parameters:")[0]))[-1].config
    assert trial.id == ids.trial_id(trial.config, "a" * 64)
    return tally


@pytest.mark.parametrize(
    "body",
    [
        "  train: {optimizer: {name: adam}}\nparameters:\n  train.optimizer.nesterov: {values: [false, true]}\n",
        "  train: {optimizer: {name: adam}}\nparameters:\n  train.optimizer.momentum: {values: [0.9, 0.0]}\n",
        "  train: {optimizer: {name: adam}}\nparameters:\n  train.optimizer.decay: {values: [0.5, 0.9]}\n",
        "  train: {optimizer: {name: sgd}}\nparameters:\n  train.optimizer.beta1: {values: [0.5, 0.9]}\n",
        "  train: {optimizer: {name: rmsprop}}\nparameters:\n  train.optimizer.nesterov: {values: [true, false]}\n",
        "  train: {schedule: {name: constant}}\nparameters:\n  train.schedule.factor: {values: [0.5, 0.1]}\n",
        "  train: {schedule: {name: cosine}}\nparameters:\n  train.schedule.milestones: {values: [[2], []]}\n",
        "  train: {schedule: {name: exponential}}\nparameters:\n  train.schedule.final: {values: [0.5, 0.0]}\n",
        "  train: {augment: {flip: true}}\nparameters:\n  train.augment.pad_mode: {values: [constant, reflect]}\n",
        STUDENT.replace("LOSS", "soft_mse") + "parameters:\n  distill.lambda: {values: [0.5, 0.2]}\n",
        "  train: {phases: [{epochs: 1}]}\nparameters:\n  train.schedule.factor: {values: [0.5, 0.1]}\n",
    ],
)
def test_what_has_no_effect_makes_no_other_trial(body: str) -> None:
    assert merged(body).repeated == 1


@pytest.mark.parametrize(
    "body",
    [
        "  train: {optimizer: {name: sgd}}\nparameters:\n  train.optimizer.momentum: {values: [0.9, 0.0]}\n",
        "  train: {schedule: {name: exponential}}\nparameters:\n  train.schedule.factor: {values: [0.5, 0.1]}\n",
        "  train: {augment: {pad: 2}}\nparameters:\n  train.augment.pad_mode: {values: [constant, reflect]}\n",
        STUDENT.replace("LOSS", "hinton") + "parameters:\n  distill.lambda: {values: [0.5, 0.2]}\n",
    ],
)
def test_what_has_an_effect_does(body: str) -> None:
    tally = Tally()
    assert len([trial for trial in trials_of(load(body), tally) if trial.role == "trial"]) == 2
    assert tally.repeated == 0


def test_a_grid_may_vary_the_optimizer_alone() -> None:
    adam, sgd = trials_of(
        load("  train: {optimizer: {momentum: 0.9}}\nparameters:\n  train.optimizer.name: {values: [adam, sgd]}\n")
    )
    assert adam.config.train.optimizer == Optimizer()
    assert sgd.config.train.optimizer == Optimizer(name="sgd", momentum=0.9)
    assert adam.id == trials_of(load(""))[0].id


def test_ids_of_trials_without_such_options_stay() -> None:
    """Of the release before."""
    body = """\
  train:
    optimizer: {name: rmsprop, momentum: 0.9, decay: 0.8, epsilon: 0.5}
    schedule: {name: multi_step, milestones: [2, 3], factor: 0.5}
    augment: {pad: 4, pad_mode: constant}
  distill: {loss: hinton, lambda: 0.5, temperature: 3, teacher: {model: {name: big}, train: {epochs: 3}}}
"""
    assert trials_of(load(body))[-1].id == "cfecef707f4d4f75"


def test_exclude_sees_what_the_file_says() -> None:
    body = "parameters:\n  train.optimizer.momentum: {values: [0.9, 0.5]}\nexclude: [train.optimizer.momentum == 0.9]\n"
    tally = Tally()
    assert [trial.config.train for trial in trials_of(load(body), tally)] == [Train()]
    assert (tally.excluded, tally.repeated) == (1, 0)


def test_defaults_of_the_spec_are_what_options_without_effect_become() -> None:
    unread = "  train: {optimizer: {beta1: 0.9, nesterov: true}, schedule: {final: 0.3, every_epochs: 2}}\n"
    (trial,) = trials_of(load(unread))
    assert (trial.config.train.optimizer, trial.config.train.schedule) == (Optimizer(), Schedule())
    assert trial.config.train.augment == Augment()
    assert Distill(teacher="t").hard_weight == 0.2


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("  train:\n    schedule: {name: multi_step}\n", 7, "train.schedule: multi_step needs `milestones`"),
        (
            "  train:\n    phases:\n      - {epochs: 2, schedule: {name: multi_step}}\n",
            8,
            "train.phases[0].schedule: multi_step",
        ),
        ("parameters:\n  train.schedule.name:\n    values: [cosine, multi_step]\n", 8, "multi_step needs `milestones`"),
        ("  train: {batch_size: 16}\nparameters:\n  dataset.train_limit: {values: [1001]}\n", 8, "at most 1000, "),
        ("  train:\n    augment:\n      pad: 20\n", 8, "train.augment.pad must be less than 20, "),
        ("  train:\n    batch_size: 901\n", 7, "train.batch_size must be at most 900, "),
        ("parameters:\n  dataset.train_limit: {values: [100]}\n", 3, "at most 90, "),
        ("  distill:\n    teacher:\n      model: {name: big}\n      train: {batch_size: 901}\n", 9, "at most 900, "),
    ],
)
def test_what_no_training_can_be_made_of_is_refused(body: str, line: int, words: str) -> None:
    with pytest.raises(SweepFileError) as caught:
        trials_of(load(body))
    assert words in str(caught.value)
    assert (caught.value.file, caught.value.line) == ("s.yaml", line), str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "  train: {schedule: {name: multi_step}}\nparameters:\n  train.schedule.milestones: {values: [[1], [2]]}\n",
        "  train: {schedule: {name: multi_step}, phases: [{epochs: 2, schedule: {milestones: [1]}}]}\n",
        "  train: {batch_size: 900, augment: {pad: 19}}\n",
    ],
)
def test_what_is_whole_when_put_together_is_not(body: str) -> None:
    assert trials_of(load(body))


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("{name: mnist_sample, train_limit: 12001}", "at most 12000, the training images of mnist_sample, got 12001"),
        ("{name: mnist_sample, train_limit: 100}", "at most 90, "),
        ("{name: mnist_sample, train_limit: 140, validation: {fraction: 0.5}}", "at most 70, "),
        ("{name: mnist_sample, train_limit: 1}", "a validation split needs at least 2 training images; there is 1."),
    ],
)
def test_the_numbers_are_those_of_the_data_set(dataset: str, words: str) -> None:
    text = f"version: 1\nname: sample\nbase:\n  dataset: {dataset}\n  model: {{name: simplenet_v5}}\n"
    with pytest.raises(SweepFileError, match=words):
        list(expand(load_text(text, "s.yaml", ()), RoomCatalog()))
