from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flaxcomp.sweep.document import parse
from flaxcomp.sweep.schema import sweep_schema
from sweep_samples import HEAD
from test_load import DESIGN

SCHEMA = sweep_schema()
SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


def is_valid(text: str) -> bool:
    value: Any = parse(text, "s.yaml").value
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(value)


def test_it_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_shipped_sweeps_are_accepted(path: Path) -> None:
    errors = jsonschema.Draft202012Validator(SCHEMA).iter_errors(parse(path.read_text(), path.name).value)
    assert [error.message for error in errors] == []


def test_the_example_of_the_design_is_accepted() -> None:
    assert is_valid(DESIGN)


@pytest.mark.parametrize(
    "body",
    [
        "  distill: {teacher: {model: {name: big, dropout: 0.1}, distill: {teacher: named}}}",
        "teachers: {big: {model: {name: big}, train: {epochs: 3}}}",
        "parameters:\n  train: {optimizer: {learning_rate: {values: [1]}}}",
        "parameters:\n  train: {parameters: {optimizer: {parameters: {learning_rate: {value: 1}}}}}",
        "parameters: [{seed: {range: [0, 3]}}, {distill: {value: null}}]",
        "parameters:\n  model.width: {values: [1, 2]}\n  distill.teacher.model.width: {value: 3}",
        "method: random\ntrials: 3\nparameters:\n  train.epochs: {min: 1, max: 3, distribution: int_uniform}",
        "method: optuna\ntrials: 3\nsampler: {name: nsga2, batch: 8}\nparameters:\n  train.epochs: {min: 1, max: 3}",
        "early_stop: {name: asha, metric: val_accuracy, grace_epochs: 2, factor: 3}",
        "early_stop: {name: median, every_epochs: 2, min_trials: 9, compare: sweep}",
    ],
)
def test_all_forms_are_accepted(body: str) -> None:
    assert is_valid(HEAD + body)


@pytest.mark.parametrize(
    "body",
    [
        "metric: []",
        "  trian: {}",
        "  train: {optimizer: {learning_rat: 1}}",
        "  distill: {teacher: {modell: {name: big}}}",
        "teachers: {big: {train: {epochs: 3}}}",
        "  train: {epochs: 0}",
        "parameters: []",
        "parameters: {seed: {vals: [1]}}",
        "parameters: {seed: {values: []}}",
        "parameters: {seed: {values: [1], range: [0, 1]}}",
        "parameters: {seed: [1, 2]}",
        "parameters: {epochs: {values: [1]}}",
        "parameters: {seed: {min: 0}}",
        "export: {precisions: [int7]}",
        "early_stop: {factor: 3}",
        "early_stop: {name: asha, factor: 1}",
        "early_stop: {name: asha, grace: 1}",
        "sampler: {name: cmaes}",
    ],
)
def test_what_loading_refuses_is_refused_in_the_editor(body: str) -> None:
    assert not is_valid(HEAD + body)
