"""Latency and its interval: known values, what is replicated, coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.devices.statistics import summarise

samples = st.lists(st.lists(st.floats(0.001, 1e3), min_size=1, max_size=8), min_size=1, max_size=5)


def test_median_of_medians_and_mean_of_means() -> None:
    processes = [[1.0, 2.0, 30.0], [4.0, 4.0], [3.0, 5.0, 100.0]]
    assert summarise(processes).ms == 4.0
    assert summarise(processes, "mean").ms == pytest.approx((11 + 4 + 36) / 3)


def test_one_process_has_an_interval_of_runs_and_says_so() -> None:
    latency = summarise([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert latency.ci_unit == "run"
    assert 1 <= latency.ci_low < 3 < latency.ci_high <= 5
    assert summarise([[1.0], [2.0]]).ci_unit == "process"


def test_the_process_is_the_unit() -> None:
    """Steady processes that differ have a wide interval, however many runs each has."""
    processes = [[level] * 50 for level in (1.77, 1.9, 2.0, 2.2, 2.37)]
    latency = summarise(processes)
    assert (latency.ci_low, latency.ms, latency.ci_high) == (1.77, 2.0, 2.37)


@given(samples, st.sampled_from(["median", "mean"]))
def test_interval_lies_within_the_samples_and_is_repeatable(processes: list[list[float]], statistic: str) -> None:
    latency = summarise(processes, statistic, seed=3)  # type: ignore[arg-type]
    least, most = min(map(min, processes)), max(map(max, processes))
    assert least * (1 - 1e-9) <= latency.ci_low <= latency.ci_high <= most * (1 + 1e-9)
    assert latency == summarise(processes, statistic, seed=3)  # type: ignore[arg-type]


@given(samples, st.floats(0.1, 10))
def test_scales_with_the_unit_of_time(processes: list[list[float]], factor: float) -> None:
    once, scaled = summarise(processes), summarise([[factor * value for value in process] for process in processes])
    assert scaled.ms == pytest.approx(factor * once.ms)
    assert scaled.ci_high == pytest.approx(factor * once.ci_high)


@pytest.mark.parametrize(("processes", "least"), [(10, 0.9), (5, 0.85)])
def test_covers_the_true_median(processes: int, least: float) -> None:
    """Processes spread by 10 %, runs by 2 %, as they do on real machines."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        levels = 2.0 * np.exp(0.1 * rng.standard_normal((processes, 1)))
        latency = summarise((levels * np.exp(0.02 * rng.standard_normal((processes, 20)))).tolist())
        hits += latency.ci_low <= 2.0 <= latency.ci_high
    assert hits / 200 >= least


@pytest.mark.parametrize("processes", [[], [[1.0], []]])
def test_refuses_processes_without_samples(processes: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        summarise(processes)
