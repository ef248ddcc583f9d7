"""The block `prune`: what may be said, what has no effect, what is refused."""

from typing import Any

import msgspec
import pytest

from flaxcomp.sweep.compression.criteria import criteria
from flaxcomp.sweep.compression.prune import Prune, effective


def read(**options: Any) -> Prune:
    return msgspec.convert(options, Prune)


def test_a_ratio_of_zero_changes_nothing() -> None:
    assert effective(read(ratio=0.0, criterion="l1")) is None


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"criterion": "l1", "images": 9, "seed": 3}, {"criterion": "l1"}),
        ({"criterion": "random", "images": 9, "seed": 3}, {"criterion": "random", "seed": 3}),
        ({"criterion": "fisher", "images": 9, "seed": 3}, {"images": 9, "seed": 3}),
        ({"steps": 4, "tune_steps": 7, "retrain_at": [2]}, {}),
        ({"schedule": "iterative", "steps": 1}, {}),
        ({"schedule": "iterative", "tune_epochs": 1}, {"schedule": "iterative"}),
        ({"schedule": "iterative", "tune_epochs": 0, "tune_learning_rate": 0.1}, {"schedule": "iterative", "tune_epochs": 0}),
        ({"schedule": "iterative", "steps": 3, "tune_learning_rate": 0.1},
         {"schedule": "iterative", "steps": 3, "tune_learning_rate": 0.1}),
        ({"penalty_epochs": 3, "tune_learning_rate": 0.1}, {}),
        ({"penalty": 1e-4, "penalty_epochs": 3, "tune_learning_rate": 0.1},
         {"penalty": 1e-4, "penalty_epochs": 3, "tune_learning_rate": 0.1}),
        ({"scope": "layer", "normalize": "max", "per_cost": "macs"}, {"scope": "layer"}),
        ({"criterion": "uniform", "scope": "layer", "per_cost": "latency", "costs": "t.yaml"}, {"criterion": "uniform"}),
        ({"criterion": "taylor", "normalize": "l2"}, {"criterion": "taylor"}),
        ({"criterion": "taylor", "normalize": "none"}, {"criterion": "taylor", "normalize": "none"}),
        ({"costs": "t.yaml", "of": "macs"}, {"of": "macs"}),
        ({"costs": "t.yaml", "of": "latency"}, {"of": "latency", "costs": "t.yaml"}),
        ({"costs": "t.yaml", "per_cost": "latency"}, {"per_cost": "latency", "costs": "t.yaml"}),
        ({"then": "fine_tune", "epochs": 2, "ignore": ["stem/*"], "round_to": {"a": 8}, "spare_strided": True},
         {"then": "fine_tune", "epochs": 2, "ignore": ["stem/*"], "round_to": {"a": 8}, "spare_strided": True}),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_left_out(options: dict[str, Any], left: dict[str, Any]) -> None:
    block = effective(read(ratio=0.3, **options))
    assert block == read(ratio=0.3, **left)
    assert msgspec.json.decode(msgspec.json.encode(block)) == {"ratio": 0.3, **left}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "fischer"}, r"no criterion is called 'fischer'\. Did you mean 'fisher'"),
        ({"ratio": 1.0}, r"Expected `float` < 1"),
        ({"ratio": -0.1}, r"Expected `float` >= 0"),
        ({"of": "latency"}, r"latency is looked up in a table of measured layers: give its path as `costs`"),
        ({"per_cost": "latency"}, r"give its path as `costs`"),
        ({"tune_epochs": 1, "tune_steps": 5}, r"lasts `tune_epochs` or `tune_steps`: give one of them"),
        ({"retrain_at": [2, 1]}, r"retrain_at must be step numbers that grow, got \[2, 1\]"),
        ({"schedule": "iterative", "steps": 3, "retrain_at": [1, 3]}, r"retrain_at must be below the 3 steps: .* got 3"),
        ({"of": "flops"}, r"Invalid enum value 'flops'"),
        ({"scoop": "layer"}, r"contains unknown field `scoop`"),
        ({"round_to": {"stem": 0}}, r"Expected `int` >= 1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        read(**options)


def test_editors_are_told_the_criteria() -> None:
    schema = msgspec.json.schema(Prune)["$defs"]["Prune"]["properties"]
    assert schema["criterion"]["enum"] == sorted(criteria())


def test_a_new_criterion_is_one_file() -> None:
    """What the criteria need is read from their files and not imported: no NumPy here."""
    assert criteria()["fisher"].sees_images
    assert not criteria()["l1"].sees_images
    assert criteria()["random"].needs == "nothing"
    assert [name for name, criterion in criteria().items() if criterion.by_layer] == ["uniform"]
