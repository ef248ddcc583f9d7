"""What a trial will cost, before it is trained: exact sizes, and a time good to a factor of about two."""

import functools
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import msgspec

from flaxcomp.checkpoint.packs import KEPT
from flaxcomp.data import catalog
from flaxcomp.models import registry
from flaxcomp.models.counting import Counts, count
from flaxcomp.sweep.compression.retraining import own_training
from flaxcomp.sweep.spec import Train, TrialConfig
from flaxcomp.train.inputs import input_shape

_EFFICIENCY = 0.3  # of the chip's matrix products that small convolutions reach; between 0.2 and 0.5 where it was measured
_OVERHEAD_S = 5e-6  # for each image: gathering, normalising, the optimizer's share
_PASSES = 3  # forward, and two products backward for each one forward
_NOMINAL_FLOPS = 2e11
_STATE_COPIES = 4  # in a checkpoint: parameters, two moments, the best network so far
_NETWORKS = 2  # that a finished trial leaves: the last and the best


@dataclass(frozen=True)
class Cost:
    """Attributes:
    params, trainable_params, macs: as `flaxcomp.models.counting.Counts`, of the network as it leaves training.
    step_flops: of one training step of one trial.
    seconds: of training on this machine alone in its pack, compiling left out.
    disk_bytes: of its finished networks, and of its checkpoints while it trains.
    """

    params: int
    trainable_params: int
    macs: int
    step_flops: int
    seconds: float
    disk_bytes: int


def estimate(config: TrialConfig) -> Cost:
    """Estimate one trial; `config.dataset` need not be prepared if it is a named one."""
    counts, leaving = _counts_of(config, config.model), _counts_of(config, registry.shipped(config.model))
    flops_per_image = 2 * _PASSES * counts.macs
    seconds = _seconds(config, matrix_product_flops())
    return Cost(
        leaving.params, leaving.trainable_params, leaving.macs, flops_per_image * config.train.batch_size, seconds,
        4 * counts.params * (_NETWORKS + KEPT * _STATE_COPIES),
    )  # fmt: skip


def relative_work(config: TrialConfig) -> float:
    """Seconds of training on a nominal chip: only good for comparing trials, and needs no measuring."""
    return _seconds(config, _NOMINAL_FLOPS)


def _seconds(config: TrialConfig, matrix_flops: float) -> float:
    info = catalog.outline(config.dataset.name)
    usable = min(info.train_size, config.dataset.train_limit or info.train_size)
    images = int(usable * (1 - config.dataset.validation.fraction))
    multiply_adds = 2 * _counts_of(config, config.model).macs / (_EFFICIENCY * matrix_flops)
    return sum(count * (passes * multiply_adds + _OVERHEAD_S) for count, passes in _phases(own_training(config), images))


def _phases(train: Train | None, images: int) -> list[tuple[int, int]]:
    """Of each phase, how many images it trains on and how many passes each costs: frozen layers need no gradient."""
    if train is None:
        return []
    if not train.phases:
        return [(images * train.epochs, _PASSES)]
    return [(phase.steps * train.batch_size if phase.steps else images * (phase.epochs or 0),
             1 if phase.train == "last" else _PASSES)
            for phase in train.phases]  # fmt: skip


def _counts_of(config: TrialConfig, model: dict[str, Any]) -> Counts:
    info = catalog.outline(config.dataset.name)
    return _counts(msgspec.json.encode(model, order="sorted"), input_shape(config.dataset, info), info.num_classes)


@functools.cache
def _counts(model: bytes, shape: tuple[int, int, int], num_classes: int) -> Counts:
    return count(msgspec.json.decode(model), shape, num_classes)


@functools.cache
def matrix_product_flops(size: int = 1024) -> float:
    """Floating-point operations a second of this chip's float32 matrix product, measured for a moment."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        product(a).block_until_ready()
        runs += 1
    return 2 * size**3 * runs / (time.perf_counter() - began)
