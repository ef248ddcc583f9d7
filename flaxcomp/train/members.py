"""The places of a pack's program: which trials come to it from packs that paused, and when it has more places than trials."""

from typing import Any

import numpy as np

from flaxcomp.checkpoint.packs import read_at
from flaxcomp.checkpoint.trees import Flat
from flaxcomp.store.paths import RunPaths
from flaxcomp.train.job import PackJob


def gather(job: PackJob) -> tuple[Flat, dict[str, Any]]:
    """The state of a pack whose trials paused in others, put together from the checkpoints of those.

    Returns:
        arrays and meta data as the pack's own checkpoint would have them.

    Raises:
        ValueError: one of them cannot be read; says why.
    """
    kept: dict[str, tuple[Flat, dict[str, Any]]] = {}
    for pack in dict.fromkeys(job.origins.values()):
        try:
            kept[pack] = read_at(RunPaths.at(job.root).pack(pack), job.origin_epoch)
        except ValueError as error:
            raise ValueError(f"the checkpoint of pack {pack} after epoch {job.origin_epoch}: {error}") from None
    places = [(pack, kept[pack][1]["trials"].index(trial)) for trial in job.configs for pack in [job.origins[trial]]]
    names = kept[places[0][0]][0]
    state = {name: np.stack([kept[pack][0][name][place] for pack, place in places]) for name in names}
    rows = {(row["trial"], row["epoch"]): row for _, meta in kept.values() for row in meta["rows"]}
    return state, {
        "epoch": job.origin_epoch,
        "step": 0,
        "seconds": 0.0,
        "before": [seconds_of(kept[pack][1])[place] for pack, place in places],
        "rows": [rows[trial, epoch] for epoch in range(1, job.origin_epoch + 1) for trial in job.configs],
        "best_accuracy": [kept[pack][1]["best_accuracy"][place] for pack, place in places],
    }


def seconds_of(meta: dict[str, Any]) -> list[float]:
    """How long each trial of a checkpoint has trained, its share of the packs that it was in."""
    trials = len(meta["trials"])
    return [before + meta["seconds"] / trials for before in meta.get("before") or [0.0] * trials]


def padded(state: Flat, size: int) -> Flat:
    """The arrays with so many places; the first trial fills those that no trial has."""
    return {name: np.concatenate([array, np.repeat(array[:1], size - len(array), 0)]) for name, array in state.items()}


class Sizes:
    """How many places a program was compiled for, and whether another number would pay.

    Compiling takes seconds. A pack that has become smaller uses the program it had, some places of which then compute what
    nobody reads, when that takes less time.
    """

    def __init__(self) -> None:
        self._compiled: dict[int, float] = {}  # seconds
        self._seconds = 0.0  # of a step, a place

    def compiled(self, size: int, seconds: float) -> None:
        self._compiled.setdefault(size, seconds)

    def trained(self, size: int, steps: int, seconds: float) -> None:
        self._seconds = seconds / (steps * size)

    def fitting(self, trials: int, steps: int) -> int:
        """How many places to take for so many trials that train so many steps."""
        larger = min((size for size in self._compiled if size >= trials), default=trials)
        saved = (larger - trials) * steps * self._seconds
        return larger if saved <= self._compiled.get(larger, 0.0) else trials
