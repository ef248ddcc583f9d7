"""Whatever controllers, workers and users do in whatever order, the records stay true."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from flaxcomp.errors import UserError
from flaxcomp.store.lease import LateAttemptError, Lease, LeaseLostError
from run_stores import Pack, Runs, trial

TTL_S = 30.0
NEEDS = {"t0": (), "t1": (), "t2": ("t0",), "t3": ("t2",), "t4": ("t1", "t2"), "t5": ()}
PACKS = {"p0": ("t0", "t1"), "p2": ("t2",), "p3": ("t3",), "p4": ("t4",), "p5": ("t5",)}


class Sweeping(RuleBasedStateMachine):
    """Controllers on far hosts, so that only time tells who is dead. The model keeps statuses and attempts in dictionaries."""

    leases, attempts = Bundle("leases"), Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.runs = Runs(Path(self.folder) / "run", None)
        self.store = self.runs.create()
        self.clock = self.runs.clock
        self.holder: Lease | None = None
        self.heard = 0.0
        first = self.store.acquire(host="first", pid=1)
        self.store.add_trials(first, [trial(id_, *needs) for id_, needs in NEEDS.items()])
        self.store.form_packs(first, [Pack(id_, trials) for id_, trials in PACKS.items()])
        self.store.release(first)
        self.last_fence = first.fence
        self.trials = dict.fromkeys(NEEDS, "pending")
        self.packs = dict.fromkeys(PACKS, ("open", 0))
        self.failed_ever: set[str] = set()

    def teardown(self) -> None:
        self.runs.close()
        shutil.rmtree(self.folder)

    def write(self, lease: Lease, *, undone: bool = False) -> bool:
        """Whether the model lets this lease write; counts the heartbeat, unless the write will be undone for another reason."""
        if lease != self.holder:
            return False
        if not undone:
            self.heard = self.clock.now
        return True

    def reopen(self) -> None:
        for id_, (status, attempt) in self.packs.items():
            if status == "running":
                self.packs[id_] = ("open", attempt)
        self.trials = {id_: "pending" if status == "running" else status for id_, status in self.trials.items()}

    def block(self) -> None:
        for id_, needs in NEEDS.items():  # in the order of needs
            if self.trials[id_] == "pending" and any(self.trials[need] in ("failed", "blocked") for need in needs):
                self.trials[id_] = "blocked"

    @rule(seconds=st.sampled_from([1.0, TTL_S / 2, TTL_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(target=leases, host=st.sampled_from(["a", "b"]))
    def acquire(self, host: str) -> Lease:
        if self.holder is not None and self.clock.now <= self.heard + TTL_S:
            try:
                self.store.acquire(host=host, pid=1, ttl_s=TTL_S)
            except UserError:
                return self.holder
            raise AssertionError("two controllers")
        lease = self.store.acquire(host=host, pid=1, ttl_s=TTL_S)
        assert lease.fence > self.last_fence
        self.last_fence, self.holder, self.heard = lease.fence, lease, self.clock.now
        self.reopen()
        return lease

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        if self.write(lease):
            self.store.release(lease)
            self.holder = None
            self.reopen()
        else:
            self.refused(lambda: self.store.release(lease))

    @rule(target=attempts, lease=leases, pack=st.sampled_from(sorted(PACKS)))
    def start(self, lease: Lease, pack: str) -> tuple[str, int]:
        status, attempt = self.packs[pack]
        if any(self.trials[need] != "finished" for id_ in PACKS[pack] for need in NEEDS[id_]):
            return pack, attempt  # a controller does not start what needs something unfinished
        if not self.write(lease, undone=status != "open"):
            self.refused(lambda: self.store.start_pack(lease, pack, "w"))
        elif status != "open":
            try:
                self.store.start_pack(lease, pack, "w")
            except ValueError:
                return pack, attempt
            raise AssertionError("started twice")
        else:
            assert self.store.start_pack(lease, pack, "w") == attempt + 1
            attempt += 1
            self.packs[pack] = ("running", attempt)
            for id_ in PACKS[pack]:
                if self.trials[id_] == "pending":
                    self.trials[id_] = "running"
        return pack, attempt

    @rule(lease=leases, attempt=consumes(attempts), end=st.sampled_from(["finish", "fail", "retry", "interrupt"]))
    def end(self, lease: Lease, attempt: tuple[str, int], end: str) -> None:
        pack, number = attempt
        running = [id_ for id_ in PACKS[pack] if self.trials[id_] == "running"]
        to = {"finish": "finished", "fail": "failed", "retry": "pending", "interrupt": "pending"}[end]

        def do() -> None:
            if end == "finish":
                self.store.finish_pack(lease, pack, number, {id_: {"params": number} for id_ in running})
            elif end == "interrupt":
                self.store.interrupt_pack(lease, pack, number)
            else:
                self.store.fail_pack(lease, pack, number, kind="lost", error="x", statuses=dict.fromkeys(running, to))

        late = self.packs[pack] != ("running", number)
        if not self.write(lease, undone=late):
            self.refused(do)
        elif late:
            try:
                do()
            except LateAttemptError:
                return
            raise AssertionError("a late attempt was recorded")
        else:
            do()
            self.packs[pack] = ("open" if end == "interrupt" else "closed", number)
            self.trials.update(dict.fromkeys(running, to))
            self.block()

    @rule(lease=leases)
    def form_again(self, lease: Lease) -> None:
        def do() -> None:
            self.store.form_packs(lease, [Pack(id_, trials) for id_, trials in PACKS.items()])

        if self.write(lease):
            do()
            self.packs = {id_: ("open" if status == "closed" else status, n) for id_, (status, n) in self.packs.items()}
        else:
            self.refused(do)

    @rule(lease=leases)
    def reset(self, lease: Lease) -> None:
        if self.write(lease):
            count = self.store.reset_failed(lease)
            assert count == sum(status in ("failed", "blocked") for status in self.trials.values())
            self.trials = {id_: "pending" if s in ("failed", "blocked") else s for id_, s in self.trials.items()}
            assert all(self.store.failures_of(id_) == {} for id_, status in self.trials.items() if status == "failed")
        else:
            self.refused(lambda: self.store.reset_failed(lease))

    @precondition(lambda self: self.holder is not None)
    @rule()
    def beat(self) -> None:
        assert self.holder is not None
        self.write(self.holder)
        self.store.renew(self.holder)

    def refused(self, do: object) -> None:
        try:
            do()  # type: ignore[operator]
        except LeaseLostError:
            return
        raise AssertionError("a superseded controller wrote")

    @invariant()
    def records_are_true(self) -> None:
        assert self.store.statuses() == self.trials
        packs = {row.id: (row.status, row.attempt) for row in self.store.open_packs()}
        assert packs == {id_: state for id_, state in self.packs.items() if state[0] != "closed"}
        assert sum(self.store.counts().values()) == len(NEEDS)


Sweeping.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSweeping = Sweeping.TestCase
