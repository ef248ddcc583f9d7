"""Which classes are kept."""

import numpy as np

from flaxcomp.sweep.compression.subset import Subset, numbers, removed_count


def kept(block: Subset, labels: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers of the classes to keep, ascending.

    With a share to remove, the first so many of a random order that `class_seed` fixes go: of two shares with one seed, the
    larger one removes all that the smaller one does.

    Args:
        block: checked against the labels.
        labels: the names of all classes.
    """
    if block.classes is not None:
        return numbers(block.classes, labels)
    assert block.remove_fraction is not None, "one of the two is given"
    # Bit generator, seed sequence and RandomState are frozen by NumPy's policy.
    order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(block.class_seed))).permutation(len(labels))
    return tuple(sorted(order[removed_count(block.remove_fraction, len(labels)) :].tolist()))
