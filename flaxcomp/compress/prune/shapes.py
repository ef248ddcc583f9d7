"""Reshaping labels of which only the axes with channels are kept in full."""

import numpy as np

from flaxcomp.compress.prune.labels import Ids


def reshaped(ids: Ids, old: tuple[int, ...], new: tuple[int, ...]) -> Ids:
    """Reshape an activation's labels as its value is reshaped.

    Args:
        ids: of rank len(old), with size 1 along axes where nothing changes.
        old, new: shapes of the value before and after.

    Returns:
        Labels of rank len(new); axes that come of unchanging ones keep size 1.
    """
    sizes, shape = [], []
    for before, after in _segments(old, new):
        changes = any(ids.shape[axis] > 1 for axis in before)
        sizes += [old[axis] if changes else 1 for axis in before]
        shape += [new[axis] if changes else 1 for axis in after]
    return np.broadcast_to(ids, sizes).reshape(shape)


def _segments(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The finest runs of axes of `old` and of `new` that hold as many elements; together they are all axes in order."""
    segments: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        left, right = (old[i] if before else 1), (new[j] if after else 1)
        i, j = i + len(before), j + len(after)
        while left != right:
            if left < right:
                before.append(i)
                left, i = left * old[i], i + 1
            else:
                after.append(j)
                right, j = right * new[j], j + 1
        segments.append((before, after))
    return segments
