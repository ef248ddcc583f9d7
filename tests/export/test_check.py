"""The check: figures that can be computed by hand, and results that are the shipped file's."""

import numpy as np
import pytest

from export_nets import NETS, net
from flaxcomp.errors import UserError
from flaxcomp.export.card import Card, Normalisation
from flaxcomp.export.check import check, predict
from flaxcomp.export.convert import to_tflite
from flaxcomp.export.metadata import embed_onnx, embed_tflite
from flaxcomp.export.operators import ends
from flaxcomp.export.to_onnx import to_onnx

CARD = Card(
    labels=tuple("abcdefghij"),
    normalisation=Normalisation("unit", (0.0,), (255.0,), "pixel / 255"),
    trial="t",
    config={},
    dataset={"name": "d", "fingerprint": "f"},
    precision="any",
    calibration=None,
    versions={},
)


def write(folder, name: str, precision: str, suffix: str = "tflite"):
    forward, x, _ = net(name)
    data = to_tflite(forward, NETS[name].shape, precision, x[:100])
    path = folder / f"{name}.{precision}.{suffix}"
    path.write_bytes(embed_tflite(data, CARD) if suffix == "tflite" else embed_onnx(to_onnx(data), CARD, data))
    return path


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_figures_of_a_float_file(tmp_path, suffix):
    path = write(tmp_path, "Tiny", "float32", suffix)
    _, x, logits = net("Tiny")
    labels = logits.argmax(1).astype(np.int32)
    result = check(path, x, labels, logits)
    assert (result.accuracy, result.agreement) == (1.0, 1.0)
    assert 0 < result.max_abs_error < 1e-5
    labels[:64] = (labels[:64] + 1) % 10  # a quarter of the labels is wrong, and one logit is off by 3
    other = logits.copy()
    other[5, labels[5]] -= 3
    result = check(path, x, labels, other)
    assert (result.accuracy, result.agreement) == (0.75, 1.0)
    assert result.max_abs_error == pytest.approx(3, abs=1e-4)
    result = check(path, x, labels, -logits)
    assert result.agreement == 0.0


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_int8_answers_in_units_of_logits(tmp_path, name, suffix):
    path = write(tmp_path, name, "int8", suffix)
    _, x, logits = net(name)
    got = predict(path, x)
    assert got.dtype == np.float32
    assert got.shape == logits.shape
    assert np.abs(got - logits).max() < 0.06 * np.ptp(logits)
    np.testing.assert_array_equal(got, predict(path, x, threads=3))  # how images are shared between threads changes nothing


@pytest.mark.parametrize("name", NETS)
def test_fast_int8_kernels_are_near_the_reference_ones(tmp_path, name):
    path = write(tmp_path, name, "int8")
    _, x, _ = net(name)
    step = ends(path.read_bytes())[1].scale
    apart = np.abs(predict(path, x[:64]) - predict(path, x[:64], reference_kernels=True)) / step
    assert apart.max() < 3.5  # roundings inside add up over layers; a wrong kernel is off by tens
    assert apart.mean() < 0.5


def test_fewer_images_than_threads(tmp_path):
    path = write(tmp_path, "Tiny", "float32")
    _, x, logits = net("Tiny")
    np.testing.assert_allclose(predict(path, x[:1], threads=8), logits[:1], atol=1e-5)


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_file_that_cannot_be_run_is_named(tmp_path, suffix):
    path = write(tmp_path, "Tiny", "float32", suffix)
    with pytest.raises(UserError, match=rf"Tiny.float32.{suffix}: this file cannot be run"):
        predict(path, np.zeros((4, 9, 9, 1), np.float32))
