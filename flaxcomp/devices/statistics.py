"""One figure and its interval from the raw samples of several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000
CENTRES: dict[str, Callable[..., Any]] = {"median": np.median, "mean": np.mean}


@dataclass(frozen=True)
class Latency:
    """A latency in ms with its 95 % bootstrap interval.

    Attributes:
        ci_unit: what the interval covers. "process": the spread between processes and inside them. "run": only the spread
            inside the one process there was, which is much smaller than what another process would show.
    """

    ms: float
    ci_low: float
    ci_high: float
    ci_unit: Literal["process", "run"]


def summarise(samples_ms: Sequence[Sequence[float]], statistic: Literal["median", "mean"] = "median", seed: int = 0) -> Latency:
    """Return the statistic over processes of the statistic of each process's runs.

    The process is the unit of replication: six processes on one machine gave medians from 1.77 to 2.37 ms where each stayed
    within 2 %. So the bootstrap draws processes with replacement, then runs inside each drawn process, and takes the
    percentiles 2.5 and 97.5. For the median of n processes such an interval reaches from the lowest to the highest at most:
    five processes can cover 94 %, three 75 %.

    Args:
        samples_ms: ms, one sequence a process; they may differ in length.
        statistic: how runs and processes are summarised.
        seed: of the resampling; the same samples and seed give the same interval.

    Raises:
        ValueError: there is no process, or one without samples.

    Reference: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (hierarchical data).
    """
    processes = [np.asarray(samples, np.float64) for samples in samples_ms]
    if not processes or any(samples.size == 0 for samples in processes):
        raise ValueError("every process needs at least one sample")
    centre = CENTRES[statistic]
    resampled = _resample(processes, centre, np.random.default_rng(seed))
    low, high = np.percentile(centre(resampled, axis=1), [2.5, 97.5])
    value = float(centre([centre(samples) for samples in processes]))
    return Latency(value, float(low), float(high), "process" if len(processes) > 1 else "run")


def _resample(processes: list[Array], centre: Callable[..., Any], rng: np.random.Generator) -> Array:
    """Return [RESAMPLES, processes]: the statistic of the resampled runs of a process drawn for each place."""
    drawn = rng.integers(len(processes), size=(RESAMPLES, len(processes)))
    statistics = np.empty(drawn.shape)
    for number, samples in enumerate(processes):
        places = drawn == number
        runs = rng.integers(samples.size, size=(int(places.sum()), samples.size))
        statistics[places] = centre(samples[runs], axis=1)
    return statistics
