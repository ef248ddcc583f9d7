"""Two sides that do the same work, timed in turns: what every ratio of `benchmarks/` is made with.

A side is timed from the start of its first process to the end of its last one, in an empty folder, with no program compiled
before. A pair runs both sides one after the other, and pairs change which goes first, so that a slow minute of the machine
hits both. A pair counts only if both sides finished the same trials, with the same data, parameters, batch size and number of
steps, and came to the same accuracy (`check_same_work`); otherwise the benchmark ends with an error.
"""

import argparse
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RESULTS, Pair, Record, Spread

# Student's t beyond which 1 in 1000 lies, by degrees of freedom; the next smaller entry counts.
_T_999 = {1: 637.0, 2: 31.6, 3: 12.9, 4: 8.61, 5: 6.87, 7: 5.41, 9: 4.78, 15: 4.07, 31: 3.63, 63: 3.45}


class UnequalError(Exception):
    """The two sides did not do the same work, so that a ratio of their times would mean nothing."""


@dataclass(frozen=True)
class Work:
    """What a side has done, read from what it wrote.

    Attributes:
        data: SHA-256 of the arrays that it trained on and was tested with.
        params: trainable parameters of the network.
        batch_size: images a step.
        steps: of each trial.
        accuracy: on the test set, by trial; a trial is named by its point of the grid.
        train_seconds: of all trials, without start-up and compiling, where a side tells it.
    """

    data: str
    params: int
    batch_size: int
    steps: int
    accuracy: Mapping[str, float]
    train_seconds: float | None = None


