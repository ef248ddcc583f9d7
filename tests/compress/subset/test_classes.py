"""Which classes are kept."""

from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.compress.subset.classes import kept
from flaxcomp.sweep.compression.subset import Subset

LABELS = tuple("abcdefghij")


def test_draws_are_fixed_by_their_seed() -> None:
    """These are written down because trials are known by the seed, not by the classes."""
    drawn = [kept(Subset(remove_fraction=0.7, class_seed=seed), LABELS) for seed in range(3)]
    assert drawn == [(2, 4, 9), (2, 4, 5), (0, 4, 7)]
    assert kept(Subset(classes=("c", 0)), LABELS) == (0, 2)


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9))
def test_a_larger_share_removes_all_that_a_smaller_one_does(seed: int, one: int, other: int) -> None:
    few, many = (
        kept(Subset(remove_fraction=share / 10, class_seed=seed), LABELS) for share in (max(one, other), min(one, other))
    )
    assert set(few) <= set(many)
    assert len(few) == 10 - max(one, other)
