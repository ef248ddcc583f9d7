"""Figures over repeated runs: mean, sample standard deviation, 95 % interval, and the compression rate.

Reference: SimpLeNet (Rusu 2018), the definitions of section 1 of the project's reference page.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flaxcomp.report.fronts import is_number
from flaxcomp.store.frame import TRIAL_COLUMNS, Row


@dataclass(frozen=True)
class Summary:
    """A sample of runs, in the unit of its values.

    Attributes:
        count: n.
        mean: the arithmetic mean.
        deviation: the sample standard deviation s (divisor n - 1); None for a single run.
        half_width: of the 95 % interval of the mean, 1.96 s / sqrt(n); None for a single run.
    """

    count: int
    mean: float
    deviation: float | None
    half_width: float | None

    @property
    def low(self) -> float:
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half_width or 0.0)


def summarise(values: Iterable[float]) -> Summary:
    """Summarise at least one value.

    >>> round(summarise([0.96, 0.98]).half_width, 6)
    0.0196

    Raises:
        ValueError: there is no value.
    """
    sample = [float(value) for value in values]
    if not sample:
        raise ValueError("a summary needs at least one value, got none")
    count = len(sample)
    mean = math.fsum(sample) / count
    if count == 1:
        return Summary(1, mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in sample) / (count - 1))
    return Summary(count, mean, deviation, 1.96 * deviation / math.sqrt(count))


def comp_rate(row: Mapping[str, Any], trials: Sequence[Row]) -> float | None:
    """CompRate = (D - d) / D over trainable weights: the share that the row's model saves against its reference.

    The reference is the row's teacher (`distill.teacher`), several teachers together, if among the trials; else the largest
    model of the run.
    For many rows use `comp_rates`.
    """
    return comp_rates([row], trials)[0]


def comp_rates(rows: Sequence[Mapping[str, Any]], trials: Sequence[Row]) -> list[float | None]:
    """`comp_rate` of each row; None where no parameter count is known."""
    sizes = {row["trial"]: row["trainable_params"] for row in trials if is_number(row.get("trainable_params"))}
    largest = max(sizes.values(), default=0)
    rates: list[float | None] = []
    for row in rows:
        own = row.get("trainable_params")
        teachers = teachers_of(row)
        known = teachers and all(teacher in sizes for teacher in teachers)
        reference = sum(sizes[teacher] for teacher in teachers) if known else largest
        rates.append((reference - own) / reference if is_number(own) and reference else None)
    return rates


def teachers_of(row: Mapping[str, Any]) -> list[str]:
    """The ids of a trial's teachers."""
    given = row.get("distill.teacher")
    return list(given) if isinstance(given, list | tuple) else [given] if given else []


def configuration(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a trial row that say what was asked for: the dotted ones and `seed`."""
    return {name: value for name, value in row.items() if ("." in name or name == "seed") and name not in TRIAL_COLUMNS}


def by_configuration(rows: Iterable[Row]) -> list[list[Row]]:
    """Group rows that differ only in their seed, in order of first appearance."""
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        key = tuple(
            sorted((name, repr(value)) for name, value in configuration(row).items() if name != "seed" and value is not None)
        )
        groups.setdefault(key, []).append(row)
    return list(groups.values())
