import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flaxcomp.train.metrics import classification_metrics

counts = arrays(np.int64, st.integers(2, 6).map(lambda m: (m, m)), elements=st.integers(0, 50))


def test_worked_example() -> None:
    """Two classes: 8 of 10 zeros and 15 of 20 ones found. a[i, j]: truly j, predicted i."""
    figures = classification_metrics([[8, 5], [2, 15]])
    assert figures["accuracy"] == pytest.approx(23 / 30)
    assert figures["precision"] == pytest.approx((8 / 13 + 15 / 17) / 2)
    assert figures["recall"] == pytest.approx((8 / 10 + 15 / 20) / 2)
    p, r = figures["precision"], figures["recall"]
    assert figures["f1"] == pytest.approx(2 * p * r / (p + r))


def test_a_class_never_predicted_counts_as_zero_precision() -> None:
    assert classification_metrics([[5, 5], [0, 0]])["precision"] == pytest.approx(0.25)
    assert classification_metrics([[0, 0], [0, 0]]) == {"accuracy": 0.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


@given(counts)
def test_transposing_swaps_precision_and_recall(a: np.ndarray) -> None:
    one, other = classification_metrics(a), classification_metrics(a.T)
    assert one["precision"] == other["recall"]
    assert one["f1"] == pytest.approx(other["f1"])
    assert all(0 <= value <= 1 for value in one.values())


@given(counts, st.randoms())
def test_naming_the_classes_otherwise_changes_nothing(a: np.ndarray, random: st.DataObject) -> None:
    order = list(range(len(a)))
    random.shuffle(order)
    assert classification_metrics(a[np.ix_(order, order)]) == pytest.approx(classification_metrics(a))
