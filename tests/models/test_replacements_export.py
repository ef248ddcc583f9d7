"""A network with all kinds of layers leaves as any other: TFLite computes what Flax does, and its int8 file is int8."""

import jax
import numpy as np
from flax import nnx

from flaxcomp.export.convert import to_tflite
from flaxcomp.export.operators import not_int8, operators
from small_networks import network

MODEL = {"name": "keras_cifar", "widths": [4, 5, 6, 7, 8], "input_shape": (16, 16, 3), "num_classes": 10,
         "kinds": ["residual", "depthwise_separable", "conv", "residual"]}  # fmt: skip


def test_files_of_replaced_layers() -> None:
    from ai_edge_litert.interpreter import Interpreter

    graph, state = nnx.split(network(MODEL))
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)

    def forward(x: jax.Array) -> jax.Array:
        logits: jax.Array = nnx.merge(graph, state)(x)
        return logits

    data = to_tflite(forward, (16, 16, 3), "float32", None)
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[:1])
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(got, forward(x[:1]), atol=1e-4)
    assert {"CONV_2D", "DEPTHWISE_CONV_2D"} <= {operator.name for operator in operators(data)}
    assert set(not_int8(to_tflite(forward, (16, 16, 3), "int8", x))) == set()
