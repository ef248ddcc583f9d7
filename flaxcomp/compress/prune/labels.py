"""Names for channels while a program is read: integers that are united where channels must go together.

0 stands for no channel (constants, padding), a positive number for a channel, a negative one for "what meets this may not be
removed", with a reason.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


class Labels:
    """A union-find over channels, and which of them are frozen and why."""

    def __init__(self) -> None:
        self._parent = np.arange(1024, dtype=np.int32)
        self._count = 1
        self._reasons: list[str] = []
        self._frozen: dict[int, str] = {}

    def fresh(self, n: int) -> Ids:
        """`n` new labels."""
        while self._count + n > self._parent.size:
            self._parent = np.concatenate([self._parent, np.arange(self._parent.size, 2 * self._parent.size, dtype=np.int32)])
        self._count += n
        return np.arange(self._count - n, self._count, dtype=np.int32)

    def reason(self, text: str) -> int:
        """The negative label that freezes what it meets."""
        if text not in self._reasons:
            self._reasons.append(text)
        return -1 - self._reasons.index(text)

    def roots(self, ids: Ids) -> Ids:
        """The representative of each label's class; 0 and negative ones stand for themselves."""
        ids = np.asarray(ids)
        while True:
            above = np.where(ids > 0, self._parent[np.maximum(ids, 0)], ids)
            if (above == ids).all():
                return above
            ids = above

    def unite(self, one: Ids, other: Ids) -> None:
        """Unite labels one by one; the arrays broadcast. What meets a reason is frozen, what meets 0 is left alone."""
        pairs = np.stack([side.ravel() for side in np.broadcast_arrays(one, other)])
        pairs = np.unique(pairs[:, (pairs != 0).all(0) & (pairs > 0).any(0)], axis=1)
        for a, b in ((0, 1), (1, 0)):
            for label, reason in zip(*pairs[:, pairs[b] < 0][[a, b]].tolist(), strict=True):
                self._frozen.setdefault(label, self._reasons[-1 - reason])
        pairs = self.roots(pairs[:, (pairs > 0).all(0)])
        for a, b in pairs[:, pairs[0] != pairs[1]].T.tolist():
            a, b = self._find(a), self._find(b)
            self._parent[max(a, b)] = min(a, b)

    def meet(self, values: Sequence[Ids]) -> Ids:
        """What an element-wise operation yields: labels that meet are united, and a label beats none."""
        result = values[0]
        for other in values[1:]:
            one, other = np.broadcast_arrays(result, other)
            self.unite(one, other)
            result = np.where(one != 0, one, other)
        return result

    def freeze(self, ids: Ids, text: str) -> None:
        """Mark channels that may not be removed; the first reason stays."""
        for label in np.unique(ids[ids > 0]).tolist():
            self._frozen.setdefault(label, text)

    def frozen(self) -> dict[int, str]:
        """The reason of each representative whose class is frozen."""
        marks = np.fromiter(self._frozen, np.int32, len(self._frozen))
        reasons: dict[int, str] = {}
        for root, text in zip(self.roots(marks).tolist(), self._frozen.values(), strict=True):
            reasons.setdefault(root, text)
        return reasons

    def _find(self, label: int) -> int:
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = int(parent[label])
        return label