@dataclass(frozen=True)
class Side:
    """A program under test.

    Attributes:
        prepare: puts what lies ready before the clock starts into an empty folder.
        run: does the work there; timed.
        read: tells afterwards what was done.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    read: Callable[[Path], Work]


@dataclass(frozen=True)
class Noise:
    """How far two mean accuracies may differ: what chance explains (1 in 1000), `floor` at least and `cap` at most."""

    floor: float = 0.002
    cap: float = 0.02

    def allows(self, differences: Sequence[float]) -> float:
        """The allowance for the mean of so many paired differences."""
        n = len(differences)
        if n < 2:
            return self.cap
        t = _T_999[max(freedom for freedom in _T_999 if freedom <= n - 1)]
        return min(self.cap, max(self.floor, t * statistics.stdev(differences) / math.sqrt(n)))


def check_same_work(
    works: Mapping[str, Work],
    points: Mapping[str, Sequence[str]],
    steps: int,
    batch_size: int,
    noise: Noise = Noise(),
) -> None:
    """Refuse to compare sides that did not do the same.

    Args:
        works: of two sides by name, ours first.
        points: the trials that each side should have finished; what both have is what their accuracies are compared on.
        steps, batch_size: what each trial should have had.

    Raises:
        UnequalError: says in what the sides differ from each other or from what was asked for.
    """
    for side, work in works.items():
        _must(sorted(work.accuracy) == sorted(points[side]), f"{side} finished {len(work.accuracy)} trials, and should have "
              f"finished {len(points[side])} others" if len(work.accuracy) == len(points[side]) else
              f"{side} finished {len(work.accuracy)} of {len(points[side])} trials")  # fmt: skip
        _must(work.steps == steps, f"{side} trained {work.steps} steps a trial, not {steps}")
        _must(work.batch_size == batch_size, f"{side} trained with batches of {work.batch_size}, not {batch_size}")
    (ours, our_work), (theirs, their_work) = works.items()
    _must(our_work.data == their_work.data, f"{ours} and {theirs} were given different data")
    _must(our_work.params == their_work.params,
          f"the networks differ: {ours} has {our_work.params} trainable parameters, {theirs} {their_work.params}")  # fmt: skip
    shared = [point for point in our_work.accuracy if point in their_work.accuracy]
    _must(bool(shared), f"{ours} and {theirs} have no trial in common")
    differences = [our_work.accuracy[point] - their_work.accuracy[point] for point in shared]
    difference, allowed = statistics.mean(differences), noise.allows(differences)
    _must(abs(difference) <= allowed, f"the sides do not reach the same accuracy: {ours} {difference:+.4f} against {theirs}, "
          f"where chance explains {allowed:.4f}")  # fmt: skip


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnequalError(otherwise)


def timed(side: Side) -> tuple[float, Work]:
    """Run a side once in a folder of its own; seconds, and what it did."""
    folder = Path(tempfile.mkdtemp(prefix="flaxcomp-bench-"))
    try:
        side.prepare(folder)
        began = time.perf_counter()
        side.run(folder)
        seconds = time.perf_counter() - began
        return seconds, side.read(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_pair(number: int, ours: Side, peer: Side, check: Callable[[Mapping[str, Work]], None]) -> Pair:
    """Run both sides, the peer first in odd pairs (counted from 0).

    Args:
        check: raises `UnequalError`; given both sides' work, ours first.
    """
    order = (ours, peer) if number % 2 == 0 else (peer, ours)
    seconds, works = {}, {}
    for side in order:
        seconds[side.name], works[side.name] = timed(side)
    check({side.name: works[side.name] for side in (ours, peer)})
    each = {name: value / len(works[name].accuracy) for name, value in seconds.items()}
    steady = [None if (w := works[side.name]).train_seconds is None else w.train_seconds / len(w.accuracy)
              for side in (ours, peer)]  # fmt: skip
    return Pair(
        first=order[0].name,
        seconds=seconds,
        trials_per_hour={name: 3600 / value for name, value in each.items()},
        mean_test_accuracy={name: statistics.mean(work.accuracy.values()) for name, work in works.items()},
        ratio=each[peer.name] / each[ours.name],
        train_only_ratio=steady[1] / steady[0] if steady[0] and steady[1] else None,
    )


def measure(
    record: Record, comparison: str, pairs: int, ours: Side, peer: Side, check: Callable[[Mapping[str, Work]], None]
) -> Spread:
    """Run pairs; print each, keep it in the record, and print what they come to."""
    for number in range(pairs):
        pair = run_pair(number, ours, peer, check)
        told = ", ".join(f"{name} {pair.trials_per_hour[name]:.0f} trials an hour (mean test accuracy "
                         f"{pair.mean_test_accuracy[name]:.4f})" for name in (ours.name, peer.name))  # fmt: skip
        print(f"{comparison}, pair {number + 1} of {pairs}: {told}: {pair.ratio:.2f} times", flush=True)
        total = record.add(comparison, pair)
    print(f"{comparison}: {ours.name} finishes as many trials an hour as {peer.name} {total}", flush=True)
    return total


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 at least, got {value}")
    return value


def make_parser(doc: str | None, *, pairs: int, trials: int, epochs: int, peers: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser with the options that the benchmarks share; tiny numbers make a test of one.

    Args:
        peers: the programs that `--peers` may choose of; without, there is no such option.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=positive, default=pairs, help=f"how often each measurement is made [{pairs}]")
    parser.add_argument("--trials", type=positive, default=trials, help=f"[{trials}]")
    parser.add_argument("--epochs", type=positive, default=epochs, help=f"of each trial [{epochs}]")
    parser.add_argument("--accuracy-within", type=float, default=Noise.cap, metavar="SHARE",
                        help=f"by how much mean accuracies may differ at most [{Noise.cap}]")  # fmt: skip
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file [benchmarks/results]")

    def chosen(text: str) -> list[str]:
        for name in text.split(","):
            if name not in peers:
                raise argparse.ArgumentTypeError(f"no peer is called {name!r}; there are {', '.join(peers)}")
        return text.split(",")

    if peers:
        parser.add_argument("--peers", type=chosen, default=list(peers), metavar="NAME,...", help=f"[{','.join(peers)}]")
    return parser
