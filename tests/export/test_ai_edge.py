"""Weight-only files, and the quantizer beside TensorFlow's: what its files hold and how near they come to Flax."""

import numpy as np
import pytest

from export_nets import NETS, net
from flaxcomp.export import ai_edge
from flaxcomp.export.convert import ExportError, to_tflite
from flaxcomp.export.operators import ends, not_int8, operators, others_than, weight_types
from flaxcomp.export.tensors import dequantised_logits


def float32(name: str) -> bytes:
    return to_tflite(net(name)[0], NETS[name].shape, "float32")


def error(data: bytes, name: str) -> float:
    """The largest of a logit, as a share of their range."""
    _, x, logits = net(name)
    return float(np.abs(dequantised_logits(data, x[:64]) - logits[:64]).max() / np.ptp(logits))


def test_weight_only_widens_each_weight_and_computes_in_float32():
    plain = float32("DepthwiseResidual")
    data = ai_edge.quantize(plain, "weight_only")
    assert set(weight_types(data)) == {"INT8"}
    assert {kind for operator in operators(data) for kind in operator.types} == {"FLOAT32"}
    names = [operator.name for operator in operators(data)]
    assert names.count("DEQUANTIZE") == 5
    assert [name for name in names if name != "DEQUANTIZE"] == [operator.name for operator in operators(plain)]
    assert len(ai_edge.quantize(float32("ConvPoolDense"), "weight_only")) < 0.3 * len(float32("ConvPoolDense"))
    assert 0 < error(data, "DepthwiseResidual") < 0.01


def test_ranges_are_the_smallest_and_largest_values():
    _, x, logits = net("Tiny")
    ranges = ai_edge.measure_ranges(float32("Tiny"), x[:64])
    assert (ranges["image"]["min"].item(), ranges["image"]["max"].item()) == (x[:64].min(), x[:64].max())
    last = ends(float32("Tiny"))[1]
    assert last.shape == (1, 10)
    reached = [(r["min"].item(), r["max"].item()) for r in ranges.values()]
    assert any(np.allclose(its, (logits[:64].min(), logits[:64].max()), atol=1e-5) for its in reached)


def test_int8_and_int16_are_so_throughout():
    plain, x = float32("DepthwiseResidual"), net("DepthwiseResidual")[1]
    ranges = ai_edge.measure_ranges(plain, x[:50])
    int8, int16 = (ai_edge.quantize(plain, kind, ranges) for kind in ("int8", "int16"))
    assert not_int8(int8) == []
    assert others_than("INT16", int16) == []
    assert {ends(int8)[0].dtype, ends(int8)[1].dtype} == {"int8"}
    assert set(weight_types(int16)) == {"INT8"}
    assert error(int16, "DepthwiseResidual") < 0.5 * error(int8, "DepthwiseResidual") < 0.025
    assert ai_edge.quantize(plain, "int8", ranges) == int8


def test_an_operator_can_be_left_out():
    plain, x = float32("DepthwiseResidual"), net("DepthwiseResidual")[1]
    ranges = ai_edge.measure_ranges(plain, x[:20])
    name = ai_edge.flow_of(plain).operators[2].tensor
    left = operators(ai_edge.quantize(plain, "int8", ranges, but=[name]))
    assert [operator.types[0] for operator in left if operator.name == "DEPTHWISE_CONV_2D"] == ["FLOAT32"]
    assert {operator.types[0] for operator in left if operator.name == "CONV_2D"} == {"INT8"}


def test_what_it_refuses_is_said():
    with pytest.raises(ExportError, match="ai-edge-quantizer cannot convert this network to int8"):
        ai_edge.quantize(float32("Tiny"), "int8", {})


def test_tensorflows_int16():
    forward, x, _ = net("DepthwiseResidual")
    data = to_tflite(forward, NETS["DepthwiseResidual"].shape, "int16", x[:50])
    assert others_than("INT16", data) == []
    assert {ends(data)[0].dtype, ends(data)[1].dtype} == {"int16"}
    assert error(data, "DepthwiseResidual") < 0.01


def test_int16_is_refused_where_tflite_lacks_the_operator():
    import jax
    from flax import nnx

    def forward(x: jax.Array) -> jax.Array:
        return nnx.hard_swish(x).mean((1, 2))

    with pytest.raises(ExportError, match=r"cannot convert this network to int16: .*'HARD_SWISH'"):
        to_tflite(forward, (8, 8, 10), "int16", np.random.default_rng(0).random((4, 8, 8, 10), np.float32))
