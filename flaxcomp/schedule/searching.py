"""The trials of a search in a run: what was asked for is in the store, before it is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from flaxcomp.errors import SweepFileError
from flaxcomp.store.frame import Row
from flaxcomp.store.lease import Lease
from flaxcomp.store.records import Store
from flaxcomp.sweep.expand import Point, Tally, expand
from flaxcomp.sweep.load import LoadedSweep
from flaxcomp.sweep.search import Tried, keys_of, suggest, values_of
from flaxcomp.sweep.spec import Sampler
from flaxcomp.sweep.trial import Catalog, Trial

_TOLD = ("finished", "stopped")


def merged(*trials: Sequence[Trial]) -> list[Trial]:
    """Trials that came one after the other, each once, in its first place and as it came last."""
    return list({trial.id: trial for some in trials for trial in some}.values())


class Search:
    """Makes trials of the points that a sampler suggests.

    Args:
        loaded: a sweep with `method: optuna`.
        catalog: knows data sets and models.
        store: of the run.
    """

    def __init__(self, loaded: LoadedSweep, catalog: Catalog, store: Store) -> None:
        self._loaded, self._catalog, self._store = loaded, catalog, store
        self._roles: dict[str, str] = {}  # of the trials that are known

    def begin(self, lease: Lease) -> list[Trial]:
        """The trials of all that was asked for before, or of the first batch, with those that they need.

        Raises:
            SweepFileError: the sweep's parameters are not those of the run any more.
        """
        (block,) = self._loaded.blocks
        points = [keys_of(block, row["point"]) for row in self._store.suggestions()]
        return merged([trial for point in points for trial in self._new(point)[0]]) or self.more(lease)

    def more(self, lease: Lease) -> list[Trial]:
        """The next batch, recorded; those already known left out. Empty when the sweep's `trials` are asked for.

        All trials before must have ended: finished ones are told with their figures, stopped ones with what they had reached,
        the others as having come to nothing.
        """
        sweep, (block,) = self._loaded.sweep, self._loaded.blocks
        batch, wanted = (sweep.sampler or Sampler()).batch, sweep.trials or 0
        while len(asked := self._store.suggestions()) < wanted:
            rows = {row["trial"]: row for row in self._store.frame(epochs=False).trials}
            tried = [Tried(row["point"], self._figures(row["point"], rows.get(row["trial_id"]))) for row in asked]
            count = min(batch - len(asked) % batch, wanted - len(asked))  # whole batches, however often `trials` was raised
            points = suggest(self._loaded, tried, count)
            found = [self._new(point) for point in points]
            new = merged([trial for trials, _ in found for trial in trials])
            values = [values_of(block, point) for point in points]
            with self._store.batch(lease):
                self._store.add_trials(lease, new)
                self._store.add_suggestions(lease, len(asked), list(zip(values, (own for _, own in found), strict=True)))
            if new:
                return new
        return []

    def _new(self, point: Point) -> tuple[list[Trial], str | None]:
        """The trials that a point adds, those before its own that it needs; and the id of its own, None if it is excluded."""
        tally = Tally()
        try:
            trials = list(expand(self._loaded, self._catalog, tally, [point]))
        except SweepFileError:
            if tally.excluded:
                return [], None
            raise
        # Known too are points that others needed before they were suggested themselves: these are trials from now on.
        new = [trial for trial in trials if self._roles.get(trial.id) not in ("trial", trial.role)]
        self._roles.update((trial.id, trial.role) for trial in new)
        return new, trials[-1].id

    def _figures(self, values: Mapping[str, Any], row: Row | None) -> tuple[float, ...] | None:
        if row is None or row["status"] not in _TOLD:
            return None
        figures = [row.get(metric.name, values.get(metric.name)) for metric in self._loaded.sweep.metrics]
        known = tuple(float(figure) for figure in figures if figure is not None)
        return known if len(known) == len(figures) else None
