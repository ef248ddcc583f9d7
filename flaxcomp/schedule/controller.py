"""The reconciler: trials that are wanted minus trials that are finished, given to workers; the only writer of the store."""

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from flaxcomp.schedule.backlog import ENDED, Backlog
from flaxcomp.schedule.executor import Executor
from flaxcomp.schedule.heartbeat import beating
from flaxcomp.schedule.retention import Trimmer
from flaxcomp.schedule.rungs import Rungs
from flaxcomp.schedule.searching import merged
from flaxcomp.store.lease import LateAttemptError, Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.expand import Trial
from flaxcomp.sweep.plan import Pack, form_packs, max_pack
from flaxcomp.sweep.spec import Resources, Retry, TrialConfig
from flaxcomp.sweep.stopping import EarlyStop
from flaxcomp.train.job import EpochDone, Event, Failed, Finished, Note, PackJob, Paused, Stopped, Tick

LEASE_TTL_S = 30.0
_POLL_S = 0.2
_REQUESTS_EVERY_S = 1.0
AUTO_PACK = 32  # trials; past this a pack's overheads are paid for many times over
STOP_TIMEOUT_S = 120.0


class Observer(Protocol):
    """Who watches a run: a progress display, a log."""

    def started(self, statuses: dict[str, str], slots: int) -> None: ...
    def pack_started(self, pack: Pack, attempt: int) -> None: ...
    def happened(self, event: Event) -> None: ...
    def stopped(self, trials: Sequence[str]) -> None: ...
    def added(self, statuses: dict[str, str]) -> None: ...
    def said(self, text: str) -> None: ...


@dataclass
class Summary:
    """How a run ended. `stopped`: it was asked to; `storage_error`: the disk was full or not writable."""

    statuses: dict[str, str]
    stopped: bool = False
    storage_error: str | None = None

    def count(self, status: str) -> int:
        return sum(s == status for s in self.statuses.values())


