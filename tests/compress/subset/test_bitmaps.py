"""The numbers of one layer, worked by hand, and what holds for all heat maps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flaxcomp.compress.subset.bitmaps import Removed, bitmap, candidates, channels, fused, largest
from flaxcomp.compress.subset.channels import alive_channels

# A layer of 2x2 positions and three channels; two classes. A channel is a column here: [[nw, ne], [sw, se]] one by one.
CAT = np.array([[[5, 0, 1], [0, 0, 1]], [[0, 0, 1], [2, 0, 1]]], np.float32)
DOG = np.array([[[0, 0, 1], [4, 0, 1]], [[0, 1, 1], [0, 0, 1]]], np.float32)

MAPS = arrays(np.float32, (5, 3, 2, 4), elements=st.floats(0, 8, width=32))  # of five classes


def test_bitmaps_fuse_to_what_any_class_needs() -> None:
    needed = bitmap(fused({3: CAT, 5: DOG, 7: DOG + 9}, [3, 5]), 2)
    np.testing.assert_array_equal(needed[..., 0], [[True, True], [False, True]])
    assert not needed[..., 1:].any()
    np.testing.assert_array_equal(needed, bitmap(CAT, 2) | bitmap(DOG, 2))


def test_compression_ratio_by_hand() -> None:
    heat = fused({0: CAT, 1: DOG}, [0, 1])
    needed = bitmap(heat, 2)
    removed = Removed.of(heat, needed, alive_channels(needed))
    # Twelve positions; two channels of four go wholly, and one position of the first: nine dormant, three left.
    assert (removed.positions, removed.whole, removed.part, removed.dormant) == (12, 2, 1, 9)
    assert removed.dormant_density == 0.75
    assert removed.compression_ratio == 4
    assert removed.silent == 4  # one of the first channel, three of the second
    # A channel that must stay is removed at all its positions instead: the same ratio, counted apart.
    held = Removed.of(heat, needed, np.array([True, True, False]))
    assert (held.whole, held.part, held.compression_ratio) == (1, 5, 4)


def test_nothing_removed_is_a_ratio_of_one() -> None:
    removed = Removed.of(CAT, bitmap(CAT, 0), np.ones(3, bool))
    assert (removed.dormant, removed.compression_ratio, removed.dormant_density) == (0, 1, 0)


def test_dense_layers_have_one_position_a_unit() -> None:
    heat = np.array([0, 3, 1, 0], np.float32)
    needed = bitmap(heat, 1)
    removed = Removed.of(heat, needed, alive_channels(needed))
    assert (removed.whole, removed.part, removed.compression_ratio) == (2, 0, 2)


def test_candidates_are_the_thresholds_that_differ() -> None:
    np.testing.assert_array_equal(candidates(CAT, partial=True), [0, 1, 2, 5])
    np.testing.assert_array_equal(candidates(CAT, partial=False), [0, 1, 5])  # the hottest position of each channel


@pytest.mark.parametrize("bound", range(9))
def test_search_finds_the_last_index_that_holds(bound: int) -> None:
    assert largest(9, lambda index: index <= bound, 32) == bound


def test_search_asks_no_more_often_than_it_may() -> None:
    asked: list[int] = []

    def holds(index: int) -> bool:
        asked.append(index)
        return index <= 700

    assert largest(1024, holds, 3) == 640
    assert asked == [512, 768, 640]
    assert largest(1, lambda _: pytest.fail("there is nothing to choose"), 8) == 0


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 8))
def test_search_returns_only_what_was_seen_to_hold(held: list[bool], steps: int) -> None:
    seen: set[int] = {0}

    def holds(index: int) -> bool:
        if held[index]:
            seen.add(index)
        return held[index]

    found = largest(len(held), holds, steps)
    assert found in seen
    assert found == max(seen)


@given(MAPS, st.sets(st.integers(0, 4), min_size=1), st.sets(st.integers(0, 4)), st.floats(0, 8, width=32))
def test_more_classes_need_all_that_fewer_do(maps: np.ndarray, few: set[int], more: set[int], threshold: float) -> None:
    by_class = dict(enumerate(maps))
    small = bitmap(fused(by_class, sorted(few)), threshold)
    large = bitmap(fused(by_class, sorted(few | more)), threshold)
    assert (small <= large).all()
    assert (alive_channels(small) <= alive_channels(large)).all()
    np.testing.assert_array_equal(small, np.any([bitmap(by_class[c], threshold) for c in few], 0))


@given(MAPS, st.floats(0, 8, width=32), st.floats(0, 8, width=32))
def test_a_higher_threshold_keeps_less(maps: np.ndarray, one: float, other: float) -> None:
    heat = fused(dict(enumerate(maps)), range(5))
    low, high = bitmap(heat, min(one, other)), bitmap(heat, max(one, other))
    assert (high <= low).all()
    counts = [Removed.of(heat, needed, alive_channels(needed)) for needed in (low, high)]
    assert counts[0].dormant <= counts[1].dormant
    assert counts[0].compression_ratio <= counts[1].compression_ratio


@given(MAPS, st.booleans())
def test_every_candidate_removes_more_than_the_one_before_and_none_all(maps: np.ndarray, partial: bool) -> None:
    heat = fused(dict(enumerate(maps)), range(5))
    of = heat if partial else channels(heat)
    kept = [int((of >= threshold).sum()) for threshold in candidates(heat, partial=partial)]
    assert kept[0] == of.size
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)
    assert kept[-1] >= 1
