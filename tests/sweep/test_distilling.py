"""Distillation in sweep files: chains, several teachers, options without effect, what is refused and where."""

from typing import Any

import pytest
from msgspec.structs import replace

from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.errors import SweepFileError
from flaxcomp.sweep import ids
from flaxcomp.sweep.expand import Tally, Trial, expand
from flaxcomp.sweep.load import load_text
from flaxcomp.sweep.spec import Augment, Dataset, Distill, Hint, Train, TrialConfig
from sweep_samples import load, trials_of

TEACHERS = "teachers: {one: {model: {name: big}}, two: {model: {name: slim}}, one_again: {model: {name: big}}}\n"


def student(distill: str, more: str = "") -> Trial:
    return trials_of(load(f"  distill: {distill}\n{more}{TEACHERS}"))[-1]


def test_several_teachers_are_all_needed_and_their_order_does_not_matter() -> None:
    trials = trials_of(load("  distill: {teacher: [one, two]}\n" + TEACHERS))
    *teachers, last = trials
    assert [trial.role for trial in trials] == ["dependency", "dependency", "trial"]
    assert last.config.distill is not None
    assert last.config.distill.teacher == tuple(sorted(teacher.id for teacher in teachers)) == last.needs
    assert last.id == student("{teacher: [two, one]}").id == student("{teacher: [{model: {name: big}}, two]}").id


def test_weights_follow_their_teachers_and_sum_to_one() -> None:
    first, second = student("{teacher: [one, two], weights: [3, 1]}"), student("{teacher: [two, one], weights: [2, 6]}")
    assert first.id == second.id
    assert first.config.distill is not None
    assert sorted(first.config.distill.weights) == [0.25, 0.75]
    assert student("{teacher: [one, two], weights: [2, 2]}").id == student("{teacher: [one, two]}").id


def test_a_list_of_one_teacher_is_that_teacher_and_how_it_is_combined_has_no_effect() -> None:
    alone = student("{teacher: one}")
    assert alone.id == student("{teacher: [one]}").id == student("{teacher: [one], combine: logits, weights: [7]}").id
    assert alone.config.distill == Distill(teacher=alone.needs[0])
    assert student("{teacher: [one, two], combine: logits}").id != student("{teacher: [one, two]}").id


def test_assistants_of_an_ensemble_come_after_their_own_teachers() -> None:
    body = "  distill: {teacher: [assistant, one]}\nteachers:\n  one: {model: {name: big}}\n"
    body += "  assistant: {model: {name: slim}, distill: {teacher: one}}\n"
    one, assistant, last = trials_of(load(body))
    assert (assistant.needs, set(last.needs)) == ((one.id,), {one.id, assistant.id})


def test_how_a_student_is_served_is_no_part_of_its_id() -> None:
    tally = Tally()
    values = "parameters:\n  distill.memoise: {values: [auto, always, never]}\n"
    trials = trials_of(load("  distill: {teacher: one}\n" + values + TEACHERS), tally)
    assert (len(trials), tally.repeated) == (2, 2)
    never, plain = student("{teacher: one, memoise: never}"), student("{teacher: one}")
    assert (never.id, never.signature) == (plain.id, plain.signature)
    assert never.config.distill is not None
    assert never.config.distill.memoise == "never", "the worker is told"
    assert ids.trial_id(never.config, "a" * 64) == never.id


@pytest.mark.parametrize(
    ("loss", "option", "reads"),
    [
        ("soft_mse", "temperature: 3", True),
        ("soft_mse", "lambda: 0.5", False),
        ("logits_mse_ce", "temperature: 3", False),
        ("logits_mse_ce", "lambda: 0.5", False),
        ("soft_ce", "temperature_power: 0", True),
        ("soft_ce", "lambda: 0.5", False),
        ("hinton", "lambda: 0.5", True),
        ("hinton", "temperature_power: 0", False),
    ],
)
def test_what_a_loss_does_not_read_makes_no_other_trial(loss: str, option: str, reads: bool) -> None:
    plain, changed = (student(f"{{teacher: one, loss: {loss}{more}}}") for more in ("", f", {option}"))
    assert (plain.id != changed.id) == reads
    assert plain.signature == changed.signature, "numbers are inputs of a program"


BASE = TrialConfig(dataset=Dataset(name="mnist"), model={"name": "wide"}, distill=Distill(teacher="t"))


def distilled(**options: Any) -> TrialConfig:
    return replace(BASE, distill=Distill(**{"teacher": "t"} | options))


