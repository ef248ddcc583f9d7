"""What is inside a TFLite file, read by its schema; needs no TensorFlow."""

import functools
from dataclasses import dataclass
from typing import Any

from flaxcomp.errors import UserError

_FILE_IDENTIFIER = b"TFL3"


@dataclass(frozen=True)
class Operator:
    """One operator of the graph: TFLite's name, the element types of the activations it takes and gives."""

    name: str
    types: tuple[str, ...]
    custom: bool = False


@dataclass(frozen=True)
class Tensor:
    """An input or output: element type, shape with the batch, and for int8 real = scale * (stored - zero_point)."""

    dtype: str
    shape: tuple[int, ...]
    scale: float = 0.0
    zero_point: int = 0


def read_model(data: bytes) -> Any:
    """Return the flatbuffer's root (`tflite.Model`).

    Raises:
        UserError: these bytes are no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != _FILE_IDENTIFIER:
        raise UserError(f"not a TFLite file: it must carry {_FILE_IDENTIFIER!r} at byte 4, got {data[4:8]!r}")
    return schema.Model.GetRootAs(data)


def operators(data: bytes) -> list[Operator]:
    """The operators of a TFLite file, in order of execution; after the main graph's those of graphs that it calls."""
    model = read_model(data)
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return [_operator(model, graph, graph.Operators(i)) for graph in graphs for i in range(graph.OperatorsLength())]


def foreign_operators(data: bytes) -> list[str]:
    """Names of operators that a plain TFLite runtime lacks: custom ones, TensorFlow's (Flex) and StableHLO's."""
    return sorted({op.name for op in operators(data) if op.custom or op.name.startswith("STABLEHLO_")})


def not_int8(data: bytes) -> list[str]:
    """Names of operators that take or give an activation other than int8."""
    return others_than("INT8", data)


def others_than(kind: str, data: bytes) -> list[str]:
    """Names of operators that take or give an activation of another type; `kind` as in TFLite's schema."""
    return sorted({op.name for op in operators(data) if any(own != kind for own in op.types)})


def weight_types(data: bytes) -> list[str]:
    """The element type of every constant tensor of two and more dimensions: kernels, not biases or shapes."""
    model = read_model(data)
    graph, types = model.Subgraphs(0), _names("TensorType")
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    return [types[t.Type()] for t in tensors if t.ShapeLength() >= 2 and model.Buffers(t.Buffer()).DataLength()]


def ends(data: bytes) -> tuple[Tensor, Tensor]:
    """The one input and the one output of a TFLite file."""
    graph = read_model(data).Subgraphs(0)
    if (graph.InputsLength(), graph.OutputsLength()) != (1, 1):
        raise UserError(f"one input and one output are expected, got {graph.InputsLength()} and {graph.OutputsLength()}")
    return _tensor(graph.Tensors(graph.Inputs(0))), _tensor(graph.Tensors(graph.Outputs(0)))


def _operator(model: Any, graph: Any, operator: Any) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Old readers know only the one-byte field; the converter fills both.
    name = _names("BuiltinOperator")[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    places = [*_vector(operator.InputsAsNumpy()), *_vector(operator.OutputsAsNumpy())]
    tensors = [graph.Tensors(place) for place in places if place >= 0]
    types = tuple(_names("TensorType")[t.Type()] for t in tensors if model.Buffers(t.Buffer()).DataLength() == 0)
    return Operator(code.CustomCode().decode(), types, custom=True) if name == "CUSTOM" else Operator(name, types)


def _tensor(tensor: Any) -> Tensor:
    dtype, shape = _names("TensorType")[tensor.Type()].lower(), tuple(int(n) for n in tensor.ShapeAsNumpy())
    quantization = tensor.Quantization()
    if quantization is None or quantization.ScaleLength() == 0:
        return Tensor(dtype, shape)
    return Tensor(dtype, shape, float(quantization.Scale(0)), int(quantization.ZeroPoint(0)))


def _vector(array: Any) -> list[int]:
    return [] if isinstance(array, int) else [int(i) for i in array]  # the schema's reader gives 0 for an absent vector


@functools.cache
def _names(enum: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(getattr(schema, enum)).items() if isinstance(value, int)}
