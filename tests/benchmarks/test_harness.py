"""What makes a ratio: turns, spreads, and the refusal of sides that did not do the same work."""

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness import Noise, Side, UnequalError, Work, check_same_work, measure, run_pair, timed
from benchmarks.record import Pair, Record, spread

POINTS = [f"seed {seed}" for seed in range(16)]
WORK = Work(data="d", params=10, batch_size=128, steps=421, accuracy=dict.fromkeys(POINTS, 0.95))


def check(theirs: Work, ours: Work = WORK, noise: Noise = Noise()) -> None:  # noqa: B008  frozen
    check_same_work({"ours": ours, "peer": theirs}, {"ours": POINTS, "peer": POINTS}, 421, 128, noise)


def with_accuracies(*shares: float) -> Work:
    return replace(WORK, accuracy=dict(zip(POINTS, shares, strict=True)))


def side(name: str, log: list[str], work: Work = WORK, run: Callable[[Path], None] = lambda _: None) -> Side:
    def logged(folder: Path) -> None:
        log.append(name)
        run(folder)

    return Side(name, lambda _: None, logged, lambda _: work)


def test_equal_work_passes() -> None:
    check(WORK)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (replace(WORK, steps=420), "peer trained 420 steps a trial, not 421"),
        (replace(WORK, batch_size=64), "peer trained with batches of 64, not 128"),
        (replace(WORK, data="e"), "ours and peer were given different data"),
        (replace(WORK, params=11), "ours has 10 trainable parameters, peer 11"),
        (replace(WORK, accuracy=dict.fromkeys(POINTS[1:], 0.95)), "peer finished 15 of 16 trials"),
        (replace(WORK, accuracy={f"other {i}": 0.95 for i in range(16)}), "should have finished 16 others"),
        (
            with_accuracies(*[0.945] * 16),
            r"not reach the same accuracy: ours \+0.0050 against peer, where chance explains 0.0020",
        ),
        (with_accuracies(*[0.955] * 16), r"ours -0.0050 against peer"),
    ],
)
def test_unequal_work_is_refused(theirs: Work, said: str) -> None:
    with pytest.raises(UnequalError, match=said):
        check(theirs)


def test_chance_is_allowed_for_and_more_is_not() -> None:
    # Differences of +-0.01: deviation 0.01033, so 4.07 * 0.01033 / 4 = 0.0105 is what chance explains.
    scattered = [0.96, 0.94] * 8
    check(with_accuracies(*[share - 0.010 for share in scattered]))
    with pytest.raises(UnequalError, match=r"chance explains 0\.0105"):
        check(with_accuracies(*[share - 0.011 for share in scattered]))


def test_wild_trials_do_not_excuse_everything() -> None:
    wild = with_accuracies(*[0.95, 0.55] * 8)  # chance alone would explain 0.2
    with pytest.raises(UnequalError, match=r"chance explains 0\.0200"):
        check(wild)
    check(wild, noise=Noise(cap=0.3))


def test_accuracies_are_compared_on_common_trials_only() -> None:
    half = replace(WORK, accuracy=dict.fromkeys(POINTS[:8], 0.95))
    ours = with_accuracies(*[0.95] * 8, *[0.5] * 8)
    check_same_work({"ours": ours, "peer": half}, {"ours": POINTS, "peer": POINTS[:8]}, 421, 128)


def test_two_trials_are_judged_by_the_cap() -> None:
    assert Noise().allows([0.001]) == 0.02
    assert Noise().allows([0.001, -0.001]) == 0.02
    assert Noise().allows([0.0, 0.0]) == 0.002


def test_pairs_take_turns_and_the_ratio_is_of_seconds_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    half = replace(WORK, accuracy=dict.fromkeys(POINTS[:8], 0.94), train_seconds=6.0)
    ours, peer = side("ours", log, replace(WORK, train_seconds=4.0)), side("peer", log, half)
    clock = iter([0.0, 2.0, 10.0, 15.0, 100.0, 106.0, 110.0, 113.0])
    monkeypatch.setattr("benchmarks.harness.time.perf_counter", lambda: next(clock))
    asked = []
    first = run_pair(0, ours, peer, lambda works: asked.append(list(works)))
    second = run_pair(1, ours, peer, lambda works: asked.append(list(works)))
    assert log == ["ours", "peer", "peer", "ours"]
    assert asked == [["ours", "peer"]] * 2
    assert (first.first, second.first) == ("ours", "peer")
    assert first.seconds == {"ours": 2.0, "peer": 5.0}
    assert first.ratio == (5 / 8) / (2 / 16)
    assert second.ratio == (6 / 8) / (3 / 16)
    assert first.train_only_ratio == (6 / 8) / (4 / 16)
    assert first.trials_per_hour == {"ours": 16 / 2 * 3600, "peer": 8 / 5 * 3600}
    assert first.mean_test_accuracy == pytest.approx({"ours": 0.95, "peer": 0.94})


def test_an_unequal_pair_makes_no_ratio(tmp_path: Path) -> None:
    log: list[str] = []
    record = Record("r", {}, tmp_path)

    def refuse(_: object) -> None:
        raise UnequalError("different data")

    with pytest.raises(UnequalError, match="different data"):
        measure(record, "peer", 5, side("ours", log), side("peer", log), refuse)
    assert log == ["ours", "peer"]
    assert not record.file.exists()


def test_a_side_has_an_empty_folder_that_is_gone_afterwards() -> None:
    seen: list[Path] = []

    def prepare(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "given").touch()

    def run(folder: Path) -> None:
        seen.append(folder)
        assert [file.name for file in folder.iterdir()] == ["given"]
        raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        timed(Side("s", prepare, run, lambda _: WORK))
    assert not seen[0].exists()


def test_spread() -> None:
    found = spread([2.0, 8.0, 4.0, 6.0, 5.0])
    assert (found.pairs, found.median, found.lowest, found.highest) == (5, 5.0, 2.0, 8.0)
    assert found.deviation == statistics.stdev([2, 8, 4, 6, 5])
    assert str(found) == "5.00 times (from 2.00 to 8.00 over 5 pairs)"
    assert spread([3.0]).deviation is None
    assert str(spread([3.0])) == "3.00 times (1 pair)"


def test_the_record_tells_chip_versions_date_and_command_and_is_kept_after_each_pair(tmp_path: Path) -> None:
    record = Record("speed", {"trials": 4}, tmp_path / "results")
    pair = Pair("ours", {"ours": 1.0, "peer": 3.0}, {}, {}, 3.0)
    record.add("peer", pair)
    first = json.loads(record.file.read_text())
    record.add("peer", replace(pair, ratio=5.0))
    record.tell("seconds", {"median": 1})
    told = json.loads(record.file.read_text())
    assert first["ratios"]["peer"]["ratio"]["pairs"] == 1
    assert told["ratios"]["peer"]["ratio"] == {"pairs": 2, "median": 4.0, "lowest": 3.0, "highest": 5.0,
                                               "deviation": pytest.approx(2**0.5)}  # fmt: skip
    assert [each["ratio"] for each in told["ratios"]["peer"]["pairs"]] == [3.0, 5.0]
    assert told["settings"] == {"trials": 4}
    assert told["seconds"] == {"median": 1}
    assert {"command", "date", "chip", "cores", "busy", "python", "versions"} <= told.keys()
    assert told["versions"]["numpy"]
    assert [file.name for file in record.file.parent.iterdir()] == ["speed.json"]