def test_what_decides_a_students_program() -> None:
    same = [distilled(), distilled(teacher="u"), distilled(temperature=9.0), distilled(memoise="never")]
    assert len({ids.signature(config) for config in same}) == 1
    pairs = [distilled(teacher=("t", "u")), distilled(teacher=("v", "w"), weights=(0.1, 0.9))]
    assert ids.signature(pairs[0]) == ids.signature(pairs[1])
    hints = [distilled(hint=Hint(weight=weight)) for weight in (1.0, 2.0)]
    assert ids.signature(hints[0]) == ids.signature(hints[1])
    others = [
        distilled(),
        pairs[0],
        distilled(teacher=("t", "u"), combine="logits"),
        hints[0],
        distilled(hint=Hint(), teacher="u"),
        distilled(hint=Hint(epochs=1)),
        distilled(hint=Hint(student_layer="x")),
        distilled(teacher_mode="train"),
        distilled(teacher_mode="train", teacher="u"),
        distilled(loss="soft_ce"),
    ]
    assert len({ids.signature(config) for config in others}) == len(others)
    moving = Train(augment=Augment(flip=True))
    assert ids.signature(replace(distilled(teacher=("t", "u")), train=moving)) != ids.signature(
        replace(distilled(teacher=("t", "v")), train=moving)
    )


def test_ids_and_signatures_of_one_teacher_are_those_of_the_release_before() -> None:
    assert ids.trial_id(distilled(temperature=3.0, loss="hinton"), "a" * 64) == "c31c9d62b7fa273b"
    assert ids.signature(distilled(temperature=3.0, loss="hinton")) == "6255b08a4627964e"


@pytest.mark.parametrize(
    ("distill", "more", "line", "words"),
    [
        ("{teacher: [one, two], weights: [1]}", "", 6, "distill.weights must be one for each of 2 teachers, got 1"),
        ("{teacher: [one, one_again]}", "", 6, "distill.teacher must be trainings that differ, but 2 of them are 1"),
        ("{teacher: []}", "", 6, "distill.teacher must be"),
        ("{teacher: [one, nobody]}", "", 6, "unknown teacher 'nobody'"),
        ("{teacher: [one, two], loss: logits_mse_ce}", "", 6, "distill.combine must be logits for the loss logits_mse_ce"),
        ("{teacher: [one, two], hint: {}}", "", 6, "distill.hint is a layer of one teacher, but there are 2"),
        ("{teacher: one, loss: soft}", "", 6, "distill.loss must be one of 'hinton', 'logits_mse_ce', 'soft_ce', 'soft_mse'"),
        ("{teacher: one, hint: {epochs: -1}}", "", 6, "distill.hint.epochs must be an integer >= 0"),
        ("{teacher: one, hint: {layer: x}}", "", 6, "unknown key 'layer' in distill.hint"),
        ("{teacher: one, memoise: always, hint: {}}", "", 6, "distill.memoise cannot be always: the teacher is asked at every"),
        (
            "{teacher: one, memoise: always}",
            "  train: {augment: {brightness: 3}}\n",
            6,
            "distill.memoise cannot be always: brightness and contrast change an image in endless ways",
        ),
        (
            "{teacher: one, hint: {epochs: 2}}",
            "  train: {epochs: 2}\n",
            6,
            "distill.hint.epochs must be less than train.epochs, 2",
        ),
        (
            "{teacher: one, hint: {epochs: 2}}",
            "  train: {epochs: 5}\n  prune: {epochs: 2}\n",
            6,
            "distill.hint.epochs must be less than prune.epochs, 2",
        ),
        ("{teacher: one, hint: {epochs: 1}}", "  train: {phases: [{epochs: 3}]}\n", 6, "distill.hint.epochs must be 0 where"),
        ("\n    teacher:\n      - one\n      - {model: {name: bigg}}", "", 9, "no architecture is called 'bigg'"),
    ],
)
def test_what_no_student_can_learn_by_is_refused(distill: str, more: str, line: int, words: str) -> None:
    with pytest.raises(SweepFileError) as caught:
        student(distill, more)
    assert words in str(caught.value)
    assert caught.value.line == line, str(caught.value)


HEAD = "version: 1\nname: sample\nbase:\n  dataset: {name: mnist_sample}\n  model: {name: simplenet_v5}\n"


@pytest.mark.parametrize(
    "other", ["{name: simplenet_v3, num_classes: 7}", "{name: mobilenet_v1, layout: embedded, num_classes: 7}"]
)
def test_a_teacher_with_other_classes_is_refused_with_both_numbers(other: str) -> None:
    text = f"{HEAD}  distill:\n    teacher: {{model: {other}}}\n"
    with pytest.raises(
        SweepFileError, match=r"has 7 classes, but its student simplenet_v5 has 10; they must be the same"
    ) as caught:
        list(expand(load_text(text, "s.yaml", ()), RoomCatalog()))
    assert caught.value.line == 7
    head = HEAD.replace("v5}", "v5, num_classes: 5}")
    with pytest.raises(SweepFileError, match=r"simplenet_v3 has 10 classes, but its student simplenet_v5 has 5"):
        list(expand(load_text(head + "  distill: {teacher: {model: {name: simplenet_v3}}}\n", "s.yaml", ()), RoomCatalog()))
