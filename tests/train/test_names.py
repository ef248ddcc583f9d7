"""Names of parameters, and patterns for them."""

import pytest

from flaxcomp.errors import UserError
from flaxcomp.train.names import by_name, few, matching, rename

NAMES = ["blocks.0.conv.kernel", "blocks.1.conv.kernel", "blocks.1.bn.scale", "blocks.1.bn.mean", "blocks.10.conv.kernel",
         "logits.kernel", "logits.bias"]  # fmt: skip


def test_leaves_have_dotted_names() -> None:
    assert by_name({"b": {0: {"k": 1}, 10: {"k": 2}}, "a": 3}) == {"a": 3, "b.0.k": 1, "b.10.k": 2}


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("logits", 2), ("logits.bias", 1), ("blocks", 5), ("blocks.1", 3), ("blocks.*", 5), ("blocks.1*", 4), ("*", 7), ("**", 7),
     ("**.kernel", 4), ("*.kernel", 1), ("blocks.*.conv", 3), ("**.bn", 2)],
)  # fmt: skip
def test_a_pattern_is_for_whole_parts_of_names_and_all_inside(pattern: str, count: int) -> None:
    assert len(matching(pattern, NAMES, "key")) == count


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("logit.kernel", "Did you mean 'logits.kernel'"), ("logts", "Did you mean 'logits'"), ("conv", "There are blocks.0.conv"),
     ("ogits", "Did you mean 'logits'"), ("l+ogits", "Did you mean 'logits'")],
)  # fmt: skip
def test_a_pattern_for_nothing_is_refused_with_what_is_near(pattern: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        matching(pattern, NAMES, "train.phases[0].train")
    assert str(caught.value).startswith(f"train.phases[0].train: {pattern!r} matches no parameter.")
    assert near in str(caught.value)


def test_names_stay_without_rules() -> None:
    assert rename(NAMES, {}, "flax") == {name: name for name in NAMES}


def test_torch_calls_leaves_otherwise() -> None:
    assert list(rename(NAMES, {}, "torch").values()) == [
        "blocks.0.conv.weight", "blocks.1.conv.weight", "blocks.1.bn.weight", "blocks.1.bn.running_mean",
        "blocks.10.conv.weight", "logits.weight", "logits.bias",
    ]  # fmt: skip


def test_the_first_rule_that_matches_replaces_what_it_matches() -> None:
    rules = {"blocks.10.conv.kernel": "last/w", "blocks.*.conv": "features.*.0", "blocks.*.**": "f/*/**", "logits": "fc"}
    assert list(rename(NAMES, rules, "torch").values()) == [
        "features.0.0.weight", "features.1.0.weight", "f/1/bn.scale", "f/1/bn.mean", "last/w", "fc.weight", "fc.bias"
    ]  # fmt: skip


def test_two_names_never_become_one_and_every_rule_has_a_use() -> None:
    with pytest.raises(UserError, match=r"blocks.0.conv.kernel and blocks.1.conv.kernel would both be 'w.kernel'"):
        rename(NAMES, {"blocks.0.conv": "w", "blocks.1.conv": "w"}, "flax")
    with pytest.raises(UserError, match=r"train.init_from.names: 'fc' matches no parameter"):
        rename(NAMES, {"fc": "logits"}, "flax")


def test_few_of_many() -> None:
    assert few("cab") == "a, b, c"
    assert few(f"n{i}" for i in range(9)) == "n0, n1, n2, n3, n4 and 4 more"
