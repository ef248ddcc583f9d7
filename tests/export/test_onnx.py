"""ONNX files: equal to the TFLite files they come from, and equal from process to process."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from export_nets import NETS, net
from flaxcomp.export.convert import ExportError, to_tflite
from flaxcomp.export.operators import ends
from flaxcomp.export.to_onnx import to_onnx


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in images])


def tflite(name: str, precision: str) -> bytes:
    forward, x, _ = net(name)
    return to_tflite(forward, NETS[name].shape, precision, x[:100])


@pytest.mark.parametrize("name", NETS)
def test_float32_gives_flax_logits(name):
    _, x, logits = net(name)
    np.testing.assert_allclose(run(to_onnx(tflite(name, "float32")), x[:32]), logits[:32], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETS)
def test_int8_gives_what_tflite_gives(name):
    from ai_edge_litert.interpreter import Interpreter

    data = tflite(name, "int8")
    source, _ = ends(data)
    _, x, _ = net(name)
    images = np.clip(np.round(x[:32] / source.scale) + source.zero_point, -128, 127).astype(np.int8)
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected = []
    for image in images:
        interpreter.set_tensor(into["index"], image[None])
        interpreter.invoke()
        expected.append(interpreter.get_tensor(out["index"]))
    got = run(to_onnx(data), images)
    assert got.dtype == np.int8
    assert np.abs(got.astype(int) - np.concatenate(expected).astype(int)).max() <= 2  # roundings inside differ by a step


def test_equal_files_give_equal_bytes_in_every_process(tmp_path):
    data = tflite("DepthwiseResidual", "int8")
    path = tmp_path / "a.tflite"
    path.write_bytes(data)
    code = """
import hashlib, pathlib, sys
from flaxcomp.export.to_onnx import to_onnx
print(hashlib.sha256(to_onnx(pathlib.Path(sys.argv[1]).read_bytes())).hexdigest())
"""
    environment = os.environ | {"PYTHONHASHSEED": "7"}  # the order of sets differs from this process's
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=True)
    here = [hashlib.sha256(to_onnx(data)).hexdigest() for _ in range(3)]
    assert {*here, done.stdout.strip()} == {here[0]}


def test_the_graph_is_named_by_place_and_shares_equal_constants():
    model = onnx.load_from_string(to_onnx(tflite("DepthwiseResidual", "int8")))
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert model.graph.name == "network"
    contents = []
    for tensor in model.graph.initializer:
        tensor.name = ""
        contents.append(tensor.SerializeToString(deterministic=True))
    assert len(contents) == len(set(contents)) > 10
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx.ml"}


def test_a_broken_file_is_refused():
    with pytest.raises(ExportError, match="tf2onnx cannot convert"):
        to_onnx(b"\x00" * 64)
