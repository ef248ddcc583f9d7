"""Conversion to TFLite: what comes out is what went in, at every precision."""

import os
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from export_nets import NETS, net
from flaxcomp.export.convert import ExportError, captured_stderr, to_tflite
from flaxcomp.export.operators import Tensor, ends, foreign_operators, not_int8, operators, weight_types
from flaxcomp.models import registry
from flaxcomp.models.layers import Conv, fast_forms

PRECISIONS = ("float32", "float16", "dynamic", "int8")


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    """An interpreter apart from flaxcomp's own: TFLite's plain kernels, scale and zero point from the file's tensors."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    if source["dtype"] == np.int8:
        scale, zero = source["quantization"]
        x = np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)
    outputs = []
    for image in x:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]).astype(np.float32))
    scale, zero = target["quantization"]
    logits = np.concatenate(outputs)
    return (logits - zero) * scale if scale else logits


def convert(name: str, precision: str) -> bytes:
    forward, x, _ = net(name)
    return to_tflite(forward, NETS[name].shape, precision, x[:100])


@pytest.mark.parametrize("name", NETS)
def test_float32_gives_flax_logits(name):
    data = convert(name, "float32")
    _, x, logits = net(name)
    np.testing.assert_allclose(run(data, x[:64]), logits[:64], atol=1e-5, rtol=0)
    assert ends(data)[0].shape == (1, *NETS[name].shape)
    assert ends(data)[1] == Tensor("float32", (1, 10))


@pytest.mark.parametrize("name", NETS)
def test_int8_is_int8_from_end_to_end(name):
    data = convert(name, "int8")
    assert not_int8(data) == []
    assert set(weight_types(data)) == {"INT8"}
    source, target = ends(data)
    assert (source.dtype, target.dtype) == ("int8", "int8")
    assert source.scale == pytest.approx(1 / 255, rel=0.01)  # the inputs fill [0, 1)
    assert source.zero_point == -128
    _, x, logits = net(name)
    got = run(data, x[:64])
    assert np.abs(got - logits[:64]).max() < 0.05 * np.ptp(logits)
    assert np.corrcoef(got.ravel(), logits[:64].ravel())[0, 1] > 0.995


def test_the_converter_folds_and_keeps_the_operators_that_devices_are_fast_at():
    names = Counter(operator.name for operator in operators(convert("DepthwiseResidual", "float32")))
    assert names == {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 1, "ADD": 1, "AVERAGE_POOL_2D": 1, "FULLY_CONNECTED": 1}


def test_float16_halves_the_file_and_dynamic_quarters_its_large_weights():
    sizes = {precision: len(convert("ConvPoolDense", precision)) for precision in PRECISIONS}
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, rel=0.03)
    assert sizes["dynamic"] == pytest.approx(sizes["float32"] / 4, rel=0.08)
    assert sizes["int8"] == pytest.approx(sizes["float32"] / 4, rel=0.08)


def test_float16_and_dynamic_stay_near_flax():
    _, x, logits = net("ConvPoolDense")
    for precision, share in (("float16", 1e-3), ("dynamic", 2e-2)):
        error = np.abs(run(convert("ConvPoolDense", precision), x[:64]) - logits[:64]).max()
        assert 0 < error < share * np.ptp(logits), precision


def test_dynamic_leaves_a_tiny_net_as_it_is():
    assert weight_types(convert("Tiny", "dynamic")) == ["FLOAT32"] * 3
    assert len(convert("Tiny", "dynamic")) == len(convert("Tiny", "float32"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_calls_give_equal_bytes(precision):
    assert convert("DepthwiseResidual", precision) == convert("DepthwiseResidual", precision)


def test_export_traces_plain_forms_even_inside_fast_ones():
    conv = Conv(2, 4, (5, 5), rngs=nnx.Rngs(0))
    with fast_forms():
        data = to_tflite(lambda x: nnx.avg_pool(conv(x), (28, 28)).reshape(x.shape[0], 4), (28, 28, 2), "float32")
    assert [operator.name for operator in operators(data)] == ["CONV_2D", "AVERAGE_POOL_2D", "RESHAPE"]


def test_an_operator_that_tflite_lacks_is_refused_by_name():
    def forward(x: jax.Array) -> jax.Array:
        return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=True).mean((1, 2))

    with pytest.raises(ExportError, match="STABLEHLO_REDUCE_WINDOW"):
        to_tflite(forward, (8, 8, 10), "float32")


def test_int8_refuses_what_it_cannot_quantise():
    images = np.random.default_rng(0).random((4, 8, 8, 10), np.float32)

    def forward(x: jax.Array) -> jax.Array:
        return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=True).mean((1, 2))

    with pytest.raises(ExportError, match=r"cannot convert this network to int8: 'stablehlo.reduce_window' op is not any of"):
        to_tflite(forward, (8, 8, 10), "int8", images)


def test_int8_needs_images():
    forward, x, _ = net("Tiny")
    for nothing in (None, x[:0]):
        with pytest.raises(ValueError, match="calibration images"):
            to_tflite(forward, (28, 28, 1), "int8", nothing)


def test_foreign_operators_of_a_good_file():
    assert foreign_operators(convert("Shuffle", "float32")) == []


def test_conversion_writes_nothing_to_the_terminal(capfd):
    convert("Tiny", "int8")
    assert capfd.readouterr() == ("", "")


def test_captured_stderr_gives_back_what_c_wrote(capfd):
    with captured_stderr() as told:
        os.write(2, b"from C\n")
        assert told() == "from C\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_flaxcomp_without_export_imports_no_tensorflow():
    modules = "flaxcomp.export.check, flaxcomp.export.metadata, flaxcomp.report.winners"
    code = f"import sys, {modules}; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_network_that_carries_bitmaps_computes_what_flax_does():
    model = {"name": "tf_mnist", "widths": [4, 6, 8], "masked": ["conv1", "conv2", "hidden"]}
    network = registry.build(model, (8, 8, 1), 5, nnx.Rngs(0))
    network.eval()
    network.network.logits.kernel[...] *= 30  # logits as large as a trained network's
    rng = np.random.default_rng(0)
    for bitmap in network.bitmaps.values():
        bitmap[...] = jnp.asarray(rng.random(bitmap.shape) < 0.6, jnp.uint8)
    graph, state = nnx.split(network)
    x = rng.random((50, 8, 8, 1)).astype(np.float32)
    logits = np.asarray(network(x))
    assert np.abs(logits - np.asarray(network.network(x))).max() > 0.1  # the bitmaps matter
    for precision, error in (("float32", 1e-4), ("int8", 0.05 * np.ptp(logits))):
        data = to_tflite(lambda image: nnx.merge(graph, state)(image), (8, 8, 1), precision, x)
        np.testing.assert_allclose(run(data, x), logits, atol=error, rtol=0)
        assert precision == "float32" or not_int8(data) == []
