"""The read side of the store: plain SQL that SQLite and PostgreSQL both take, run on a file or on a database."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import msgspec

from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS, Row
from flaxcomp.store.lease import Owner
from flaxcomp.sweep.compression.retraining import own_training
from flaxcomp.sweep.spec import Sweep, TrialConfig

STATUSES = ("pending", "running", "finished", "stopped", "failed", "blocked")
BATCH = 500


class Source(Protocol):
    """Where rows are read from."""

    name: str

    def read(self, sql: str, params: Mapping[str, Any]) -> list[Row]: ...
    def snapshot(self) -> AbstractContextManager[None]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class PackRow:
    """A pack that is not closed. `attempt` is the last one started (0: none); `worker` is None unless it runs."""

    id: str
    trial_ids: tuple[str, ...]
    signature: str
    attempt: int
    status: str
    worker: str | None


class Reading:
    """What anybody may ask of a run, while it is being written or after.

    Args:
        source: the database.
        run_id: the run.
    """

    def __init__(self, source: Source, run_id: str) -> None:
        self._source, self.run_id = source, run_id

    def _read(self, sql: str, **params: Any) -> list[Row]:
        return self._source.read(sql, {"run": self.run_id, **params})

    def _read_among(self, sql: str, ids: Iterable[str]) -> Iterator[Row]:
        """Read with `{ids}` in `sql` standing for a list of any length."""
        stream = iter(ids)
        while batch := list(islice(stream, BATCH)):
            names = {f"id{place}": id_ for place, id_ in enumerate(batch)}
            yield from self._read(sql.format(ids=", ".join(f":{name}" for name in names)), **names)

    # --- trials and packs

    def counts(self) -> dict[str, int]:
        """Trials by status; every status is a key."""
        rows = self._read("SELECT status, count(*) AS n FROM trials WHERE run_id = :run GROUP BY status")
        return dict.fromkeys(STATUSES, 0) | {row["status"]: row["n"] for row in rows}

    def statuses(self) -> dict[str, str]:
        rows = self._read("SELECT trial_id, status FROM trials WHERE run_id = :run ORDER BY seq")
        return {row["trial_id"]: row["status"] for row in rows}

    def pending(self) -> list[str]:
        """Ids of the trials that wait, in the order they were added; some may need others that are not finished."""
        rows = self._read("SELECT trial_id FROM trials WHERE run_id = :run AND status = 'pending' ORDER BY seq")
        return [row["trial_id"] for row in rows]

    def configs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Configurations as JSON of TrialConfig, defaults left out; unknown ids are left out."""
        rows = self._read_among("SELECT trial_id, config FROM trials WHERE run_id = :run AND trial_id IN ({ids})", ids)
        return {row["trial_id"]: row["config"].encode() for row in rows}

    def failures_of(self, trial_id: str) -> dict[str, int]:
        """How often the trial has failed, by kind, since it was added or reset by hand."""
        rows = self._read(
            "SELECT kind, count(*) AS n FROM failures WHERE run_id = :run AND trial_id = :trial AND counted GROUP BY kind",
            trial=trial_id,
        )
        return {row["kind"]: row["n"] for row in rows}

    def too_large(self) -> dict[str, tuple[int, int]]:
        """By signature: the smallest pack for which memory ran out, and how often that struck its most unlucky trial."""
        rows = self._read(
            "SELECT p.signature, min(sizes.n) AS size, max(struck.n) AS failures FROM attempts a"
            " JOIN packs p ON p.run_id = a.run_id AND p.pack_id = a.pack_id"
            " JOIN (SELECT pack_id, count(*) AS n FROM pack_trials WHERE run_id = :run GROUP BY pack_id) sizes"
            " ON sizes.pack_id = a.pack_id"
            " JOIN pack_trials m ON m.run_id = a.run_id AND m.pack_id = a.pack_id"
            " JOIN (SELECT trial_id, count(*) AS n FROM failures WHERE run_id = :run AND kind = 'out_of_memory' AND counted"
            " GROUP BY trial_id) struck ON struck.trial_id = m.trial_id"
            " WHERE a.run_id = :run AND a.outcome = 'out_of_memory' GROUP BY p.signature"
        )
        return {row["signature"]: (row["size"], row["failures"]) for row in rows}

    def open_packs(self) -> list[PackRow]:
        """Packs that are open or running, in the order they were formed."""
        packs = self._read("SELECT * FROM packs WHERE run_id = :run AND status IN ('open', 'running') ORDER BY seq")
        members = defaultdict[str, list[str]](list)
        for row in self._read(
            "SELECT m.pack_id, m.trial_id FROM packs p JOIN pack_trials m ON m.run_id = p.run_id AND m.pack_id = p.pack_id"
            " WHERE p.run_id = :run AND p.status IN ('open', 'running') ORDER BY m.pack_id, m.position"
        ):
            members[row["pack_id"]].append(row["trial_id"])
        kept = ("signature", "attempt", "status", "worker")
        return [PackRow(row["pack_id"], tuple(members[row["pack_id"]]), **{name: row[name] for name in kept}) for row in packs]

    def rungs(self) -> list[Row]:
        """Where `early_stop` decides: `trial_id, epoch, pack_id, goes_on` (None: not yet), a trial's epochs ascending."""
        return self._read("SELECT trial_id, epoch, pack_id, goes_on FROM rungs WHERE run_id = :run ORDER BY trial_id, epoch")

    def curves(self, metric: str, ids: Iterable[str], last: int) -> dict[str, list[float | None]]:
        """A column of the epochs 1 to `last`, or to a trial's last one; trials without epochs are left out."""
        sql = (
            f"SELECT trial_id, epoch, {metric} AS value FROM epochs WHERE run_id = :run AND trial_id IN ({{ids}})"
            f" AND epoch <= {last:d} ORDER BY trial_id, epoch"
        )
        curves: dict[str, list[float | None]] = {}
        for row in self._read_among(sql, ids):
            curves.setdefault(row["trial_id"], []).append(row["value"])
        return curves

    def suggestions(self) -> list[Row]:
        """The points that a search asked for, in their order: `point` (values by parameter), `trial_id` (None: excluded)."""
        rows = self._read("SELECT point, trial_id FROM suggestions WHERE run_id = :run ORDER BY number")
        return [row | {"point": msgspec.json.decode(row["point"])} for row in rows]

    def _members(self, pack_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Trials of packs, in their order."""
        sql = "SELECT pack_id, trial_id FROM pack_trials WHERE run_id = :run AND pack_id IN ({ids}) ORDER BY pack_id, position"
        members = defaultdict(list)
        for row in self._read_among(sql, pack_ids):
            members[row["pack_id"]].append(row["trial_id"])
        return {pack_id: tuple(trial_ids) for pack_id, trial_ids in members.items()}

    # --- the run

    def schema_version(self) -> int:
        return int(self._read("SELECT value FROM meta WHERE key = 'schema_version'")[0]["value"])

    def exists(self) -> bool:
        """Whether the store holds this run."""
        return bool(self._read("SELECT 1 FROM runs WHERE run_id = :run"))

    def name(self) -> str:
        return str(self._read("SELECT name FROM runs WHERE run_id = :run")[0]["name"])

    def sweep(self) -> Sweep:
        return msgspec.json.decode(self._read("SELECT sweep_json FROM runs WHERE run_id = :run")[0]["sweep_json"], type=Sweep)

    def owner(self) -> Owner | None:
        """The controller that holds or last held the lease; None before the first."""
        rows = self._read(
            "SELECT host, pid, process, held, acquired_at, heartbeat_at, ttl_s, active_s FROM leases"
            " WHERE run_id = :run AND fence > 0"
        )
        if not rows:
            return None
        return Owner(**rows[0] | {"held": bool(rows[0]["held"])})

    def stop_requested(self) -> bool:
        return bool(self._read("SELECT 1 FROM requests WHERE run_id = :run AND kind = 'stop' LIMIT 1"))

    def retry_requested(self) -> bool:
        return bool(self._read("SELECT 1 FROM requests WHERE run_id = :run AND kind = 'retry' LIMIT 1"))

    def events(self, limit: int = 100) -> list[Row]:
        """The last events, oldest first: `at` (seconds since 1970), `kind`, `text`."""
        rows = self._read("SELECT at, kind, text FROM events WHERE run_id = :run ORDER BY id DESC LIMIT :limit", limit=limit)
        return rows[::-1]

    def table(self, name: str, *, order: str) -> list[Row]:
        """All records of this run in a table of `schema.py`, as they are stored."""
        return self._read(f"SELECT * FROM {name} WHERE run_id = :run ORDER BY {order}")

    def failures(self) -> list[Row]:
        """Failed attempts in the order of their end: `trial, attempt` (of the trial), `kind, error, at` (s since 1970)."""
        return self._read(
            "SELECT f.trial_id AS trial, f.trial_attempt AS attempt, f.kind, a.error, a.ended_at AS at FROM failures f"
            " JOIN attempts a ON a.run_id = f.run_id AND a.pack_id = f.pack_id AND a.attempt = f.attempt"
            " WHERE f.run_id = :run ORDER BY a.ended_at, f.trial_id, f.trial_attempt"
        )

    def snapshot(self) -> AbstractContextManager[None]:
        """All reads inside see the run as it was at one moment."""
        return self._source.snapshot()

    # --- what `flaxcomp status` shows; each reads a few rows, however many trials there are

    def running(self) -> list[Row]:
        """A row a running pack: `pack, worker, attempt, trials, started_at, epoch, epochs`.

        `epoch` is the last recorded one, or 0; `epochs` how many there are in all, None where a phase is counted in steps.
        """
        packs = self._read("SELECT pack_id, worker, attempt, seq FROM packs WHERE run_id = :run AND status = 'running'")
        packs.sort(key=lambda pack: pack["seq"])
        ids = [pack["pack_id"] for pack in packs]
        started = {
            (row["pack_id"], row["attempt"]): row["started_at"]
            for row in self._read_among("SELECT * FROM attempts WHERE run_id = :run AND pack_id IN ({ids})", ids)
        }
        members = self._members(ids)
        trial_ids = [trial_id for trials in members.values() for trial_id in trials]
        reached = {
            row["trial_id"]: row["epoch"]
            for row in self._read_among(
                "SELECT trial_id, max(epoch) AS epoch FROM epochs"
                " WHERE run_id = :run AND trial_id IN ({ids}) GROUP BY trial_id",
                trial_ids,
            )
        }
        configs = self.configs(trials[0] for trials in members.values())
        return [
            {
                "pack": pack["pack_id"],
                "worker": pack["worker"],
                "attempt": pack["attempt"],
                "trials": len(trials),
                "started_at": started[pack["pack_id"], pack["attempt"]],
                "epoch": max(reached.get(trial_id, 0) for trial_id in trials),
                "epochs": _total_epochs(configs[trials[0]]),
            }
            for pack in packs
            if (trials := members[pack["pack_id"]])
        ]

    def last_failures(self, limit: int = 5) -> list[Row]:
        """A row a failed attempt, newest first: `trial` (one of them), `trials` (how many), `kind, error, at` (seconds)."""
        return self._read(
            "SELECT min(f.trial_id) AS trial, count(*) AS trials, f.kind, a.error, a.ended_at AS at FROM failures f"
            " JOIN attempts a ON a.run_id = f.run_id AND a.pack_id = f.pack_id AND a.attempt = f.attempt"
            " WHERE f.run_id = :run AND f.kind <> 'controller_lost' GROUP BY a.pack_id, a.attempt, f.kind, a.error, a.ended_at"
            " ORDER BY a.ended_at DESC, a.pack_id LIMIT :limit",
            limit=limit,
        )

    def best(self, column: str, *, largest: bool) -> Row | None:
        """The finished trial (`trial`, `value`) with the best `column` of trials, artifacts or measurements, if there is one.

        Emulated devices are left out: their figures rank with nobody's.
        """
        place = _table_of(column)
        if place is None:
            return None
        order = "DESC" if largest else "ASC"
        rows = self._read(
            f"SELECT trial_id AS trial, {column} AS value FROM {place} WHERE run_id = :run AND {column} IS NOT NULL"
            f"{' AND status = :finished AND role = :role' if place == 'trials' else ''}"
            f"{' AND NOT emulated' if place == 'measurements' else ''} ORDER BY {column} {order}, trial_id LIMIT 1",
            finished="finished",
            role="trial",
        )
        return rows[0] if rows else None


def _total_epochs(config: bytes) -> int | None:
    """Of a trial's own training; None where a phase is counted in steps, or nothing is trained."""
    train = own_training(msgspec.json.decode(config, type=TrialConfig))
    return None if train is None else train.total_epochs


def _table_of(column: str) -> str | None:
    if column in TRIAL_COLUMNS:
        return "trials"
    if column in ("size_bytes", "accuracy", "accuracy_drop"):
        return "artifacts"
    return "measurements" if column in MEASUREMENT_COLUMNS else None
