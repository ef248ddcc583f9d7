"""Makes float32.tflite and int8.tflite beside itself: a strided convolution, a mean and a dense layer, 8x8x1 to 10.

python tests/devices/models/make.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(0, 0.3, (3, 3, 1, 4)).astype("float32")
DENSE = RNG.normal(0, 0.5, (4, 10)).astype("float32")
BIAS = RNG.normal(0, 0.5, 10).astype("float32")


@tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1))])
def network(image: Any) -> Any:
    features = tf.nn.relu(tf.nn.conv2d(image, KERNEL, 2, "SAME"))
    return tf.reduce_mean(features, (1, 2)) @ DENSE + BIAS


def images() -> Iterator[list[Any]]:
    for _ in range(50):
        yield [RNG.normal(0, 1, (1, 8, 8, 1)).astype("float32")]


def convert(int8: bool) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = images
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    model: bytes = converter.convert()
    return model


if __name__ == "__main__":
    for name in ("float32", "int8"):
        Path(__file__).with_name(f"{name}.tflite").write_bytes(convert(name == "int8"))
