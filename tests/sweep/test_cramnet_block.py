"""The block `cramnet`: what it refuses, and what of it makes no other trial."""

from typing import Any

import msgspec
import pytest

from flaxcomp.errors import UserError
from flaxcomp.sweep.compression.cramnet import Cramnet, SubProblems, check, effective
from flaxcomp.sweep.compression.facts import Facts

WIDTHS = (16, 16, 32, 32, 96)


def read(text: str) -> Cramnet:
    return msgspec.json.decode(text, type=Cramnet)


def test_the_network_that_was_found_is_fine_tuned_by_default() -> None:
    block = read('{"widths": [16, 16, 32, 32, 96]}')
    assert (block.then, block.widths, block.direction) == ("fine_tune", WIDTHS, "output_first")
    assert msgspec.json.decode(msgspec.json.encode(block), type=Cramnet) == block


@pytest.mark.parametrize("block", [Cramnet(), Cramnet(ratio=0.0), Cramnet(then="scratch", target_params=5)])
def test_a_block_that_changes_nothing_is_none(block: Cramnet) -> None:
    assert effective(block) is None


@pytest.mark.parametrize("block", [
    Cramnet(widths=WIDTHS), Cramnet(ratio=0.5), Cramnet(replace={"convolutions/1": "residual"}),
    Cramnet(widths=WIDTHS, direction="input_first", initialisation="largest", target_params=9, max_accuracy_loss=0.01),
])  # fmt: skip
def test_a_block_that_does_something_stays(block: Cramnet) -> None:
    assert effective(block) == block


@pytest.mark.parametrize(
    ("block", "same"),
    [
        (Cramnet(ratio=0.5, sub_problems=SubProblems(steps=9, epochs=3)),
         Cramnet(ratio=0.5, sub_problems=SubProblems(steps=9))),
        (
            Cramnet(ratio=0.5, then="scratch", sub_problems=SubProblems(epochs=9), direction="input_first",
                    initialisation="largest"),
            Cramnet(ratio=0.5, then="scratch"),
        ),
        (
            Cramnet(ratio=0.5, then="scratch", sub_problems=SubProblems(epochs=9), direction="input_first", target_params=9),
            Cramnet(ratio=0.5, then="scratch", direction="input_first", target_params=9),
        ),
    ],
)  # fmt: skip
def test_what_has_no_effect_makes_no_other_trial(block: Cramnet, same: Cramnet) -> None:
    assert effective(block) == same


def test_from_scratch_the_sub_problems_count_where_their_accuracy_decides() -> None:
    block = Cramnet(ratio=0.5, then="scratch", max_accuracy_loss=0.01, sub_problems=SubProblems(epochs=9))
    assert effective(block) == block


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"widths": [8], "ratio": 0.5}', "give `widths` or `ratio`, not both"),
        ('{"ratio": 1.0}', "< 1.0"),
        ('{"widths": []}', "length >= 1"),
        ('{"widths": [8, 0]}', ">= 1"),
        ('{"replace": {"convolutions/0": "dense"}}', "Invalid enum value 'dense'"),
        ('{"direction": "sideways"}', "Invalid enum value 'sideways'"),
        ('{"max_accuracy_loss": 1.5}', "<= 1.0"),
        ('{"learning_rates": 1}', "unknown field"),
    ],
)
def test_the_impossible_is_refused(text: str, words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        read(text)


@pytest.mark.parametrize(("model", "refused"), [
    ({"name": "wide", "widths": [8, 8]}, True), ({"name": "wide", "widths": [8, 8, 8]}, False), ({"name": "wide"}, False),
])  # fmt: skip
def test_as_many_widths_as_the_model_was_given(model: dict[str, Any], refused: bool) -> None:
    facts = Facts(labels=("0", "1"), model=model, images=1000)
    block = Cramnet(widths=(4, 4, 4))
    if not refused:
        check(block, facts)
        return
    with pytest.raises(UserError, match=r"cramnet\.widths must be as many as the 2 widths of wide, got 3"):
        check(block, facts)


def test_no_larger_batches_of_a_sub_problem_than_there_are_images() -> None:
    facts = Facts(labels=("0", "1"), model={"name": "wide"}, images=100)
    check(Cramnet(ratio=0.5, sub_problems=SubProblems(batch_size=100)), facts)
    check(Cramnet(ratio=0.5, then="scratch"), facts)  # solves none
    check(Cramnet(ratio=0.0), facts)
    with pytest.raises(UserError, match=r"cramnet\.sub_problems\.batch_size must be at most 100, .*, got 128"):
        check(Cramnet(ratio=0.5), facts)
