import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flaxcomp.sweep.ids import canonical, flatten, plain, signature, trial_id
from flaxcomp.sweep.spec import Augment, Dataset, Distill, Optimizer, Schedule, Train, TrialConfig

BASE = TrialConfig(dataset=Dataset(name="mnist"), model={"name": "wide", "width": 4})

OPTIMIZERS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["adam", "rmsprop", "sgd"]),
        "learning_rate": st.sampled_from([1, 1.0, 1e-3, 0.1]),
        "weight_decay": st.sampled_from([0, 0.0, 1e-4]),
        "nesterov": st.booleans(),
    },
)
CONFIGS = st.fixed_dictionaries(
    {"dataset": st.just({"name": "mnist", "validation": {"fraction": 0.1}}), "model": st.just({"name": "wide", "width": 4})},
    optional={
        "seed": st.integers(0, 3),
        "train": st.fixed_dictionaries({}, optional={"epochs": st.integers(1, 3), "optimizer": OPTIMIZERS}),
        "distill": st.none()
        | st.fixed_dictionaries({"teacher": st.just("t")}, optional={"temperature": st.sampled_from([1, 3.0])}),
    },
)


def shuffled(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    rng.shuffle(keys)
    return {key: shuffled(value[key], rng) for key in keys}


@given(CONFIGS, st.randoms(use_true_random=False))
def test_the_canonical_form_is_independent_of_key_order_and_of_written_defaults(
    raw: dict[str, Any], rng: random.Random
) -> None:
    config = msgspec.convert(raw, TrialConfig)
    other = msgspec.convert(shuffled(raw, rng), TrialConfig)
    written_out = msgspec.convert(plain(config), TrialConfig)
    assert canonical(config) == canonical(other) == canonical(written_out)
    assert msgspec.json.decode(canonical(config), type=TrialConfig) == config


@given(CONFIGS, CONFIGS)
def test_equal_ids_mean_equal_configurations(a: dict[str, Any], b: dict[str, Any]) -> None:
    first, second = msgspec.convert(a, TrialConfig), msgspec.convert(b, TrialConfig)
    assert (trial_id(first, "f") == trial_id(second, "f")) == (first == second)


def test_the_canonical_form_in_full() -> None:
    # Numbers made at run time: msgspec's own omit_defaults would compare them by identity.
    optimizer = Optimizer(beta1=float("0.9"), learning_rate=1)
    config = replace(
        BASE, train=Train(epochs=int("1"), batch_size=64, optimizer=optimizer), distill=Distill(teacher="t", temperature=3)
    )
    assert canonical(config) == (
        b'{"dataset":{"name":"mnist"},"distill":{"teacher":"t","temperature":3.0},"model":{"name":"wide","width":4},'
        b'"train":{"batch_size":64,"optimizer":{"learning_rate":1.0}}}'
    )


def test_ids_are_those_of_the_first_release() -> None:
    """A change here makes every finished trial be trained again: raise RECIPE_VERSION only if that is meant."""
    assert trial_id(BASE, "f" * 64) == "f6a408857d6bd6f8"
    assert signature(BASE) == "40593abe022b5542"


def test_ids_depend_on_the_fingerprint_and_on_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {trial_id(BASE, "a"), trial_id(BASE, "b"), trial_id(replace(BASE, seed=1), "a")}
    monkeypatch.setattr("flaxcomp.sweep.ids.RECIPE_VERSION", 2)
    ids.add(trial_id(BASE, "a"))
    assert len(ids) == 4
    assert all(len(id_) == 16 and set(id_) <= set("0123456789abcdef") for id_ in ids)


DISTILLED = replace(BASE, distill=Distill(teacher="t"))
AUGMENTED = replace(DISTILLED, train=Train(augment=Augment(flip=True)))


@pytest.mark.parametrize(
    "changed",
    [
        replace(DISTILLED, seed=9),
        replace(DISTILLED, distill=Distill(teacher="t", temperature=20.0, hard_weight=0.0)),
        replace(DISTILLED, distill=Distill(teacher="another")),
        replace(
            DISTILLED,
            train=Train(
                optimizer=Optimizer(
                    learning_rate=1.0, weight_decay=0.1, momentum=0.9, beta1=0.8, beta2=0.9, decay=0.5, epsilon=1e-3
                )
            ),
        ),
    ],
)
def test_inputs_of_a_program_do_not_change_its_signature(changed: TrialConfig) -> None:
    assert signature(changed) == signature(DISTILLED)
    assert trial_id(changed, "f") != trial_id(DISTILLED, "f")


@pytest.mark.parametrize(
    "changed",
    [
        BASE,
        replace(DISTILLED, distill=Distill(teacher="t", loss="hinton")),
        replace(DISTILLED, model={"name": "wide", "width": 8}),
        replace(DISTILLED, dataset=Dataset(name="fashion_mnist")),
        replace(DISTILLED, dataset=Dataset(name="mnist", train_limit=100)),
        replace(DISTILLED, train=Train(epochs=2)),
        replace(DISTILLED, train=Train(batch_size=64)),
        replace(DISTILLED, train=Train(dtype="bfloat16")),
        replace(DISTILLED, train=Train(schedule=Schedule(name="cosine"))),
        replace(DISTILLED, train=Train(optimizer=Optimizer(name="sgd"))),
        replace(DISTILLED, train=Train(optimizer=Optimizer(nesterov=True))),
        AUGMENTED,
    ],
)
def test_what_compiles_differently_changes_the_signature(changed: TrialConfig) -> None:
    assert signature(changed) != signature(DISTILLED)


@pytest.mark.parametrize("augment", [Augment(pad=4), Augment(flip=True), Augment(brightness=1.0), Augment(contrast=(0.5, 1.5))])
def test_with_random_augmentation_the_teacher_is_part_of_the_program(augment: Augment) -> None:
    first = replace(DISTILLED, train=Train(augment=augment))
    assert signature(first) != signature(replace(first, distill=Distill(teacher="another")))
    assert signature(first) == signature(replace(first, distill=Distill(teacher="t", temperature=7.0)))


def test_flatten() -> None:
    config = {"model": {"name": "wide", "widths": [16, 32], "head": {"bias": True}}, "distill": None, "seed": 0, "train": {}}
    assert flatten(config) == {"model.name": "wide", "model.widths": "[16,32]", "model.head.bias": True, "seed": 0}
