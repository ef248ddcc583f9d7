"""What a trial is said to cost."""

import pytest

from flaxcomp.data import catalog
from flaxcomp.sweep.spec import Dataset, Train, TrialConfig
from flaxcomp.train import cost

measured = cost.matrix_product_flops


@pytest.fixture(autouse=True)
def chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "matrix_product_flops", lambda: 1e11)


def test_the_chips_speed_is_measured_once() -> None:
    assert 1e7 < measured(64) < 1e16
    assert measured(64) == measured(64)


def trial(model: str = "simplenet_v1", *, limit: int | None = None, **train: int) -> TrialConfig:
    return TrialConfig(dataset=Dataset(name="mnist_sample", train_limit=limit), model={"name": model}, train=Train(**train))


def test_sizes_are_exact() -> None:
    estimate = cost.estimate(trial(batch_size=64))
    macs = 28 * 28 * 3 * 25 + 14 * 14 * 6 * 25 * 3 + 294 * 10
    assert (estimate.params, estimate.trainable_params, estimate.macs) == (3484, 3484, macs)
    assert estimate.step_flops == 6 * macs * 64
    assert estimate.disk_bytes == 4 * 3484 * (2 + 2 * 4), "two networks; two checkpoints of weights, two moments and the best"


def test_time_grows_with_epochs_images_and_size_and_not_with_the_batch() -> None:
    one = cost.estimate(trial()).seconds
    assert 0 < one < 60
    assert cost.estimate(trial(epochs=7)).seconds == pytest.approx(7 * one)
    assert cost.estimate(trial(batch_size=32)).seconds == one
    size = catalog.info("mnist_sample").train_size
    assert cost.estimate(trial(limit=size // 2)).seconds == pytest.approx(one / 2, rel=0.01)
    assert cost.estimate(trial(limit=10 * size)).seconds == one
    assert cost.estimate(trial("simplenet_lm")).seconds > 10 * one


def test_relative_work_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "matrix_product_flops", lambda: pytest.fail("measured"))
    assert cost.relative_work(trial(epochs=4)) == pytest.approx(4 * cost.relative_work(trial()))
    assert cost.relative_work(trial("simplenet_lm")) > cost.relative_work(trial("simplenet_v1"))
