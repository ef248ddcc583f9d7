"""The block `quantize`, and the files that `export` asks for, as the sweep file has them."""

import pytest

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep.compression.quantize import Quantize
from flaxcomp.sweep.ids import canonical
from flaxcomp.sweep.spec import Calibration
from sweep_samples import load, trials_of


def test_it_trains_on_by_default_and_defaults_make_no_other_trial() -> None:
    dense, rounded = trials_of(load("  quantize: {}\n"))
    assert rounded.config.quantize == Quantize()
    assert (Quantize().then, Quantize().per_channel, Quantize().epochs) == ("fine_tune", True, None)
    assert rounded.needs == (dense.id,)
    (_, same) = trials_of(load("  quantize: {then: fine_tune, per_channel: true}\n"))
    assert (same.id, canonical(same.config)) == (rounded.id, canonical(rounded.config))


def test_its_numbers_are_axes() -> None:
    body = "parameters:\n  quantize.epochs: {values: [1, 2]}\n  quantize.per_channel: {values: [true, false]}\n"
    trials = [trial.config.quantize for trial in trials_of(load(body)) if trial.role == "trial"]
    assert {(block.epochs, block.per_channel) for block in trials if block} == {(1, True), (1, False), (2, True), (2, False)}


@pytest.mark.parametrize(
    ("block", "message"),
    [("{bits: 8}", "bits"), ("{then: later}", "then"), ("{epochs: 0}", "epochs"), ("{per_channel: maybe}", "per_channel")],
)
def test_what_it_does_not_know_is_refused(block: str, message: str) -> None:
    with pytest.raises(SweepFileError, match=message):
        trials_of(load(f"  quantize: {block}\n"))


def test_lists_of_calibrations_multiply() -> None:
    asked = "export: {calibration_images: [50, 200, 50], calibration_seed: [0, 1], quantizer: [ai_edge, tensorflow]}\n"
    spec = load(asked).sweep.export
    assert spec is not None
    expected = [
        Calibration(images=i, seed=s, quantizer=q) for q in ("ai_edge", "tensorflow") for i in (50, 200) for s in (0, 1)
    ]
    assert list(spec.calibrations) == expected
    single = load("export: {calibration_images: 50}\n").sweep.export
    assert single is not None
    assert single.calibrations == (Calibration(images=50),)


@pytest.mark.parametrize(
    "wrong",
    ["calibration_images: []", "calibration_images: 0", "calibration_seed: [-1]", "quantizer: qwix", "precisions: [int4]"],
)
def test_impossible_exports_are_refused(wrong: str) -> None:
    with pytest.raises(SweepFileError, match=wrong.partition(":")[0]):
        load(f"export: {{{wrong}}}\n")
