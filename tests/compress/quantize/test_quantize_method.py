"""A trial with the block `quantize`: from a trained network to one with ranges beside its weights, alone and in packs."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace

from flaxcomp.checkpoint.models import load_model as load_arrays
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.compress import run
from flaxcomp.compress.quantize import method
from flaxcomp.compress.quantize.fake import with_ranges
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression.cramnet import Cramnet
from flaxcomp.sweep.compression.quantize import Quantize
from flaxcomp.sweep.compression.subset import Subset
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Optimizer, Train, TrialConfig
from flaxcomp.train.inputs import normalise_array
from flaxcomp.train.job import Finished, PackJob
from flaxcomp.train.pack import Trainer
from flaxcomp.train.program import Program
from flaxcomp.train.restore import load_besides, load_model

DENSE = TrialConfig(
    dataset=Dataset(name="mnist_sample"),
    model={"name": "simplenet_v5"},
    train=Train(epochs=3, batch_size=32, optimizer=Optimizer(learning_rate=3e-3)),
)
ROUNDED = replace(DENSE, quantize=Quantize(epochs=1, learning_rate=1e-3), source="dense")


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    full = load("mnist_sample")
    return Arrays(full.train_images[:1280], full.train_labels[:1280], full.test_images[:200], full.test_labels[:200], full.info)


@pytest.fixture(scope="module")
def trainer(arrays: Arrays) -> Trainer:
    return Trainer(arrays)


@pytest.fixture(scope="module")
def finished(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, dict[str, Any]]:
    """A run folder with the dense network and the rounded one, and the results of the second."""
    root = tmp_path_factory.mktemp("run")
    assert isinstance(list(trainer.train(job(root, "dense", DENSE), lambda: False))[-1], Finished)
    last = list(run.train(trainer, job(root, "rounded", ROUNDED), lambda: False))[-1]
    assert isinstance(last, Finished)
    return RunPaths.at(root), last.results["rounded"]


def job(root: Path, name: str, config: TrialConfig) -> PackJob:
    return PackJob(str(root), f"pack-{name}", 1, signature(config), {name: config})


def test_the_trained_network_is_trained_on_with_rounding(finished: tuple[RunPaths, dict[str, Any]], trainer: Trainer) -> None:
    paths, results = finished
    before, after = (flatten(load_arrays(paths.model(name))) for name in ("dense", "rounded"))
    assert {name for name in after if name not in before} == {
        f"stats/{place}"
        for place in ("convolutions/0/conv_general_dilated0_lhs", "halvings/0/conv_general_dilated0_lhs",
                      "logits/dot_general0_lhs", "final_output0")
    }  # fmt: skip
    for name, array in before.items():
        moved = np.abs(after[name] - array).max()
        assert 0 < moved < 0.2, name
    steps = {float(array.ravel()[0]) for name, array in after.items() if name not in before}
    assert steps == {float(trainer.program(job(paths.root, "dense", DENSE)).steps_per_epoch)}, "of the one epoch"
    assert results["val_accuracy"] > 0.5


def test_the_results_are_those_of_the_network_that_rounds(finished: tuple[RunPaths, dict[str, Any]], arrays: Arrays) -> None:
    paths, results = finished
    network = load_model(paths.model("rounded"), ROUNDED, arrays.info)
    ranges = load_besides(paths.model("rounded"), ROUNDED, arrays.info)
    x = jnp.asarray(normalise_array(arrays.test_images, ROUNDED.dataset, arrays.info))
    rounding: Any = with_ranges(network, ranges, (28, 28, 1))
    logits = jax.jit(lambda x: rounding(x))(x)
    assert float(np.mean(logits.argmax(1) == arrays.test_labels)) == pytest.approx(results["test_accuracy"])
    plain: Any = network
    assert 1e-4 < float(jnp.median(jnp.abs(plain(x) - logits))) < 0.02 * float(jnp.ptp(logits))


def test_a_pack_trains_each_trial_as_alone(trainer: Trainer) -> None:
    """Computed side by side or one after the other."""
    other = replace(ROUNDED, seed=1)
    states = []
    for configs, execution in (([ROUNDED, other], "vmap"), ([ROUNDED, other], "map"), ([other], "vmap")):
        program = Program(ROUNDED, trainer.data, variant=method.variant(ROUNDED), execution=execution)
        hyper = program.hyper(configs, [0] * len(configs))
        state = program.train(program.init(hyper), hyper, program.order(hyper, 0), None, 0, 0, 6)
        states.append(flatten(jax.tree.map(lambda leaf: leaf[-1], {"params": state["params"], "stats": state["stats"]})))
    for name, array in states[2].items():
        for state in states[:2]:
            np.testing.assert_allclose(state[name], array, atol=2e-3, err_msg=name)


def test_from_scratch_there_are_no_weights_to_begin_with(finished: tuple[RunPaths, dict[str, Any]], trainer: Trainer) -> None:
    from flaxcomp.compress.method import Workshop

    paths, _ = finished
    scratch = replace(ROUNDED, quantize=Quantize(then="scratch"))
    for config, has_weights in ((ROUNDED, True), (scratch, False)):
        searching = method.search(Workshop(trainer, dataclasses.replace(job(paths.root, "again", config)), lambda: False))
        with pytest.raises(StopIteration) as stopped:
            next(searching)
        assert stopped.value.value.model == DENSE.model
        assert (stopped.value.value.weights is not None) == has_weights


def test_scales_per_tensor_are_another_program() -> None:
    keys = {method.variant(replace(ROUNDED, quantize=Quantize(per_channel=flag))).key for flag in (True, False)}
    assert len(keys) == 2


def test_after_bitmaps_it_is_refused_before_anything_trains() -> None:
    partial = replace(ROUNDED, subset=Subset(classes=(1, 2)))
    with pytest.raises(UserError, match=r"quantize must come after whole channels alone.*subset\.partial: false"):
        run.check(partial, (28, 28, 1), 10)
    run.check(replace(partial, subset=Subset(classes=(1, 2), partial=False)), (28, 28, 1), 10)
    with pytest.raises(UserError, match="quantize must come after whole channels alone"):
        run.check(replace(ROUNDED, model={**DENSE.model, "masked": ["convolutions.0"]}), (28, 28, 1), 10)


def test_it_is_asked_of_the_blocks_that_cramnet_puts_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(method, "check", lambda config, *_: asked.append(config.model))
    block = Cramnet(ratio=0.5, replace={"convolutions/1": "residual"}, dropout=0.0)
    config = replace(ROUNDED, model={"name": "keras_cifar", "widths": [4, 4, 4, 4, 4]}, cramnet=block)
    run.check(config, (16, 16, 3), 10)
    assert asked == [
        {"name": "keras_cifar", "dropout": 0.0, "widths": [2, 2, 2, 2, 2], "kinds": ["conv", "residual", "conv", "conv"]}
    ]
