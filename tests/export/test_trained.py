"""Judgement of files, and the choice of calibration images."""

from dataclasses import replace

import numpy as np
import pytest

from export_nets import CONFIG, net, sample, trained
from flaxcomp.data.arrays import split_validation
from flaxcomp.export.check import Check
from flaxcomp.export.convert import to_tflite
from flaxcomp.export.lacking import File
from flaxcomp.export.trained import KERNEL_BOUND, Bare, Made, Trained, calibration_indices
from flaxcomp.sweep.spec import Calibration, Dataset, Export, Validation


@pytest.fixture(scope="module")
def subject() -> Trained:
    return Trained.of("t" * 16, CONFIG, Export(calibration_images=20), sample(), trained())


GOOD = Made(b"", 0, Bare(b""))
INT8 = File("int8", "tflite", Calibration(images=20))


def result(subject: Trained, drop: float = 0.0, error: float = 1e-6) -> Check:
    return Check(accuracy=subject.accuracy() - drop, max_abs_error=error, agreement=1.0)


def test_flax_accuracy_is_that_of_the_trained_net(subject):
    assert 0.95 < subject.accuracy() < 1.0
    assert subject.logits.shape == (2000, 10)


def test_a_good_file_has_no_fault(subject):
    assert subject.faults(GOOD, "float32", result(subject), None) == []


def test_a_drop_of_the_bound_passes_and_a_larger_one_does_not(subject):
    assert subject.faults(GOOD, "float16", result(subject, drop=0.01), None) == []
    assert subject.faults(GOOD, "float16", result(subject, drop=0.0105), None) == [
        "accuracy drops by 0.0105 against Flax, more than 0.01"
    ]
    strict = replace(subject, spec=Export(max_accuracy_drop=0.0))
    assert len(strict.faults(GOOD, "float16", result(subject, drop=0.0005), None)) == 1
    assert strict.faults(GOOD, "float16", result(subject, drop=-0.0005), None) == []


def test_float32_must_give_flax_logits(subject):
    largest = np.abs(subject.logits).max()
    assert largest > 1
    assert subject.faults(GOOD, "float32", result(subject, error=0.9e-3 * largest), None) == []
    (fault,) = subject.faults(GOOD, "float32", result(subject, error=1.1e-3 * largest), None)
    assert fault.startswith("logits differ from Flax's by")
    assert len(subject.faults(GOOD, "float32", result(subject, error=float("nan")), None)) == 1
    assert subject.faults(GOOD, "float16", result(subject, error=1.0), None) == []  # judged by accuracy alone


def test_a_network_that_diverged_is_flagged(subject):
    lost = replace(subject, logits=np.full_like(subject.logits, np.nan))
    assert "the Flax network's own logits are not finite" in lost.faults(GOOD, "float16", result(lost), None)


def test_an_int8_file_with_other_operators_is_flagged(subject):
    forward, _, _ = net("Tiny")
    floats = to_tflite(forward, (28, 28, 1), "float32")
    (fault,) = subject.faults(Made(b"", 0, Bare(floats)), "int8", result(subject), 0)
    assert fault == "not int8: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, RESHAPE"


def test_kernels_far_apart_are_flagged(subject):
    made = subject.make(INT8)
    assert subject.faults(made, "int8", result(subject), KERNEL_BOUND) == []
    (fault,) = subject.faults(made, "int8", result(subject), KERNEL_BOUND + 1)
    assert fault == "XNNPACK and reference kernels differ by 9 quantisation steps, more than 8"


def test_notes_tell_what_dynamic_range_left_alone(subject):
    forward, _, _ = net("Tiny")
    tiny = to_tflite(forward, (28, 28, 1), "dynamic")
    assert subject.note(Made(tiny, 0, Bare(tiny)), "dynamic").startswith(
        "nothing was quantized: dynamic range leaves weights of fewer than 1,024"
    )
    partly = subject.make(File("dynamic", "tflite"))
    assert subject.note(partly, "dynamic") == "2 of 3 weights quantized: those of fewer than 1,024 elements stay float32"
    assert subject.note(partly, "float32") is None


def test_a_float16_file_that_grew_is_noted(subject):
    small = replace(subject, plain={("float32", None): Bare(b"1234")})
    assert small.note(Made(b"12345", 0, Bare(b"1234")), "float16").startswith("no smaller than float32")
    assert small.note(Made(b"123456", 3, Bare(b"123")), "float16") is None


def test_calibration_images_are_training_images_only():
    spec = Dataset(name="x", validation=Validation(fraction=0.25, seed=3), train_limit=100)
    chosen = calibration_indices(spec, 1000, 30)
    train, validation = split_validation(100, 0.25, 3)
    assert len(chosen) == len(set(chosen)) == 30
    assert set(chosen) <= set(train)
    assert not set(chosen) & set(validation)
    assert list(chosen) == sorted(chosen)
    np.testing.assert_array_equal(chosen, calibration_indices(spec, 1000, 30))
    assert len(calibration_indices(spec, 1000, 5000)) == 75  # all there are
    assert list(chosen) != list(calibration_indices(spec, 1000, 30, seed=1))


def test_the_card_says_how_int8_was_calibrated(subject):
    assert subject.card.calibration is None
    assert len(subject.calibrating(Calibration(images=20))) == 20
    told = b'"calibration":{"images":20,"quantizer":"tensorflow","ranges":"min-max","seed":0,"split":"train"}'
    assert told in subject.make(INT8).content
    assert b'"calibration":null' in subject.make(File("float32", "tflite")).content
