"""Which candidate of a step becomes the next network."""

from collections.abc import Sequence


def best(before: float, accuracies: Sequence[float], saved: Sequence[float]) -> int:
    """The number of the best candidate (Greffe 2019, algorithm 4): where some lose no accuracy the most accurate of them, else
    the one with the smallest ratio of accuracy lost to cost saved.

    Args:
        before: the current network's accuracy on the held-out images.
        accuracies: of the candidates after their fine-tuning, likewise.
        saved: what each saves, all above 0. Of equally good ones the one that saves more is taken, then the first.
    """
    numbers = range(len(accuracies))
    if max(accuracies) >= before:
        return max(numbers, key=lambda i: (accuracies[i], saved[i], -i))
    return min(numbers, key=lambda i: ((before - accuracies[i]) / saved[i], -saved[i], i))
