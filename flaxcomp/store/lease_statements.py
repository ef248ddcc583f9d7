"""The statements behind the lease and the requests to its holder."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from flaxcomp.errors import UserError
from flaxcomp.store.lease import Lease, LeaseLostError, Owner, process_identity
from flaxcomp.store.schema import leases, requests
from flaxcomp.store.statements import Statements, mine

OWNER_COLUMNS = ("host", "pid", "process", "held", "acquired_at", "heartbeat_at", "ttl_s", "active_s")
BEAT = (
    leases.update()
    .where(mine(leases), leases.c.fence == sa.bindparam("given_fence"), leases.c.held)
    .values(heartbeat_at=sa.bindparam("at"))
)
LAST_OWNER = sa.select(leases.c.fence, *(leases.c[name] for name in OWNER_COLUMNS)).where(mine(leases)).with_for_update()


class LeaseStatements(Statements):
    """Who writes, and what is asked of it."""

    def check_lease(self, lease: Lease) -> None:
        """Count a heartbeat; the row stays locked until the transaction ends, so that nobody takes over amid a write.

        Raises:
            LeaseLostError: the lease was superseded or released.
        """
        if self._execute(BEAT, given_fence=lease.fence, at=self._now).rowcount != 1:
            _, owner = self._last_owner()
            why = f"{owner} has the run now" if owner is not None and owner.held else "it was released"
            raise LeaseLostError(f"This controller's lease has ended: {why}. It records nothing more and stops.")

    def take_lease(self, host: str, pid: int, ttl_s: float) -> Lease:
        """Raise the fence, which ends the lease before.

        Raises:
            UserError: its owner is at work.
        """
        fence, owner = self._last_owner()
        active_s = 0.0
        if owner is not None:
            if owner.alive(host=host, now=self._now):
                raise UserError(
                    f"A controller is at work on this run: {owner}. One controller writes a run: watch it with"
                    " `flaxcomp status`, end it with `flaxcomp stop`."
                )
            active_s = owner.active_s + (owner.heartbeat_at - owner.acquired_at if owner.held else 0.0)
        self._execute(
            leases.update()
            .where(mine(leases))
            .values(
                fence=fence + 1,
                held=True,
                host=host,
                pid=pid,
                process=process_identity(pid),
                acquired_at=self._now,
                heartbeat_at=self._now,
                ttl_s=ttl_s,
                active_s=active_s,
            )
        )
        self._drop_requests("stop")
        return Lease(self._run_id, fence + 1)

    def end_lease(self) -> None:
        active_s = leases.c.active_s + self._now - leases.c.acquired_at
        self._execute(leases.update().where(mine(leases)).values(held=False, active_s=active_s))
        self._drop_requests("stop")

    def _last_owner(self) -> tuple[int, Owner | None]:
        fence, *values = self._execute(LAST_OWNER).one()
        return fence, Owner(*values) if fence else None

    def request(self, kind: str, trial_ids: Sequence[str] | None) -> None:
        text = None if trial_ids is None else msgspec.json.encode(trial_ids).decode()
        self._insert(requests, [{"kind": kind, "trial_ids": text, "requested_at": self._now}])

    def take_retries(self) -> list[list[str] | None]:
        """Return what was asked to be tried again (None: everything), and forget it."""
        statement = sa.select(requests.c.id, requests.c.trial_ids).where(mine(requests), requests.c.kind == "retry")
        rows = self._execute(statement.order_by(requests.c.id)).all()
        self._execute(requests.delete().where(mine(requests), requests.c.id.in_([row.id for row in rows])))
        return [None if row.trial_ids is None else msgspec.json.decode(row.trial_ids, type=list[str]) for row in rows]

    def _drop_requests(self, kind: str) -> None:
        self._execute(requests.delete().where(mine(requests), requests.c.kind == kind))
