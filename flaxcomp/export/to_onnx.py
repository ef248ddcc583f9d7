"""TFLite to ONNX through tf2onnx, brought into a canonical form."""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

from flaxcomp.export.convert import ExportError, captured_stderr, start_tensorflow


def to_onnx(tflite: bytes) -> bytes:
    """Convert a TFLite file (float32 or int8) to ONNX. Equal files give equal bytes, in every process.

    Raises:
        ExportError: an operator has no counterpart in ONNX.
    """
    start_tensorflow()
    import onnx
    import tf2onnx.convert

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, captured_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx uses tf.lite.Interpreter, which announces its end
        path = Path(folder) / "network.tflite"
        path.write_bytes(tflite)
        try:
            model, _ = tf2onnx.convert.from_tflite(str(path))
            canonical = _canonical(model)
            onnx.checker.check_model(canonical, full_check=True)  # from_tflite leaves unknown operators in without a word
        except Exception as error:  # tf2onnx raises ValueError, KeyError, AssertionError; the checker its own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"tf2onnx cannot convert this TFLite file: {reason}") from error
    content: bytes = canonical.SerializeToString(deterministic=True)
    return content


def _canonical(model: Any) -> Any:
    """Rebuild the graph from its output, numbered by place, with equal constants and equal nodes made one.

    tf2onnx's names, its order and what its optimizer merges change from process to process.
    """
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    canonical = type(model)()
    canonical.CopyFrom(model)
    canonical.graph.Clear()
    names = {graph.input[0].name: "image", "": ""}
    known: dict[Any, Any] = {}  # by content
    stack = [(graph.output[0].name, False)]  # no recursion: deep networks would exceed Python's limit
    while stack:
        name, ready = stack.pop()
        if name in names:
            continue
        if name in constants:
            names[name] = _constant(canonical.graph, known, constants[name])
        elif ready:
            node = maker[name]
            names.update(zip(node.output, _node(canonical.graph, known, node, names), strict=True))
        else:
            stack.append((name, True))
            stack.extend((source, False) for source in reversed(maker[name].input))
    canonical.graph.name = "network"
    for value, new in ((graph.input[0], "image"), (graph.output[0], "logits")):
        value.name = new
    canonical.graph.node[-1].output[0] = "logits"  # the output is finished last
    canonical.graph.input.append(graph.input[0])
    canonical.graph.output.append(graph.output[0])
    return canonical


def _constant(graph: Any, known: dict[Any, Any], tensor: Any) -> str:
    tensor.name = ""
    content = tensor.SerializeToString(deterministic=True)
    if content not in known:
        known[content] = tensor.name = f"c{len(graph.initializer)}"
        graph.initializer.append(tensor)
    name: str = known[content]
    return name


def _node(graph: Any, known: dict[Any, Any], node: Any, names: dict[str, str]) -> list[str]:
    attributes = sorted(node.attribute, key=lambda attribute: str(attribute.name))
    inputs = [names[source] for source in node.input]
    content = (node.domain, node.op_type, tuple(inputs), tuple(a.SerializeToString(deterministic=True) for a in attributes))
    if content not in known:
        place = len(graph.node)
        known[content] = [f"v{place}.{i}" for i in range(len(node.output))]
        graph.node.add(op_type=node.op_type, domain=node.domain, name=f"n{place}.{node.op_type}", input=inputs,
                       output=known[content], attribute=attributes)  # fmt: skip
    outputs: list[str] = known[content]
    return outputs
