"""The union-find under the coupling, and reshaping of labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.compress.prune.labels import Labels
from flaxcomp.compress.prune.shapes import reshaped


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_roots_are_those_of_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    labels = Labels()
    ids = labels.fresh(12)
    classes = [{i} for i in range(12)]
    for a, b in pairs:
        labels.unite(ids[a], ids[b])
        joined = classes[a] | classes[b]
        for i in joined:
            classes[i] = joined
    roots = labels.roots(ids)
    assert [{int(i) for i in np.flatnonzero(roots == root)} for root in roots] == classes


def test_no_channel_takes_the_other_and_reasons_freeze() -> None:
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(3)
    met = labels.meet([np.append(a, 0), b])
    np.testing.assert_array_equal(labels.roots(met), labels.roots(b))
    assert not labels.frozen()
    labels.unite(np.full(3, labels.reason("why"), np.int32), np.array([0, b[1], 0]))
    assert labels.frozen() == {int(labels.roots(b)[1]): "why"}
    labels.freeze(a, "later")
    assert labels.frozen()[int(labels.roots(a)[0])] == "later"
    assert labels.frozen()[int(labels.roots(a)[1])] == "why", "the first reason stays"


def test_many_labels() -> None:
    labels = Labels()
    ids = labels.fresh(5000)
    labels.unite(ids[:-1], ids[1:])
    assert set(labels.roots(ids).tolist()) == {int(ids[0])}
    assert labels.fresh(3).tolist() == [5001, 5002, 5003]


@pytest.mark.parametrize(
    ("full", "old", "new"),
    [
        ((1, 1, 1, 6), (1, 2, 2, 6), (1, 24)),
        ((1, 1, 1, 6), (1, 2, 2, 6), (1, 4, 6)),
        ((1, 1, 1, 6), (2, 2, 2, 6), (2, 2, 2, 3, 2)),
        ((1, 1, 1, 6), (1, 2, 2, 6), (1, 4, 6, 1)),
        ((1, 2, 1, 1), (1, 2, 3, 1), (6,)),
        ((1, 1), (4, 5), (20,)),
    ],
)
def test_reshaped_labels_are_those_of_the_reshaped_value(
    full: tuple[int, ...], old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    ids = np.arange(1, 1 + np.prod(full), dtype=np.int32).reshape(full)
    found = reshaped(ids, old, new)
    np.testing.assert_array_equal(np.broadcast_to(found, new), np.broadcast_to(ids, old).reshape(new))
