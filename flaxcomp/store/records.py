"""The records of one run: `Store.create` for the controller, which writes, `Store.open` for everybody else.

SQLAlchemy takes a third of a second to import: only what writes or reads from a server does so, hence the imports in functions.
"""

import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from flaxcomp.errors import UserError
from flaxcomp.store import migrations
from flaxcomp.store.frame import Row, RunFrame
from flaxcomp.store.frames import read_frame
from flaxcomp.store.lease import Lease, Owner
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.reading import Reading, Source
from flaxcomp.store.run_file import RunFile, claim_run_file, read_run_file, write_sweep
from flaxcomp.store.sqlite_file import SqliteFile

if TYPE_CHECKING:
    from flaxcomp.store.database import Database
    from flaxcomp.store.writing import Writing
    from flaxcomp.sweep.plan import Pack
    from flaxcomp.sweep.trial import Trial

Clock = Callable[[], float]


class Store(Reading):
    """One run's records. Threads may share it.

    SQLite serves the processes of one host, and no network file system: for readers elsewhere the records belong in PostgreSQL.

    A controller calls `acquire` and hands the lease to every write. Each write is one transaction, durable when the call
    returns; `batch` makes one of several. A write under a lease that was superseded raises LeaseLostError and changes nothing.

    Attributes:
        run_id: names the run in the store.
        url: of the PostgreSQL database, without its password, or the path of the SQLite file.
    """

    def __init__(self, paths: RunPaths, file: RunFile, source: Source, database: "Database | None", clock: Clock) -> None:
        super().__init__(source, file.run_id)
        self.url = file.store_url or str(paths.sqlite_file)
        self._paths, self._file, self._database, self._clock = paths, file, database, clock
        self._batch: Lease | None = None  # of the batch that is open

    @classmethod
    def create(
        cls, paths: RunPaths, *, name: str, sweep_text: str, sweep_json: bytes, overrides: Sequence[str] = (),
        url: str | None = None, clock: Clock = time.time,
    ) -> Self:  # fmt: skip
        """Make the run, or open it for writing if it is there; a store of an older schema version is migrated.

        Args:
            paths: of the run folder, which is made.
            name: the sweep's name.
            sweep_text: the sweep file byte for byte, written to the run folder too.
            sweep_json: the checked `Sweep` as JSON, overrides included.
            overrides: the `--set` that changed the file, written to the run folder too.
            url: `postgresql://...`; None for SQLite in the run folder, or for what an existing run says. A password in it is
                used but not written down: whoever reads the run takes it from PGPASSWORD or ~/.pgpass.
            clock: seconds since 1970.

        Raises:
            UserError: the folder holds another sweep's run or one in another store, the store is of a newer schema version,
                damaged, out of reach, or the disk is full.
        """
        from flaxcomp.store import database as databases

        given = None if url is None else databases.parse_url(url)
        shown = None if given is None else databases.without_password(given)
        if given is not None and not paths.run_file.exists():
            databases.check_reachable(given)  # or the folder would be bound to a server that is not there
        file = claim_run_file(paths, RunFile(secrets.token_hex(8), name, shown, clock()))
        if file.name != name:
            raise UserError(
                f"{paths.root} holds a run of the sweep {file.name!r}, got {name!r}: give each sweep a folder of its own."
            )
        if given is not None and file.store_url != shown:
            place = file.store_url or "SQLite in the run folder"
            raise UserError(
                f"The records of {paths.root} are in {place}, got {shown}: leave the store out, or use a new run folder."
            )
        database = databases.connect(paths, file.store_url, given)
        store = cls(paths, file, database, database, clock)
        try:
            with database.transaction():  # one at a time, of several programs that create the run
                database.prepare(clock())
                database.add_run(file.run_id, name, sweep_text, sweep_json, clock())
                if not paths.sweep_file.exists():
                    write_sweep(paths, sweep_text, overrides)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, paths: RunPaths, *, clock: Clock = time.time) -> Self:
        """Open an existing run to read it, to ask its controller for something, or to write to it under a lease.

        Raises:
            UserError: not a run folder, or a store that is damaged, out of reach, or of another schema version.
        """
        file = read_run_file(paths)
        source: Source
        if file.store_url is None:
            source, database = SqliteFile(paths.sqlite_file), None
        else:
            from flaxcomp.store import database as databases

            source = database = databases.connect(paths, file.store_url, None)
        store = cls(paths, file, source, database, clock)
        migrations.check(store.schema_version(), source.name)
        if not store.exists():
            store.close()
            raise UserError(f"{source.name} has no records of run {file.run_id}, which {paths.run_file} names.")
        return store

    def close(self) -> None:
        """Let go of files and connections."""
        self._source.close()
        if self._database is not None:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the lease

    def controller(self) -> Owner | None:
        """The controller at work; None if there is none, as far as this host can tell."""
        owner = self.owner()
        return owner if owner is not None and owner.alive(host=socket.gethostname(), now=self._clock()) else None

    def active_s(self) -> float:
        """Seconds that controllers have worked on this run."""
        owner = self.owner()
        if owner is None or not owner.held:
            return 0.0 if owner is None else owner.active_s
        end = self._clock() if self.controller() is not None else owner.heartbeat_at
        return owner.active_s + end - owner.acquired_at

    def acquire(self, *, host: str, pid: int, ttl_s: float = 30.0) -> Lease:
        """Become the run's controller; packs that the last one left running are open again, their trials pending.

        Every write counts as a heartbeat; `renew` is one without a write.

        Args:
            host: this machine, `socket.gethostname()`.
            pid: this process; a dead one on the same host is superseded at once.
            ttl_s: seconds after the last heartbeat when another may take over. Each host goes by its own clock: keep it well
                above their difference.

        Raises:
            UserError: another controller is at work; names it.
        """
        with self._writing() as writing:
            return writing.acquire(host, pid, ttl_s)

    def renew(self, lease: Lease) -> None:
        """Tell that the controller lives."""
        with self._fenced(lease):
            pass

    def release(self, lease: Lease) -> None:
        """Stop being the controller. Requests to stop have been met with this."""
        with self._fenced(lease) as writing:
            writing.release()

    @contextmanager
    def batch(self, lease: Lease) -> Iterator[None]:
        """Make one transaction of the writes inside: durable together at the end, or undone together by an exception.

        LateAttemptError may be caught inside: the refused write has changed nothing.
        """
        with self._fenced(lease):
            self._batch = lease
            try:
                yield
            finally:
                self._batch = None

    @contextmanager
    def _writing(self) -> Iterator["Writing"]:
        from flaxcomp.store import database as databases
        from flaxcomp.store.writing import Writing

        if self._database is None:
            self._database = databases.connect(self._paths, self._file.store_url, None)
        with self._database.transaction() as connection:
            yield Writing(connection, self.run_id, self._clock())

    @contextmanager
    def _fenced(self, lease: Lease) -> Iterator["Writing"]:
        with self._writing() as writing:
            if lease != self._batch:  # which was checked in this very transaction, for other threads wait for its end
                writing.check_lease(lease)
            yield writing

    # --- trials

    def add_trials(self, lease: Lease, trials: Iterable["Trial"]) -> int:
        """Add those that are new, pending (or blocked, if one they need has failed); return how many.

        Known ones keep their records; a dependency that is now wanted for itself gets the role "trial".
        """
        with self._fenced(lease) as writing:
            return writing.add_trials(trials)

    def set_model_facts(self, lease: Lease, trial_id: str, params: int, trainable_params: int, macs: int | None) -> None:
        with self._fenced(lease) as writing:
            writing.set_model_facts(trial_id, params, trainable_params, macs)

    def reset_failed(self, lease: Lease, trial_ids: Iterable[str] | None = None) -> int:
        """Make failed trials pending again, with all their retries, and unblock what only they blocked.

        Returns how many trials became pending.

        Args:
            trial_ids: failed ones, or blocked ones, which means those that block them; None: all failed ones.
        """
        with self._fenced(lease) as writing:
            return writing.reset_failed(trial_ids)

    def repeat(self, lease: Lease, trial_ids: Iterable[str]) -> None:
        """Make finished trials pending again; what is recorded of them stays until they have finished anew."""
        with self._fenced(lease) as writing:
            writing.repeat(trial_ids)

    # --- packs

    def form_packs(self, lease: Lease, packs: Iterable["Pack"]) -> None:
        """Record packs as open. One that is there stays as it is; one that was closed is opened again."""
        with self._fenced(lease) as writing:
            writing.form_packs(packs)

    def start_pack(self, lease: Lease, pack_id: str, worker: str) -> int:
        """Its pending trials are running; return the number of this attempt.

        Raises:
            ValueError: the pack is not open.
        """
        with self._fenced(lease) as writing:
            return writing.start_pack(pack_id, worker)

    def progress(self, lease: Lease, pack_id: str, attempt: int, epochs: Sequence[Row]) -> None:
        """Record epochs: rows of RunFrame.epochs. An epoch that is there is replaced.

        Raises:
            LateAttemptError: the attempt has ended; so in the other calls that name one.
        """
        with self._fenced(lease) as writing:
            writing.progress(pack_id, attempt, epochs)

    def finish_pack(self, lease: Lease, pack_id: str, attempt: int, results: Mapping[str, Row]) -> None:
        """The pack's running trials are finished, the pack is closed.

        Args:
            results: by trial id, one for each running trial of the pack: TRIAL_COLUMNS but status, and what else JSON can hold.

        Raises:
            ValueError: the results are not of these trials.
        """
        with self._fenced(lease) as writing:
            writing.finish_pack(pack_id, attempt, results)

    def fail_pack(
        self, lease: Lease, pack_id: str, attempt: int, *, kind: str, error: str, statuses: Mapping[str, str]
    ) -> set[str]:
        """The attempt failed and the pack is closed; return the trials that are blocked by it.

        Args:
            kind: error, out_of_memory, lost or preempted; counted for each running trial of the pack, see `failures_of`.
            error: for people.
            statuses: "pending" or "failed" for each running trial of the pack; who needs a failed one becomes blocked.
        """
        with self._fenced(lease) as writing:
            return writing.fail_pack(pack_id, attempt, kind, error, statuses)

    def interrupt_pack(self, lease: Lease, pack_id: str, attempt: int) -> None:
        """The attempt stopped cleanly: the pack is open with its checkpoint, its trials pending. No failure is counted."""
        with self._fenced(lease) as writing:
            writing.interrupt_pack(pack_id, attempt)

    def pause_pack(self, lease: Lease, pack_id: str, attempt: int, epoch: int, results: Mapping[str, Row]) -> None:
        """The attempt ended at a rung with a checkpoint: the pack is closed, its trials are pending until `decide`.

        Args:
            results: by trial id, as in `finish_pack`, as far as they are known.
        """
        with self._fenced(lease) as writing:
            writing.pause_pack(pack_id, attempt, epoch, results)

    def decide(self, lease: Lease, epoch: int, verdicts: Mapping[str, bool]) -> None:
        """Of trials that have paused after an epoch: true, it goes on; false, it is stopped, for good."""
        with self._fenced(lease) as writing:
            writing.decide(epoch, verdicts)

    def add_suggestions(self, lease: Lease, first: int, suggested: Sequence[tuple[Mapping[str, Any], str | None]]) -> None:
        """Record points of a search, numbered from `first`: each one's values by parameter, and its trial (None: excluded)."""
        with self._fenced(lease) as writing:
            writing.add_suggestions(first, suggested)

    def close_pack(self, lease: Lease, pack_id: str) -> None:
        """Give up an open pack, to put its trials into others."""
        with self._fenced(lease) as writing:
            writing.close_pack(pack_id)

    # --- files, figures, events, the sweep

    def add_artifact(self, lease: Lease, row: Row) -> None:
        """Record a row of RunFrame.artifacts; (trial, artifact, precision, format) names it, an older one is replaced."""
        with self._fenced(lease) as writing:
            writing.add_artifact(row)

    def add_measurement(self, lease: Lease, row: Row) -> None:
        """Record a row of RunFrame.measurements; (trial, artifact, device, protocol) names it, an older one is replaced."""
        with self._fenced(lease) as writing:
            writing.add_measurement(row)

    def log_event(self, lease: Lease, kind: str, text: str) -> None:
        with self._fenced(lease) as writing:
            writing.log_event(kind, text)

    def update_sweep(self, lease: Lease, *, sweep_text: str, sweep_json: bytes, overrides: Sequence[str] = ()) -> None:
        """Put an edited sweep file in the place of the one the run began with."""
        with self._fenced(lease) as writing:
            writing.update_sweep(sweep_text, sweep_json)
            write_sweep(self._paths, sweep_text, overrides)

    # --- requests to a controller; no lease needed

    def request_stop(self) -> None:
        """Ask the controller to stop cleanly; it sees `stop_requested`."""
        with self._writing() as writing:
            writing.request("stop", None)

    def request_retry(self, trial_ids: Sequence[str] | None = None) -> None:
        """Ask the controller for `reset_failed(trial_ids)`; it sees `retry_requested`."""
        with self._writing() as writing:
            writing.request("retry", trial_ids)

    def apply_retries(self, lease: Lease) -> int:
        """Do what `request_retry` asked for; return what `reset_failed` does."""
        with self._fenced(lease) as writing:
            return writing.apply_retries()

    # --- everything

    def frame(self, *, epochs: bool = True) -> RunFrame:
        """The whole run as rows, as it was at one moment; without `epochs`, which are most of it, much sooner."""
        return read_frame(self, epochs=epochs)
