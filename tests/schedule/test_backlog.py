"""Which trials are ready, and which packs wait."""

import pytest

from flaxcomp.schedule.backlog import Backlog
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.sweep.trial import Trial

CONFIG = TrialConfig(dataset=Dataset(name="mnist"), model={"name": "wide"})


def trial(id_: str, *needs: str) -> Trial:
    return Trial(id_, CONFIG, needs, "trial", "sig")


TRIALS = [trial("a"), trial("b"), trial("s", "a"), trial("t", "a", "b"), trial("u", "t")]


def begun(*packs: Pack, **statuses: str) -> Backlog:
    backlog = Backlog(TRIALS)
    backlog.begin({one.id: "pending" for one in TRIALS} | statuses, packs)
    return backlog


def ready(backlog: Backlog) -> list[str]:
    return [one.id for one in backlog.take_ready()]


def test_a_trial_is_ready_once_when_all_that_it_needs_is_finished() -> None:
    backlog = begun()
    assert ready(backlog) == ["a", "b"]
    assert ready(backlog) == []
    backlog.set(["a"], "finished")
    assert ready(backlog) == ["s"]
    backlog.set(["b"], "finished")
    assert ready(backlog) == ["t"]


def test_what_becomes_ready_together_is_in_the_order_of_the_sweep() -> None:
    backlog = begun(a="running", b="running")
    backlog.set(["b", "a"], "finished")
    assert ready(backlog) == ["s", "t"]


def test_trials_in_a_pack_are_ready_for_no_other_one() -> None:
    backlog = begun(Pack("p", ("a", "b"), "sig"))
    assert ready(backlog) == []
    assert backlog.pop() == Pack("p", ("a", "b"), "sig")
    assert (backlog.statuses["a"], backlog.statuses["b"]) == ("running", "running")
    backlog.set(["a"], "pending")  # it failed, and is tried again
    assert ready(backlog) == ["a"]


def test_an_open_pack_waits_for_what_any_of_its_trials_needs() -> None:
    pack = Pack("p", ("s", "t"), "sig")
    backlog = begun(pack)
    backlog.set(["a"], "finished")
    assert not backlog.queue
    assert ready(backlog) == ["b"]
    backlog.set(["b"], "finished")
    assert list(backlog.queue) == [pack]
    assert ready(backlog) == []
    backlog.set(["b"], "pending")  # its network is gone
    backlog.set(["b"], "finished")
    assert list(backlog.queue) == [pack], "queued once"


def test_an_interrupted_pack_is_left_for_the_next_controller() -> None:
    pack = Pack("p", ("a", "b"), "sig")
    backlog = begun(pack)
    backlog.put_aside(backlog.pop())
    assert not backlog.queue
    assert ready(backlog) == []
    assert backlog.statuses["a"] == "pending"


def test_a_pack_of_trials_that_the_sweep_no_longer_has_can_start() -> None:
    pack = Pack("p", ("gone",), "sig")
    backlog = begun(pack, gone="pending")
    assert backlog.pop() == pack
    backlog.set(["gone"], "finished")
    assert ready(backlog) == ["a", "b"]


def test_networks_are_needed_until_the_last_that_asks_for_them_is_finished() -> None:
    backlog = begun(a="finished", b="finished")
    assert set(backlog.needed) == {"a", "b", "t"}
    backlog.set(["t"], "finished")
    assert set(backlog.needed) == {"a", "t"}
    backlog.set(["s"], "failed")
    assert set(backlog.needed) == {"a", "t"}, "it might be tried again"
    backlog.set(["s", "u"], "finished")
    assert set(backlog.needed) == set()
    backlog.set(["t"], "pending")
    assert set(backlog.needed) == {"a", "b"}


@pytest.mark.parametrize("students", [10, 100])
def test_an_end_looks_at_the_trials_that_wait_for_it_alone(students: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [one for n in range(students) for one in (trial(f"t{n}"), trial(f"s{n}", f"t{n}"))]
    backlog = Backlog(trials)
    backlog.begin({one.id: "pending" for one in trials}, ())
    looked: list[str] = []
    is_ready = Backlog._is_ready
    monkeypatch.setattr(Backlog, "_is_ready", lambda self, one: (looked.append(one.id), is_ready(self, one))[1])
    backlog.set(["t3"], "finished")
    assert looked == ["s3"]


def test_what_was_put_aside_stays_one_pack_when_all_is_planned_anew() -> None:
    """A retry while a run is stopping plans anew; its trials would be in a second pack besides, and be trained twice."""
    backlog = begun(Pack("p", ("a", "b"), "sig"))
    backlog.put_aside(backlog.pop())
    backlog.begin(backlog.statuses, backlog.open_packs())
    assert [pack.id for pack in backlog.open_packs()] == ["p"]
    assert ready(backlog) == []
