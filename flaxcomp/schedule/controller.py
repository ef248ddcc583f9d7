"""The reconciler: trials that are wanted minus trials that are finished, given to workers; the only writer of the store."""

import contextlib
import dataclasses
import os
import platform
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from flaxcomp.schedule.executor import Executor
from flaxcomp.schedule.heartbeat import beating
from flaxcomp.schedule.retention import Trimmer
from flaxcomp.schedule.rungs import Rungs
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
        self._queue: deque[Pack] = deque()
        self._running: dict[str, tuple[Pack, int]] = {}
        self._storage_error: str | None = None
        self._next_requests = self._next_renewal = self.clock()
        self._plan_all()

    def _know(self, trials: Sequence[Trial]) -> None:
        """Take up all trials that are wanted, at the beginning and when a search has brought more."""
        self.trials = trials
        self._by_id = {trial.id: trial for trial in trials}
        self._needed = {need for trial in trials for need in trial.needs}
        self._teaching = {teacher for trial in trials if trial.config.distill for teacher in trial.config.distill.teachers}
        self._statuses = self.store.statuses()
        self._rungs = Rungs(self.early_stop, self.store, trials, self._needed, self._statuses)

    def request_stop(self) -> None:
        """Let every worker write a checkpoint and stop, then return from `run`. Safe in a signal handler."""
        self._stop = True

    # The loop.

    def _loop(self) -> None:
        stopping_since: float | None = None
        while True:
            self._look_after_store()
            if self._stop and stopping_since is None:
                stopping_since = self.clock()
                if self._running:
                    self.observer.said("stopping: each worker writes a checkpoint first")
                self.executor.request_stop()
            if not self._stop:
                self._dispatch()
            if not self._running and (self._stop or not (self._queue or self._search())):
                return
            if stopping_since is not None and self.clock() - stopping_since > STOP_TIMEOUT_S:
                self._give_up_waiting()
                return
            self._take(self.executor.events(_POLL_S))

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
                self._statuses = self.store.statuses()
                self._train_lost_networks_again()
                self._plan_new()

    def _dispatch(self) -> None:
        while self._queue and self.executor.free:
            pack = self._queue.popleft()
            job = self._job(pack)
            attempt = self.store.start_pack(self._lease, pack.id, self.executor.next_worker)
            self.executor.start(dataclasses.replace(job, attempt=attempt))
            self._set(pack.trial_ids, "running")
            self._running[pack.id] = (pack, attempt)
            self.observer.pack_started(pack, attempt)

    def _job(self, pack: Pack) -> PackJob:
        configs = {trial: self._config(trial) for trial in pack.trial_ids}
        teachers = {t: self._config(t) for c in configs.values() if c.distill for t in c.distill.teachers}
        teaches = tuple(trial for trial in pack.trial_ids if trial in self._teaching)
        return self._rungs.join(PackJob(str(self.paths.root), pack.id, 0, pack.signature, configs, teachers, teaches))

    def _config(self, trial_id: str) -> TrialConfig:
        trial = self._by_id.get(trial_id)
        if trial is not None:
            return trial.config
        return msgspec.json.decode(
            self.store.configs([trial_id])[trial_id], type=TrialConfig
        )  # of an open pack, no longer in the file

    # Planning.

    def _plan_all(self) -> None:
        """Take up the packs that an earlier controller left open, as they were, then form new ones."""
        self._open = [Pack(row.id, tuple(row.trial_ids), row.signature) for row in self.store.open_packs()]
        self._train_lost_networks_again()
        self._decide()
        self._plan_new()

    def _search(self) -> bool:
        """Go on with what a search suggests, if there is more to train."""
        while not self._queue:
            new = self.more(self._lease)
            if not new:
                return False
            self._know([*self.trials, *new])
            self.observer.added(self._wanted_statuses())
            self._train_lost_networks_again()
            self._plan_new()
        return True

    def _train_lost_networks_again(self) -> None:
        """A trial that others still need is pending although it is finished, if its network is gone, or was stopped early."""
        lost: set[str] = set()
        for trial in reversed(self.trials):  # what is needed comes before what needs it, and may need something itself
            if self._statuses[trial.id] == "pending" or trial.id in lost:
                ended = {need for need in trial.needs if self._statuses[need] in ("finished", "stopped")}
                lost |= {need for need in ended if not self.paths.model(need).is_dir()}
        if lost:
            self.store.repeat(self._lease, lost)
            self._set(lost, "pending")
            self.observer.said(f"{len(lost)} networks that others need are gone and are trained again")

    def _plan_new(self) -> None:
        """Queue open packs, and new ones of the pending trials that are in none, once their dependencies are finished."""
        waiting = [
            pack for pack in self._open if not all(self._is_ready(self._by_id[t]) for t in pack.trial_ids if t in self._by_id)
        ]
        self._queue.extend(pack for pack in self._open if pack not in waiting)
        self._open = waiting
        taken = {trial for pack in (*self._queue, *self._open) for trial in pack.trial_ids}
        ready = [t for t in self.trials if t.id not in taken and self._statuses[t.id] == "pending" and self._is_ready(t)]
        packs = [pack for together in self._rungs.groups(ready)
                 for pack in form_packs(together, self._pack_size, self.executor.slots)]  # fmt: skip
        if packs:
            self.store.form_packs(self._lease, packs)
            self._queue.extend(packs)

    def _is_ready(self, trial: Trial) -> bool:
        return all(self._statuses[need] == "finished" for need in trial.needs)

    def _pack_size(self, trial: Trial) -> int:
        wanted = AUTO_PACK if self.resources.pack == "auto" else self.resources.pack
        return max_pack(trial.config, min(wanted, self._size_limit.get(trial.signature, wanted)))

    def _smaller(self, size: int, failures: int) -> int:
        """The size of the next packs after memory ran out for one of `size`: half of it, for the last try each trial alone."""
        return 1 if failures >= self.retry.out_of_memory else max(1, size // 2)

    # Events.

    def _take(self, events: Sequence[Event]) -> None:
        """Record what happened in one transaction, and only then act on it."""
        if not events:
            return
        self._failures = self._paused_any = False
        self._released: list[Pack] = []
        self._dissolved: list[Pack] = []  # nobody goes on from their checkpoints
        worth_recording = any(not isinstance(event, Tick) for event in events)
        with self.store.batch(self._lease) if worth_recording else contextlib.nullcontext():
            for event in events:
                self._handle(event)
        self._remove(pack.id for pack in self._dissolved)
        self._trim()
        if self._failures:
            self._statuses = self.store.statuses()
            self._queue.extend(self._released)
        decided = self._decide() if self._failures or self._paused_any or self._dissolved else False
        if self._failures or decided or any(trial in self._needed for pack in self._dissolved for trial in pack.trial_ids):
            self._plan_new()

    def _decide(self) -> bool:
        """Decide on the rungs to which all of a cohort have come, and drop what nobody goes on from; were there any?"""
        decided = False
        while (decision := self._rungs.decide(self._statuses)) is not None:
            with self.store.batch(self._lease):
                self.store.decide(self._lease, decision.rung, decision.verdicts)
                self.store.log_event(self._lease, "note", decision.text)
            self._set(decision.stopped, "stopped")
            self.observer.stopped(decision.stopped)
            self.observer.said(decision.text)
            decided = True
        self._remove(self._rungs.left(self._statuses))
        return decided

    def _remove(self, packs: Iterable[str]) -> None:
        """Checkpoints that nobody goes on from."""
        for pack in packs:
            shutil.rmtree(self.paths.pack(pack), ignore_errors=True)

    def _trim(self) -> None:
        finished = [trial for pack in self._dissolved for trial in pack.trial_ids if self._statuses[trial] == "finished"]
        if self.trimmer is None or not finished:
            return
        if said := self.trimmer.trim(finished, needed(self.trials, self._statuses)):
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
        self._set(pack.trial_ids, "finished")
        self._dissolved.append(pack)

    def _paused(self, pack: Pack, attempt: int, event: Paused) -> None:
        self.store.pause_pack(self._lease, pack.id, attempt, event.epoch, event.results)
        del self._running[pack.id]
        self._set(pack.trial_ids, "pending")
        self._rungs.came(pack, event.epoch)
        self._paused_any = True

    def _interrupted(self, pack: Pack, attempt: int) -> None:
        self.store.interrupt_pack(self._lease, pack.id, attempt)
        del self._running[pack.id]
        self._set(pack.trial_ids, "pending")

    def _failed(self, pack: Pack, attempt: int, event: Failed) -> None:
        self.store.log_event(self._lease, "failure", event.detail or event.error)
        if event.kind == "storage":
            self._interrupted(pack, attempt)
            self._storage_error, self._stop = event.error, True
            return
        allowed = {"error": self.retry.error, "out_of_memory": self.retry.out_of_memory, "lost": self.retry.lost}[event.kind]
        earlier = {trial: self.store.failures_of(trial).get(event.kind, 0) for trial in pack.trial_ids}
        statuses = {trial: "pending" if count < allowed else "failed" for trial, count in earlier.items()}
        self.store.fail_pack(self._lease, pack.id, attempt, kind=event.kind, error=event.error, statuses=statuses)
        del self._running[pack.id]
        if event.kind == "out_of_memory" and len(pack.trial_ids) > 1:
            self._size_limit[pack.signature] = self._smaller(len(pack.trial_ids), max(earlier.values()) + 1)
            self._dissolved.append(pack)
        self._failures = True
        if event.kind == "lost" and "failed" not in statuses.values():
            self.store.form_packs(self._lease, [pack])  # the same pack again, from its checkpoint
            self._released.append(pack)

    def _give_up_waiting(self) -> None:
        """A worker that does not answer is left: its pack stays open, and the fence keeps late results out."""
        for pack, attempt in list(self._running.values()):
            self.observer.said(f"pack {pack.id} did not stop in time; it goes on from its last checkpoint next time")
            self._interrupted(pack, attempt)

    def _set(self, trial_ids: Iterable[str], status: str) -> None:
        for trial in trial_ids:
            self._statuses[trial] = status

    def _wanted_statuses(self) -> dict[str, str]:
        return {trial.id: self._statuses[trial.id] for trial in self.trials}


def needed(trials: Iterable[Trial], statuses: Mapping[str, str]) -> set[str]:
    """Trials whose networks others still need, or would if they were tried again."""
    return {need for trial in trials if statuses[trial.id] not in ("finished", "stopped") for need in trial.needs}


def acquire(store: Store) -> Lease:
    """Become the run's controller.

    Raises:
        UserError: another one is at work.
    """
    return store.acquire(host=platform.node(), pid=os.getpid(), ttl_s=LEASE_TTL_S)
