"""When a training is not worth going on with: `early_stop` of a sweep file. One file a rule.

A rule has rungs, the epochs at which it decides, and decides from recorded values alone: a rung is decided once, for all trials
of a cohort together, when none of them is still on its way there. So no decision depends on who came first, on packs or on
workers. Trials that come to a rung after it was decided (added to the file, or tried again) are a cohort's next generation:
the same rule decides on them among all values recorded at that rung, and what was decided before stays.
"""

import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from flaxcomp.sweep.kinds import PositiveInt, Spec

Curve = Sequence[float | None]  # the metric after epochs 1, 2, ...; None where it was no number


class EarlyStop(Spec, frozen=True):
    """Which trainings end early. What the chosen rule does not read is refused."""

    name: Literal["asha", "median"]
    metric: Literal["val_accuracy", "val_loss"] = "val_accuracy"
    grace_epochs: PositiveInt = 1  # the first rung: before it nobody is stopped
    factor: Annotated[int, Meta(ge=2, le=1000)] = 3  # asha: the best 1/factor at a rung go on to factor times as many epochs
    every_epochs: PositiveInt = 1  # median: epochs between rungs
    min_trials: PositiveInt = 5  # median: with fewer values at a rung nobody is stopped
    # model: with trials of the same network and data set alone, so that small networks are not stopped for being small
    compare: Literal["model", "sweep"] = "model"

    def __post_init__(self) -> None:
        for rule, keys in (("asha", ("factor",)), ("median", ("every_epochs", "min_trials"))):
            for key in keys:
                if rule != self.name and getattr(self, key) != _DEFAULTS[key]:
                    raise ValueError(f"{key} is for `name: {rule}`, got `name: {self.name}`")

    def rungs(self, epochs: int | None) -> Iterator[int]:
        """The epochs after which it decides on a training of so many, ascending; endless where that is not known (None)."""
        found = _rule(self.name).rungs(self)
        return found if epochs is None else takewhile(lambda rung: rung < epochs, found)

    def next_rung(self, reached: int, epochs: int | None) -> int | None:
        """The first rung after so many epochs, if there is one."""
        return next((rung for rung in self.rungs(epochs) if rung > reached), None)

    def stops(self, rung: int, curves: Mapping[str, Curve], undecided: Collection[str]) -> set[str]:
        """The trials of `undecided` that are stopped at a rung.

        Args:
            rung: the epoch.
            curves: of all trials of the cohort that have trained at all, `undecided` among them.
            undecided: those that have reached the rung and are to be decided on.
        """
        sign = -1.0 if self.metric == "val_loss" else 1.0
        known = {trial: [None if value is None else sign * value for value in curve[:rung]] for trial, curve in curves.items()}
        diverged = {trial for trial in undecided if known[trial][rung - 1] is None}
        return diverged | _rule(self.name).stops(self, rung, known, undecided)

    def fewest(self, trials: int, epochs: int) -> list[tuple[int, int]]:
        """Of a cohort that comes together and in which nothing diverges: each rung, and how many go on there at least."""
        return _rule(self.name).fewest(self, trials, list(self.rungs(epochs)))


class Rule(Protocol):
    """What the file of a rule has."""

    def rungs(self, spec: EarlyStop) -> Iterator[int]:
        """All rungs, ascending, without end."""

    def stops(self, spec: EarlyStop, rung: int, curves: Mapping[str, Curve], undecided: Collection[str]) -> set[str]:
        """As `EarlyStop.stops`; curves end at the rung, or before it, and larger values are better."""

    def fewest(self, spec: EarlyStop, trials: int, rungs: list[int]) -> list[tuple[int, int]]:
        """As `EarlyStop.fewest`."""


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(EarlyStop)}


def _rule(name: str) -> Rule:
    rule: Rule = importlib.import_module(f"flaxcomp.sweep.stopping.{name}")
    return rule
