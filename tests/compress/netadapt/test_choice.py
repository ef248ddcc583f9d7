"""Which candidate is taken, worked by hand."""

import pytest

from flaxcomp.compress.netadapt.choice import best


@pytest.mark.parametrize(
    ("accuracies", "saved", "taken"),
    [
        ([0.79, 0.76, 0.70], [1, 8, 10], 1),  # 0.01, 0.005 and 0.01 lost for each unit saved
        ([0.79, 0.78, 0.60], [1, 2, 20], 2),  # all lose 0.01 for a unit: the one that saves most
        ([0.81, 0.82, 0.70], [9, 1, 100], 1),  # some gain: the most accurate, whatever it saves
        ([0.80, 0.79], [1, 1000], 0),  # nothing lost is a gain
        ([0.82, 0.82], [1, 3], 1),  # equally accurate: the one that saves more
        ([0.7, 0.7], [2, 2], 0),  # equal: the first
    ],
)
def test_the_best_of_a_step(accuracies: list[float], saved: list[float], taken: int) -> None:
    assert best(0.80, accuracies, saved) == taken
