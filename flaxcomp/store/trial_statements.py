"""The statements behind trials and what they need of each other."""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flaxcomp.store.frame import Row
from flaxcomp.store.rows import to_json
from flaxcomp.store.schema import failures, needs, trials
from flaxcomp.store.statements import BATCH, Statements, batches, mine

if TYPE_CHECKING:
    from flaxcomp.sweep.trial import Trial

FAILED = sa.select(trials.c.trial_id).where(mine(trials), trials.c.status == "failed")
COUNT_PENDING = sa.select(sa.func.count()).select_from(trials).where(mine(trials), trials.c.status == "pending")
BLOCK = trials.update().where(mine(trials), trials.c.trial_id == sa.bindparam("of_trial")).values(status="blocked")
LAST_SEQ = sa.select(sa.func.max(trials.c.seq)).where(mine(trials))


class TrialStatements(Statements):
    """Trials are added, reset and blocked."""

    def add_trials(self, new: Iterable["Trial"]) -> int:
        wanted = {trial.id: trial for trial in new}
        known = {row.trial_id: row.role for row in self._known((trials.c.trial_id, trials.c.role), wanted.keys())}
        promoted = [id_ for id_, role in known.items() if role != "trial" and wanted[id_].role == "trial"]
        for batch in batches(promoted):
            self._execute(trials.update().where(mine(trials), trials.c.trial_id.in_(batch)).values(role="trial"))
        last = self._execute(LAST_SEQ).scalar()
        first = seq = 0 if last is None else last + 1
        stream = (trial for id_, trial in wanted.items() if id_ not in known)
        while fresh := list(islice(stream, BATCH)):
            self._insert(trials, [_record(trial, seq + place) for place, trial in enumerate(fresh)])
            self._insert(needs, [{"trial_id": trial.id, "needs_id": need} for trial in fresh for need in trial.needs])
            seq += len(fresh)
        self._block(self._failed())
        return seq - first

    def set_model_facts(self, trial_id: str, params: int, trainable_params: int, macs: int | None) -> None:
        self._execute(
            trials.update()
            .where(mine(trials), trials.c.trial_id == trial_id)
            .values(params=params, trainable_params=trainable_params, macs=macs)
        )

    def reset_failed(self, trial_ids: Iterable[str] | None) -> int:
        """Failed trials (of `trial_ids` and their ancestors) become pending, and so does what only they had blocked."""
        failed = reset = self._failed()
        if trial_ids is not None:
            wanted = set(trial_ids)
            reset = failed & (wanted | self._ancestors(wanted))
        before = self._execute(COUNT_PENDING).scalar_one()
        for batch in batches(reset):
            self._execute(failures.update().where(mine(failures), failures.c.trial_id.in_(batch)).values(counted=False))
        self.repeat(reset)
        self._execute(trials.update().where(mine(trials), trials.c.status == "blocked").values(status="pending"))
        self._block(failed - reset)
        return int(self._execute(COUNT_PENDING).scalar_one() - before)

    def repeat(self, trial_ids: Iterable[str]) -> None:
        for batch in batches(trial_ids):
            self._execute(trials.update().where(mine(trials), trials.c.trial_id.in_(batch)).values(status="pending"))

    def _failed(self) -> set[str]:
        return set(self._execute(FAILED).scalars())

    def _block(self, failed: Iterable[str]) -> set[str]:
        """Pending trials that need one of `failed`, directly or through others that wait, become blocked; return them all."""
        edge, seen = set(failed), set[str]()
        while edge:
            waiting: set[str] = set()
            for batch in batches(edge):
                rows = self._execute(
                    sa.select(trials.c.trial_id, trials.c.status)
                    .join_from(needs, trials, (trials.c.run_id == needs.c.run_id) & (trials.c.trial_id == needs.c.trial_id))
                    .where(mine(needs), needs.c.needs_id.in_(batch))
                )
                waiting |= {row.trial_id for row in rows if row.status in ("pending", "blocked")}
            edge = waiting - seen
            seen |= edge
            self._execute_each(BLOCK, [{"of_trial": trial_id} for trial_id in edge])
        return seen

    def _ancestors(self, ids: Iterable[str]) -> set[str]:
        """Whatever `ids` need, directly or through others."""
        edge, seen = set(ids), set[str]()
        while edge:
            found: set[str] = set()
            for batch in batches(edge):
                found.update(
                    self._execute(sa.select(needs.c.needs_id).where(mine(needs), needs.c.trial_id.in_(batch))).scalars()
                )
            edge = found - seen
            seen |= edge
        return seen


def _record(trial: "Trial", seq: int) -> Row:
    return {
        "trial_id": trial.id,
        "seq": seq,
        "role": trial.role,
        "status": "pending",
        "signature": trial.signature,
        "config": to_json(trial.config),
        "attempts": 0,
    }
