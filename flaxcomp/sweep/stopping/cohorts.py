"""Which trials `early_stop` compares with which, and how many of them it lets train to their end."""

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

import msgspec

from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.sweep.stopping import EarlyStop
from flaxcomp.sweep.trial import Trial


def cohort_of(spec: EarlyStop, config: TrialConfig) -> Hashable | None:
    """What the trials of a cohort have in common; None for one that no rule stops, since it makes a network smaller.

    Those whose networks others need (teachers) are not stopped either, which their configuration does not tell.
    """
    if method_of(config) is not None:
        return None
    return () if spec.compare == "sweep" else (config.dataset, msgspec.json.encode(config.model, order="sorted"))


class Ending(NamedTuple):
    """How much of a sweep is trained, if all trials of a cohort come together and none fails.

    Attributes:
        trials: all trainings, those included that nobody stops.
        fewest: how many of them are trained to their end at least.
        epochs: of all of them.
        fewest_epochs: of these are trained at least. Trainings with a phase in steps are left out of both.
    """

    trials: int
    fewest: int
    epochs: int
    fewest_epochs: int


class Cohorts:
    """Counts the trials of a plan by cohort."""

    def __init__(self, spec: EarlyStop) -> None:
        self._spec = spec
        self._place: dict[str, tuple[Hashable | None, int | None]] = {}  # of each trial: cohort and epochs
        self._places: dict[tuple[Hashable | None, int | None], tuple[Hashable | None, int | None]] = {}  # each of them once
        self._needed: set[str] = set()

    def add(self, trial: Trial) -> None:
        cohort = cohort_of(self._spec, trial.config) if trial.role == "trial" else None
        place = cohort, trial.config.train.total_epochs
        self._place[trial.id] = self._places.setdefault(place, place)
        self._needed.update(trial.needs)

    def ending(self) -> Ending:
        """What the trials so far come to."""
        cohorts: dict[Hashable | None, Counter[int | None]] = {}
        for trial, (cohort, epochs) in self._place.items():
            cohorts.setdefault(None if trial in self._needed else cohort, Counter())[epochs] += 1
        fewest = fewest_epochs = 0
        for cohort, lengths in cohorts.items():
            least = self._all(lengths) if cohort is None else self._least(lengths)
            fewest, fewest_epochs = fewest + least[0], fewest_epochs + least[1]
        total = sum(self._all(lengths)[1] for lengths in cohorts.values())
        return Ending(len(self._place), fewest, total, fewest_epochs)

    def _all(self, lengths: Counter[int | None]) -> tuple[int, int]:
        return lengths.total(), sum(count * (epochs or 0) for epochs, count in lengths.items())

    def _least(self, lengths: Counter[int | None]) -> tuple[int, int]:
        """How many of a cohort are trained to their end, and how many epochs of it, at least."""
        if len(lengths) > 1 or None in lengths:  # the best at a rung may be those that last no longer
            return 1, sum(count * min(self._spec.grace_epochs, epochs or 0) for epochs, count in lengths.items())
        ((epochs, count),) = lengths.items()
        assert epochs is not None
        trained = before = 0
        for rung, going_on in self._spec.fewest(count, epochs):
            trained += count * (rung - before)
            before, count = rung, going_on
        return count, trained + count * (epochs - before)
