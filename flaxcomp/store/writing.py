"""The write side of the store within one transaction."""

import sqlalchemy as sa

from flaxcomp.store.decision_statements import DecisionStatements
from flaxcomp.store.frame import Row
from flaxcomp.store.lease import Lease
from flaxcomp.store.lease_statements import LeaseStatements
from flaxcomp.store.rows import clean, to_record
from flaxcomp.store.schema import artifacts, events, measurements, runs
from flaxcomp.store.statements import mine


class Writing(LeaseStatements, DecisionStatements):
    """Everything that can be written; the caller checks the lease first (`check_lease`)."""

    def acquire(self, host: str, pid: int, ttl_s: float) -> Lease:
        lease = self.take_lease(host, pid, ttl_s)
        self._log_controller(f"process {pid} on {host} began", self.reopen_lost_packs())
        return lease

    def release(self) -> None:
        lost = self.reopen_lost_packs()
        self.end_lease()
        self._log_controller("ended", lost)

    def _log_controller(self, text: str, lost: int) -> None:
        self.log_event("controller", text + (f"; packs left running and open again: {lost}" if lost else ""))

    def apply_retries(self) -> int:
        return sum(self.reset_failed(trial_ids) for trial_ids in self.take_retries())

    def add_artifact(self, row: Row) -> None:
        self._add_file(artifacts, row)

    def add_measurement(self, row: Row) -> None:
        self._add_file(measurements, row)

    def _add_file(self, table: sa.Table, row: Row) -> None:
        row = {"trial_id" if name == "trial" else name: value for name, value in row.items()}
        record = to_record(row, [column.name for column in table.columns if column.name not in ("run_id", "extra")])
        record["artifact"] = record["artifact"] or ""  # part of the key
        self._upsert(table, [record], update=tuple(column.name for column in table.columns if not column.primary_key))

    def log_event(self, kind: str, text: str) -> None:
        self._insert(events, [{"at": self._now, "kind": kind, "text": clean(text)}])

    def update_sweep(self, sweep_text: str, sweep_json: bytes) -> None:
        self._execute(runs.update().where(mine(runs)).values(sweep_text=sweep_text, sweep_json=sweep_json.decode()))
