"""What the files of every architecture keep, in its reduced form: TFLite and ONNX compute what Flax does, int8 is int8."""

import functools
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from flax import nnx

from flaxcomp.export.convert import to_tflite
from flaxcomp.export.operators import ends, not_int8, operators, weight_types
from flaxcomp.export.to_onnx import to_onnx
from flaxcomp.models import registry
from small_networks import network, small

Floats = npt.NDArray[np.float32]
NAMES = registry.names()
# Operators of an int8 file, between its ends, that take or give another type: {network: {operator: reason}}. There are none.
EXCEPTIONS: dict[str, dict[str, str]] = {}
# Bound on the error of int8 logits, root mean square, in units of their spread over images: an untrained network's logits are
# close together, so its rounding errors are large beside them (EffNet 0.49, SqueezeNext 0.47); a wrong conversion gives 1 and
# more.
NEAR = 0.6
# Networks whose untrained form magnifies a hundredth of the input's spread to more than the logits' own: they say nothing of
# int8. sweeps/mobilenet_width_resolution_short.yaml checks a trained one on the whole test set.
CHAOTIC = {"inception_v3"}


@functools.cache
def trained(name: str) -> tuple[Any, Floats, Floats]:
    """The forward function of a network whose batch statistics are those of its 24 images; the images, and its logits."""
    model = small(name)
    x = np.random.default_rng(0).normal(size=(24, *model["input_shape"])).astype(np.float32)
    built = network(model)
    built.train()

    @nnx.jit
    def see(built: nnx.Module, x: jax.Array) -> None:
        for _, module in nnx.iter_modules(built):
            if isinstance(module, nnx.BatchNorm):
                module.momentum = 0.0
        built(x, rngs=nnx.Rngs(dropout=0))  # type: ignore[operator]

    see(built, x)
    built.eval()
    graph, state = nnx.split(built)

    def forward(x: jax.Array) -> jax.Array:
        out: jax.Array = nnx.merge(graph, state)(x)
        return out

    return forward, x, np.asarray(jax.jit(forward)(x))


@functools.cache
def file(name: str, precision: Any) -> bytes:
    forward, x, _ = trained(name)
    return to_tflite(forward, x.shape[1:], precision, x)


def run_tflite(data: bytes, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]))
    return np.concatenate(outputs)


def run_onnx(data: bytes, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as the ONNX standard says, and as flaxcomp runs it
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in images])


def quantised(data: bytes, x: Floats) -> npt.NDArray[np.int8]:
    source, _ = ends(data)
    return np.clip(np.round(x / source.scale) + source.zero_point, -128, 127).astype(np.int8)


@pytest.mark.parametrize("name", NAMES)
def test_float_files_give_flax_logits(name: str) -> None:
    _, x, logits = trained(name)
    data = file(name, "float32")
    bound = 1e-4 * max(1.0, float(np.abs(logits).max()))
    np.testing.assert_allclose(run_tflite(data, x[:8]), logits[:8], atol=bound, rtol=0)
    np.testing.assert_allclose(run_onnx(to_onnx(data), x[:8]), logits[:8], atol=bound, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_int8_files_have_only_int8_operators(name: str) -> None:
    data = file(name, "int8")
    source, target = ends(data)
    assert (source.dtype, target.dtype) == ("int8", "int8")
    assert set(not_int8(data)) == set(EXCEPTIONS.get(name, ()))
    assert {"INT8"} <= set(weight_types(data)) <= {"INT8", "INT32"}  # int32: how much PAD adds
    assert len(operators(data)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_int8_files_compute_nearly_what_flax_does(name: str) -> None:
    forward, x, logits = trained(name)
    data = file(name, "int8")
    _, target = ends(data)
    images = quantised(data, x)
    got, onnx = run_tflite(data, images), run_onnx(to_onnx(data), images[:4])
    assert (got.dtype, onnx.dtype) == (np.int8, np.int8)
    spread = float(np.std(logits - logits.mean(0)))
    if name in CHAOTIC:
        noise = 0.01 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
        assert np.sqrt(np.mean((forward(x + noise) - logits) ** 2)) > spread
        return
    for stored in (got, onnx):
        real = (stored.astype(np.float32) - target.zero_point) * target.scale
        assert np.sqrt(np.mean((real - logits[: len(real)]) ** 2)) < NEAR * spread
