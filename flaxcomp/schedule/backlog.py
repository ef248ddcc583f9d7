"""Which trials of a run wait for others, which are ready, and the packs that are to be started next.

A change costs work for the trials that change and those that need them directly, however many trials there are.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, KeysView, Mapping, Sequence

from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.trial import Trial

ENDED = ("finished", "stopped")  # what such a trial needs, it needs no more


class Backlog:
    """What the controller knows of its trials between two looks at the store.

    Args:
        trials: all that are wanted, dependencies before what needs them.

    Attributes:
        statuses: by trial, also of trials of the run that are wanted no longer.
        queue: packs whose trials are ready, first come first served.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.by_id = {trial.id: trial for trial in trials}
        self.statuses: dict[str, str] = {}
        self.queue: deque[Pack] = deque()
        self._order = {id_: place for place, id_ in enumerate(self.by_id)}
        self._dependents: defaultdict[str, list[str]] = defaultdict(list)
        for trial in trials:
            for need in trial.needs:
                self._dependents[need].append(trial.id)
        self._waiting: dict[str, Pack] = {}  # open packs whose trials are not all ready
        self._packed: dict[str, Pack] = {}  # by trial, packs that are queued or wait
        self._aside: list[Pack] = []  # packs that were interrupted
        self._ready: set[str] = set()  # pending, in no pack, and what they need is finished
        self._unfinished: Counter[str] = Counter()  # by trial: how many that have not ended need it

    @property
    def needed(self) -> KeysView[str]:
        """Trials whose networks others still need, or would if they were tried again."""
        return self._unfinished.keys()

    def begin(self, statuses: Mapping[str, str], open_packs: Iterable[Pack]) -> None:
        """Start anew from what the store says."""
        self.statuses = dict(statuses)
        self.queue.clear()
        self._waiting, self._packed, self._ready, self._aside = {}, {}, set(), []
        self._unfinished = Counter(
            need for trial in self.by_id.values() if statuses[trial.id] not in ENDED for need in trial.needs
        )
        self.add(open_packs)
        for trial in self.by_id:
            self._consider(trial)

    def open_packs(self) -> list[Pack]:
        """Packs that are queued, in their order, then those that wait, then those that were put aside."""
        return [*self.queue, *self._waiting.values(), *self._aside]

    def add(self, packs: Iterable[Pack]) -> None:
        """Take up packs of pending trials: in the queue, or where some of their trials are not ready, until these are."""
        for pack in packs:
            self._packed.update(dict.fromkeys(pack.trial_ids, pack))
            self._ready.difference_update(pack.trial_ids)
            if self._can_start(pack):
                self.queue.append(pack)
            else:
                self._waiting[pack.id] = pack

    def pop(self) -> Pack:
        """The pack to be started next; its trials are running."""
        pack = self.queue.popleft()
        for trial in pack.trial_ids:
            self._packed.pop(trial, None)
        self.set(pack.trial_ids, "running")
        return pack

    def put_aside(self, pack: Pack) -> None:
        """Take note that a pack was interrupted: its trials are pending, and it stays as it is for the next controller."""
        self._packed.update(dict.fromkeys(pack.trial_ids, pack))
        self._aside.append(pack)
        self.set(pack.trial_ids, "pending")

    def set(self, trial_ids: Iterable[str], status: str) -> None:
        """Take note of trials' new status, and of what becomes ready with it."""
        for id_ in trial_ids:
            before, self.statuses[id_] = self.statuses[id_], status
            self._ready.discard(id_)
            if (before in ENDED) != (status in ENDED):
                self._count_needs(id_, -1 if status in ENDED else 1)
            if status == "finished":
                for dependent in self._dependents.get(id_, ()):
                    self._consider(dependent)
            elif status == "pending":
                self._consider(id_)

    def take_ready(self) -> list[Trial]:
        """Trials that have become ready and are in no pack, in the order of the sweep; they are forgotten here."""
        ready = [self.by_id[id_] for id_ in sorted(self._ready, key=self._order.__getitem__)]
        self._ready.clear()
        return ready

    def _consider(self, id_: str) -> None:
        """A trial may have become ready."""
        trial = self.by_id.get(id_)
        if trial is None or self.statuses[id_] != "pending" or not self._is_ready(trial):
            return
        pack = self._packed.get(id_)
        if pack is None:
            self._ready.add(id_)
        elif pack.id in self._waiting and self._can_start(pack):
            self.queue.append(self._waiting.pop(pack.id))

    def _can_start(self, pack: Pack) -> bool:
        return all(self._is_ready(self.by_id[id_]) for id_ in pack.trial_ids if id_ in self.by_id)

    def _is_ready(self, trial: Trial) -> bool:
        return all(self.statuses[need] == "finished" for need in trial.needs)

    def _count_needs(self, id_: str, change: int) -> None:
        trial = self.by_id.get(id_)
        for need in trial.needs if trial is not None else ():
            self._unfinished[need] += change
            if not self._unfinished[need]:
                del self._unfinished[need]
