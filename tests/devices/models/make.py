"""Makes float32.tflite and int8.tflite beside itself: a strided convolution, a mean and a dense layer, 8x8x1 to 10;
and conv8.tflite and conv32.tflite: a 3x3 convolution from 16x16x4 to so many channels, float32.

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


def convolution(channels: int) -> Any:
    kernel = RNG.normal(0, 0.2, (3, 3, 4, channels)).astype("float32")
    return tf.function(lambda image: tf.nn.conv2d(image, kernel, 1, "SAME"), input_signature=[tf.TensorSpec((1, 16, 16, 4))])


def convert(function: Any, int8: bool = False) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = images
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    model: bytes = converter.convert()
    return model


if __name__ == "__main__":
    for name in ("float32", "int8"):
        Path(__file__).with_name(f"{name}.tflite").write_bytes(convert(network, name == "int8"))
    for channels in (8, 32):
        Path(__file__).with_name(f"conv{channels}.tflite").write_bytes(convert(convolution(channels)))