@dataclass
class Controller:
    """Runs the trials of one sweep to their end.

    Args:
        store: opened for writing.
        paths: of the run folder.
        trials: all that are wanted, dependencies before what needs them.
        executor: where packs train.
        observer: told of everything.
        trimmer: keeps the run folder small, where the sweep has a `retention`.
        early_stop: the sweep's.
        more: of a search: further trials, asked when all have ended; none if that was all.
    """

    store: Store
    paths: RunPaths
    trials: Sequence[Trial]
    executor: Executor
    observer: Observer
    resources: Resources = field(default_factory=Resources)
    retry: Retry = field(default_factory=Retry)
    trimmer: Trimmer | None = None
    early_stop: EarlyStop | None = None
    more: Callable[[Lease], Sequence[Trial]] = lambda _: ()
    clock: Callable[[], float] = time.monotonic
    _stop: bool = field(default=False, init=False)

    def run(self, lease: Lease) -> Summary:
        """Train everything that is not finished; the caller holds the lease and releases it."""
        self._lease = lease
        with beating(self.store, lease, LEASE_TTL_S / 4):  # of a large sweep, or with a slow server
            self._prepare()
        self.observer.started(self._wanted_statuses(), self.executor.slots)
        self._loop()
        return Summary(self._wanted_statuses(), self._stop, self._storage_error)

    def _prepare(self) -> None:
        self.store.add_trials(self._lease, self.trials)
        self._know(self.trials)
        self._size_limit = {signature: self._smaller(*found) for signature, found in self.store.too_large().items()}
        self._running: dict[str, tuple[Pack, int]] = {}
        self._storage_error: str | None = None
        self._next_requests = self._next_renewal = self.clock()
        self._plan_all([Pack(row.id, tuple(row.trial_ids), row.signature) for row in self.store.open_packs()])

    def _know(self, trials: Sequence[Trial]) -> None:
        """Take up all trials that are wanted, at the beginning and when a search has brought more."""
        self.trials, self._backlog = trials, Backlog(trials)
        self._teaching = {teacher for trial in trials if trial.config.distill for teacher in trial.config.distill.teachers}
        needed = {need for trial in trials for need in trial.needs}
        self._rungs = Rungs(self.early_stop, self.store, trials, needed, self.store.statuses())

    def request_stop(self) -> None:
        """Let every worker write a checkpoint and stop, then return from `run`. Safe in a signal handler."""
        self._stop = True

    # The loop.

    def _loop(self) -> None:
        stopping_since: float | None = None
        events: Sequence[Event] = ()
        while True:
            self._look_after_store()
            if self._stop and stopping_since is None:
                stopping_since = self.clock()
                if self._running:
                    self.observer.said("stopping: each worker writes a checkpoint first")
                self.executor.request_stop()
            self._step(events)
            if not self._running and (self._stop or not (self._backlog.queue or self._search())):
                return
            if stopping_since is not None and self.clock() - stopping_since > STOP_TIMEOUT_S:
                self._give_up_waiting()
                return
            events = self.executor.events(_POLL_S)

    def _look_after_store(self) -> None:
        now = self.clock()
        if now >= self._next_renewal:
            self.store.renew(self._lease)
            self._next_renewal = now + LEASE_TTL_S / 4
        if now >= self._next_requests:
            self._next_requests = now + _REQUESTS_EVERY_S
            if self.store.stop_requested():
                self._stop = True
            if self.store.retry_requested():
                self.store.apply_retries(self._lease)
                self._plan_all(self._backlog.open_packs())

    def _step(self, events: Sequence[Event]) -> None:
        """Record what happened and what is started next in one transaction, and only then act on it."""
        worth_recording = any(not isinstance(event, Tick) for event in events)
        free = [] if self._stop else self.executor.free  # a worker that has ended is free before its end is recorded
        starts = bool(free and self._backlog.queue)
        if not events and not starts:
            return
        self._dissolved: list[Pack] = []  # nobody goes on from their checkpoints
        starting: list[PackJob] = []
        with self.store.batch(self._lease) if worth_recording or starts else contextlib.nullcontext():
            for event in events:
                self._handle(event)
            if any(isinstance(event, Finished | Paused | Failed) for event in events):
                self._decide()
            self._plan_new()
            if not self._stop:
                starting = [self._begin(worker) for worker in free if self._backlog.queue]
        self._remove(pack.id for pack in self._dissolved)
        self._remove_left()
        for job in starting:
            self.executor.start(job)
        for job in starting:
            self.observer.pack_started(*self._running[job.pack_id])
        self._trim()

    def _begin(self, worker: str) -> PackJob:
        """Record that a worker begins the next pack."""
        pack = self._backlog.pop()
        attempt = self.store.start_pack(self._lease, pack.id, worker)
        self._running[pack.id] = (pack, attempt)
        return self._job(pack, attempt)

    def _job(self, pack: Pack, attempt: int) -> PackJob:
        configs = {trial: self._config(trial) for trial in pack.trial_ids}
        teachers = {t: self._config(t) for c in configs.values() if c.distill for t in c.distill.teachers}
        teaches = tuple(trial for trial in pack.trial_ids if trial in self._teaching)
        return self._rungs.join(PackJob(str(self.paths.root), pack.id, attempt, pack.signature, configs, teachers, teaches))

    def _config(self, trial_id: str) -> TrialConfig:
        trial = self._backlog.by_id.get(trial_id)
        if trial is not None:
            return trial.config
        config = self.store.configs([trial_id])[trial_id]  # of an open pack, no longer in the file
        return msgspec.json.decode(config, type=TrialConfig)

    # Planning.

    def _plan_all(self, open_packs: Iterable[Pack]) -> None:
        """Take up the packs that are open, as they were, then form new ones."""
        self._backlog.begin(self._with_lost_networks(self.store.statuses()), open_packs)
        self._decide()
        self._plan_new()
        self._remove_left()

    def _search(self) -> bool:
        """Go on with what a search suggests, if there is more to train."""
        while not self._backlog.queue:
            with beating(self.store, self._lease, LEASE_TTL_S / 4):
                new = self.more(self._lease)
            if not new:
                return False
            self._know(merged(self.trials, new))
            self._plan_all(())
            self.observer.added(self._wanted_statuses())
        return True

    def _with_lost_networks(self, statuses: dict[str, str]) -> dict[str, str]:
        """A trial that others still need is pending although it has ended, if its network is gone, or was stopped early."""
        lost: dict[str, bool] = {}
        for trial in reversed(self.trials):  # what is needed comes before what needs it, and may need something itself
            if statuses[trial.id] == "pending" or lost.get(trial.id):
                for need in trial.needs:
                    if need not in lost:
                        lost[need] = statuses[need] in ENDED and not self.paths.model(need).is_dir()
        gone = {need for need, is_lost in lost.items() if is_lost}
        if gone:
            self.store.repeat(self._lease, gone)
            self.observer.said(f"{len(gone)} networks that others need are gone and are trained again")
        return statuses | dict.fromkeys(gone, "pending")

    def _plan_new(self) -> None:
        """Queue packs of the trials that have become ready."""
        ready = self._backlog.take_ready()
        if ready:
            packs = [pack for together in self._rungs.groups(ready)
                     for pack in form_packs(together, self._pack_size, self.executor.slots)]  # fmt: skip
            self.store.form_packs(self._lease, packs)
            self._backlog.add(packs)

    def _pack_size(self, trial: Trial) -> int:
        wanted = AUTO_PACK if self.resources.pack == "auto" else self.resources.pack
        return max_pack(trial.config, min(wanted, self._size_limit.get(trial.signature, wanted)))

    def _smaller(self, size: int, failures: int) -> int:
        """The size of the next packs after memory ran out for one of `size`: half of it, for the last try each trial alone."""
        return 1 if failures >= self.retry.out_of_memory else max(1, size // 2)

    # Events.

    def _decide(self) -> None:
        """Decide on the rungs to which all of a cohort have come; who goes on may be packed again."""
        while (decision := self._rungs.decide(self._backlog.statuses)) is not None:
            with self.store.batch(self._lease):
                self.store.decide(self._lease, decision.rung, decision.verdicts)
                self.store.log_event(self._lease, "note", decision.text)
            for trial, goes_on in decision.verdicts.items():
                self._backlog.set([trial], "pending" if goes_on else "stopped")
            self.observer.stopped(decision.stopped)
            self.observer.said(decision.text)

    def _remove(self, packs: Iterable[str]) -> None:
        """Checkpoints that nobody goes on from."""
        for pack in packs:
            shutil.rmtree(self.paths.pack(pack), ignore_errors=True)

    def _remove_left(self) -> None:
        if left := self._rungs.left(self._backlog.statuses):
            self._remove(left.difference(self._running, (pack.id for pack in self._backlog.open_packs())))

    def _trim(self) -> None:
        finished = [trial for pack in self._dissolved for trial in pack.trial_ids
                    if self._backlog.statuses[trial] == "finished"]  # fmt: skip
        if self.trimmer is None or not finished:
            return
        if said := self.trimmer.trim(finished, self._backlog.needed):
            self.store.log_event(self._lease, "note", said)
            self.observer.said(said)

    def _handle(self, event: Event) -> None:
        current = self._running.get(event.pack_id)
        if current is None or current[1] != event.attempt:
            return  # of an attempt that was given up
        pack, attempt = current
        try:
            if isinstance(event, EpochDone):
                self.store.progress(self._lease, pack.id, attempt, event.rows)
            elif isinstance(event, Note):
                self.store.log_event(self._lease, "note", event.text)
                self.observer.said(event.text)
            elif isinstance(event, Finished):
                self._finished(pack, attempt, event)
            elif isinstance(event, Paused):
                self._paused(pack, attempt, event)
            elif isinstance(event, Stopped):
                self._interrupted(pack, attempt)
            elif isinstance(event, Failed):
                self._failed(pack, attempt, event)
        except LateAttemptError:
            del self._running[pack.id]
            return
        self.observer.happened(event)

    def _finished(self, pack: Pack, attempt: int, event: Finished) -> None:
        self.store.finish_pack(self._lease, pack.id, attempt, event.results)
        del self._running[pack.id]
        self._backlog.set(pack.trial_ids, "finished")
        self._dissolved.append(pack)

    def _paused(self, pack: Pack, attempt: int, event: Paused) -> None:
        self.store.pause_pack(self._lease, pack.id, attempt, event.epoch, event.results)
        del self._running[pack.id]
        self._rungs.came(pack, event.epoch)
        self._backlog.set(pack.trial_ids, "pending")

    def _interrupted(self, pack: Pack, attempt: int) -> None:
        self.store.interrupt_pack(self._lease, pack.id, attempt)
        del self._running[pack.id]
        self._backlog.put_aside(pack)

    def _failed(self, pack: Pack, attempt: int, event: Failed) -> None:
        self.store.log_event(self._lease, "failure", event.detail or event.error)
        if event.kind == "storage":
            self._interrupted(pack, attempt)
            self._storage_error, self._stop = event.error, True
            return
        allowed = {"error": self.retry.error, "out_of_memory": self.retry.out_of_memory, "lost": self.retry.lost}[event.kind]
        earlier = {trial: self.store.failures_of(trial).get(event.kind, 0) for trial in pack.trial_ids}
        statuses = {trial: "pending" if count < allowed else "failed" for trial, count in earlier.items()}
        blocked = self.store.fail_pack(self._lease, pack.id, attempt, kind=event.kind, error=event.error, statuses=statuses)
        del self._running[pack.id]
        if event.kind == "out_of_memory" and len(pack.trial_ids) > 1:
            self._size_limit[pack.signature] = self._smaller(len(pack.trial_ids), max(earlier.values()) + 1)
            if not self._rungs.is_origin(pack):
                self._dissolved.append(pack)
        self._backlog.set(blocked, "blocked")
        for trial, status in statuses.items():
            self._backlog.set([trial], status)
        if event.kind == "lost" and "failed" not in statuses.values():
            self.store.form_packs(self._lease, [pack])  # the same pack again, from its checkpoint
            self._backlog.add([pack])

    def _give_up_waiting(self) -> None:
        """A worker that does not answer is left: its pack stays open, and the fence keeps late results out."""
        for pack, attempt in list(self._running.values()):
            self.observer.said(f"pack {pack.id} did not stop in time; it goes on from its last checkpoint next time")
            self._interrupted(pack, attempt)

    def _wanted_statuses(self) -> dict[str, str]:
        return {trial.id: self._backlog.statuses[trial.id] for trial in self.trials}


def needed(trials: Iterable[Trial], statuses: Mapping[str, str]) -> set[str]:
    """Trials whose networks others still need, or would if they were tried again."""
    return {need for trial in trials if statuses[trial.id] not in ENDED for need in trial.needs}


def acquire(store: Store) -> Lease:
    """Become the run's controller.

    Raises:
        UserError: another one is at work.
    """
    return store.acquire(host=platform.node(), pid=os.getpid(), ttl_s=LEASE_TTL_S)
