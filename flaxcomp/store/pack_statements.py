"""The statements behind packs and their attempts, which run at every event of a sweep."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flaxcomp.store.frame import TRIAL_COLUMNS, Row
from flaxcomp.store.lease import LateAttemptError
from flaxcomp.store.rows import clean, to_record
from flaxcomp.store.schema import attempts, epochs, failures, packs, trials
from flaxcomp.store.schema import pack_trials as members
from flaxcomp.store.statements import BATCH, mine
from flaxcomp.store.trial_statements import TrialStatements

if TYPE_CHECKING:
    from flaxcomp.sweep.plan import Pack

RESULT_COLUMNS = TRIAL_COLUMNS[1:]  # all but the status
EPOCH_COLUMNS = ("train_loss", "val_loss", "val_accuracy", "learning_rate", "images_per_second")

OF_PACK: sa.BindParameter[str] = sa.bindparam("of_pack")
OF_ATTEMPT: sa.BindParameter[int] = sa.bindparam("of_attempt")

LAST_SEQ = sa.select(sa.func.max(packs.c.seq)).where(mine(packs))
PACK = sa.select(packs.c.status, packs.c.attempt).where(mine(packs), packs.c.pack_id == OF_PACK)
SET_PACK = packs.update().where(mine(packs), packs.c.pack_id == OF_PACK)
BEGIN_PACK = SET_PACK.values(status="running", attempt=OF_ATTEMPT, worker=sa.bindparam("by_worker"))
LEAVE_PACK = SET_PACK.values(status=sa.bindparam("to_status"), worker=None)
LEFT_RUNNING = sa.select(packs.c.pack_id, packs.c.attempt).where(mine(packs), packs.c.status == "running")

# Trials are found by their ids alone: SQLite would take the index of their states, and walk over all pending ones.
MEMBERS = (
    sa.select(trials.c.trial_id, trials.c.status, trials.c.attempts)
    .join_from(members, trials, (trials.c.run_id == members.c.run_id) & (trials.c.trial_id == members.c.trial_id))
    .where(mine(members), members.c.pack_id == OF_PACK)
    .order_by(members.c.position)
)
SET_TRIAL = trials.update().where(mine(trials), trials.c.trial_id == sa.bindparam("of_trial"))
BEGIN_TRIAL = SET_TRIAL.values(status="running", attempts=trials.c.attempts + 1)
LEAVE_TRIAL = SET_TRIAL.values(status=sa.bindparam("to_status"))
FINISH_TRIAL = SET_TRIAL.values(
    status="finished",
    finished_at=sa.bindparam("at"),
    **{name: sa.bindparam(f"its_{name}") for name in (*RESULT_COLUMNS, "extra")},
)
END_ATTEMPT = (
    attempts.update()
    .where(mine(attempts), attempts.c.pack_id == OF_PACK, attempts.c.attempt == OF_ATTEMPT)
    .values(ended_at=sa.bindparam("at"), outcome=sa.bindparam("to_outcome"), error=sa.bindparam("for_error"))
)


class PackStatements(TrialStatements):
    """Packs are formed, started, and end in one way or another."""

    def form_packs(self, new: Iterable["Pack"]) -> None:
        wanted = {pack.id: pack for pack in new}
        known = {row.pack_id: row.status for row in self._known((packs.c.pack_id, packs.c.status), wanted.keys())}
        # A pack that was closed and is formed again (a trial tried again alone) is opened; its attempts go on counting.
        closed = [{"of_pack": id_, "to_status": "open"} for id_, status in known.items() if status == "closed"]
        self._execute_each(LEAVE_PACK, closed)
        last = self._execute(LAST_SEQ).scalar()
        seq = itertools.count(0 if last is None else last + 1)
        stream = (pack for id_, pack in wanted.items() if id_ not in known)
        while fresh := list(islice(stream, BATCH)):
            self._insert(
                packs,
                [
                    {"pack_id": pack.id, "seq": next(seq), "signature": pack.signature, "status": "open", "attempt": 0}
                    for pack in fresh
                ],
            )
            self._insert(
                members,
                [
                    {"pack_id": pack.id, "position": position, "trial_id": trial_id}
                    for pack in fresh
                    for position, trial_id in enumerate(pack.trial_ids)
                ],
            )

    def start_pack(self, pack_id: str, worker: str) -> int:
        status, attempt = self._pack(pack_id)
        if status != "open":
            raise ValueError(f"Only an open pack can be started, pack {pack_id} is {status}.")
        attempt += 1
        self._execute(BEGIN_PACK, of_pack=pack_id, of_attempt=attempt, by_worker=worker)
        self._execute_each(BEGIN_TRIAL, [{"of_trial": trial_id} for trial_id in self._members(pack_id, "pending")])
        row = {"pack_id": pack_id, "attempt": attempt, "worker": worker, "started_at": self._now, "outcome": "running"}
        self._insert(attempts, [row])
        return attempt

    def progress(self, pack_id: str, attempt: int, rows: Sequence[Row]) -> None:
        self._check_attempt(pack_id, attempt)
        key = ("trial", "epoch")
        records = [
            {"trial_id": row["trial"], "epoch": row["epoch"]}
            | to_record({name: value for name, value in row.items() if name not in key}, EPOCH_COLUMNS)
            for row in rows
        ]
        self._upsert(epochs, records, update=(*EPOCH_COLUMNS, "extra"))

    def finish_pack(self, pack_id: str, attempt: int, results: Mapping[str, Row]) -> None:
        self._check_attempt(pack_id, attempt)
        running = self._members(pack_id, "running")
        if set(running) != set(results):
            raise ValueError(
                f"Pack {pack_id} ends with one result for each trial it trained ({', '.join(sorted(running))}), "
                f"got results of {', '.join(sorted(results)) or 'none'}."
            )
        records = ((trial_id, to_record(result, RESULT_COLUMNS)) for trial_id, result in results.items())
        self._execute_each(
            FINISH_TRIAL,
            [
                {"of_trial": trial_id, "at": self._now} | {f"its_{name}": value for name, value in record.items()}
                for trial_id, record in records
            ],
        )
        self._end(pack_id, attempt, to_status="closed", outcome="finished")

    def fail_pack(self, pack_id: str, attempt: int, kind: str, error: str, statuses: Mapping[str, str]) -> set[str]:
        self._check_attempt(pack_id, attempt)
        running = self._members(pack_id, "running")
        if set(running) != set(statuses) or not set(statuses.values()) <= {"pending", "failed"}:
            raise ValueError(
                f"Pack {pack_id} fails with pending or failed for each trial it trained ({', '.join(sorted(running))}), "
                f"got {dict(statuses)}."
            )
        self._record_failures(pack_id, attempt, kind, running)
        self._execute_each(LEAVE_TRIAL, [{"of_trial": id_, "to_status": status} for id_, status in statuses.items()])
        self._end(pack_id, attempt, to_status="closed", outcome=kind, error=clean(error))
        return self._block(trial_id for trial_id, status in statuses.items() if status == "failed")

    def interrupt_pack(self, pack_id: str, attempt: int) -> None:
        self._check_attempt(pack_id, attempt)
        self._pause(pack_id, attempt, "interrupted")

    def close_pack(self, pack_id: str) -> None:
        if self._pack(pack_id)[0] == "running":
            raise ValueError(f"Pack {pack_id} is running: finish, fail or interrupt it instead.")
        self._execute(LEAVE_PACK, of_pack=pack_id, to_status="closed")

    def reopen_lost_packs(self) -> int:
        """Whatever a controller that is gone left running goes on later from its checkpoint."""
        lost = self._execute(LEFT_RUNNING).all()
        for pack_id, attempt in lost:
            self._record_failures(pack_id, attempt, "controller_lost", self._members(pack_id, "running"))
            self._pause(pack_id, attempt, "controller_lost")
        return len(lost)

    def _pause(self, pack_id: str, attempt: int, outcome: str) -> None:
        running = self._members(pack_id, "running")
        self._execute_each(LEAVE_TRIAL, [{"of_trial": trial_id, "to_status": "pending"} for trial_id in running])
        self._end(pack_id, attempt, to_status="open", outcome=outcome)

    def _record_failures(self, pack_id: str, attempt: int, kind: str, struck: Mapping[str, int]) -> None:
        row = {"pack_id": pack_id, "attempt": attempt, "kind": kind, "counted": True}
        self._insert(failures, [row | {"trial_id": id_, "trial_attempt": count} for id_, count in struck.items()])

    def _members(self, pack_id: str, status: str) -> dict[str, int]:
        """Trials of the pack in this state, and how often each was started."""
        rows = self._execute(MEMBERS, of_pack=pack_id)
        return {row.trial_id: row.attempts for row in rows if row.status == status}

    def _end(self, pack_id: str, attempt: int, *, to_status: str, outcome: str, error: str | None = None) -> None:
        self._execute(LEAVE_PACK, of_pack=pack_id, to_status=to_status)
        self._execute(END_ATTEMPT, of_pack=pack_id, of_attempt=attempt, at=self._now, to_outcome=outcome, for_error=error)

    def _pack(self, pack_id: str) -> tuple[str, int]:
        row = self._execute(PACK, of_pack=pack_id).one_or_none()
        if row is None:
            raise ValueError(f"No pack {pack_id} has been formed in this run.")
        return row.status, row.attempt

    def _check_attempt(self, pack_id: str, attempt: int) -> None:
        status, current = self._pack(pack_id)
        if status != "running" or attempt != current:
            raise LateAttemptError(
                f"Attempt {attempt} of pack {pack_id} has ended; the pack is {status} after attempt {current}."
            )
