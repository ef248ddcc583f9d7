"""Early stopping in a run: where packs pause, when a rung is decided on, and from which pack's checkpoint trials go on."""

import dataclasses
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flaxcomp.store.records import Store
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.stopping import EarlyStop
from flaxcomp.sweep.stopping.cohorts import cohort_of
from flaxcomp.sweep.trial import Trial
from flaxcomp.train.job import PackJob

_UNDER_WAY = ("pending", "running")
_ENDED = ("finished", "stopped")


@dataclass(frozen=True)
class Decision:
    """What becomes of the trials that came to a rung: true, it goes on."""

    rung: int
    verdicts: dict[str, bool]

    @property
    def stopped(self) -> list[str]:
        return [trial for trial, goes_on in self.verdicts.items() if not goes_on]

    @property
    def text(self) -> str:
        going_on = len(self.verdicts) - len(self.stopped)
        return f"early stopping after epoch {self.rung}: {going_on} of {len(self.verdicts)} trials go on"


class Rungs:
    """What is known of the trials of a run at the rungs of its rule.

    Args:
        spec: the rule; None: nothing pauses, but what has paused before goes on from there.
        store: has what was decided; read here, never written.
        trials: all that are wanted.
        needed: those whose networks others need: they are not stopped.
        statuses: of all trials.
    """

    def __init__(
        self,
        spec: EarlyStop | None,
        store: Store,
        trials: Sequence[Trial],
        needed: Collection[str],
        statuses: Mapping[str, str],
    ) -> None:
        self._spec, self._store = spec, store
        self._epochs = {trial.id: trial.config.train.total_epochs for trial in trials}
        self._cohort: dict[str, Hashable] = {}
        self._cohorts: dict[Hashable, list[str]] = {}
        for trial in trials if spec is not None else ():
            assert spec is not None
            cohort = cohort_of(spec, trial.config) if trial.role == "trial" and trial.id not in needed else None
            if cohort is not None:
                self._cohort[trial.id] = cohort
                self._cohorts.setdefault(cohort, []).append(trial.id)
        self._reached: dict[str, int] = {}  # the last rung that a trial has come to
        self._origin: dict[str, str] = {}  # the pack whose checkpoint it left there
        self._waiting: dict[Hashable, set[str]] = {}  # by cohort: trials on which nothing is decided yet
        self._left: set[str] = set()  # packs that may have become nobody's origin
        for row in store.rungs():
            self._come(row["trial_id"], row["epoch"], row["pack_id"])
            if row["goes_on"] is None and statuses[row["trial_id"]] == "pending":
                self._wait(row["trial_id"])

    # Planning.

    def groups(self, ready: Iterable[Trial]) -> list[list[Trial]]:
        """Trials that may share packs: those that go on after the same epoch, those that pause apart from those that do not.

        Who waits for a decision is left out.
        """
        found: dict[tuple[int, bool], list[Trial]] = {}
        for trial in ready:
            cohort = self._cohort.get(trial.id)
            if trial.id not in self._waiting.get(cohort, ()):
                found.setdefault((self._reached.get(trial.id, 0), cohort is None), []).append(trial)
        return list(found.values())

    def join(self, job: PackJob) -> PackJob:
        """The job with the checkpoints that its trials go on from, and the rung at which it pauses."""
        first = next(iter(job.configs))
        reached, pause_at = self._reached.get(first, 0), None
        if self._spec is not None and first in self._cohort:
            pause_at = self._spec.next_rung(reached, self._epochs[first])
        origins = {trial: self._origin[trial] for trial in job.configs} if reached else {}
        return dataclasses.replace(job, pause_at=pause_at, origins=origins, origin_epoch=reached)

    # Deciding.

    def came(self, pack: Pack, rung: int) -> None:
        """The trials of a pack wait at a rung."""
        for trial in pack.trial_ids:
            self._come(trial, rung, pack.id)
            self._wait(trial)

    def decide(self, statuses: Mapping[str, str]) -> Decision | None:
        """The decision on a rung that can be decided on now, if there is one; the caller records it and asks again."""
        for cohort, waiting in self._waiting.items():
            for rung in sorted({self._reached[trial] for trial in waiting}):
                if any(self._is_on_its_way(trial, rung, statuses) for trial in self._cohorts[cohort]):
                    continue
                assert self._spec is not None
                here = sorted(trial for trial in waiting if self._reached[trial] == rung)
                curves = self._store.curves(self._spec.metric, self._cohorts[cohort], rung)
                stopped = self._spec.stops(rung, curves, here)
                waiting.difference_update(here)
                return Decision(rung, {trial: trial not in stopped for trial in here})
        return None

    def left(self, statuses: Mapping[str, str]) -> set[str]:
        """Packs from whose checkpoints nobody goes on any more; each is told once."""
        if not self._left:
            return set()
        found = self._left.difference(pack for trial, pack in self._origin.items() if statuses[trial] not in _ENDED)
        self._left -= found
        return found

    def is_origin(self, pack: Pack) -> bool:
        """Whether trials of the pack go on from its own checkpoint: all of them went on together, as the same pack again."""
        return any(self._origin.get(trial) == pack.id for trial in pack.trial_ids)

    def _is_on_its_way(self, trial: str, rung: int, statuses: Mapping[str, str]) -> bool:
        """Whether it will yet have a value at the rung."""
        epochs = self._epochs[trial]
        return (
            statuses[trial] in _UNDER_WAY
            and self._reached.get(trial, 0) < rung
            and (epochs is None or epochs >= rung)
        )  # fmt: skip

    def _come(self, trial: str, rung: int, pack: str) -> None:
        self._left.update(filter(None, [self._origin.get(trial), pack]))
        self._reached[trial], self._origin[trial] = rung, pack

    def _wait(self, trial: str) -> None:
        cohort = self._cohort.get(trial)
        if cohort is not None:
            self._waiting.setdefault(cohort, set()).add(trial)
