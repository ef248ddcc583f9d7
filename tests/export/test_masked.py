"""A network that carries bitmaps becomes files like any other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcomp.export.check import check
from flaxcomp.export.convert import to_tflite
from flaxcomp.export.operators import not_int8
from flaxcomp.models import registry

SHAPE = (8, 8, 1)


def test_float32_and_int8_files_compute_what_flax_does(tmp_path: Any) -> None:
    network: Any = registry.build(
        {"name": "tf_mnist", "widths": [4, 6, 8], "masked": ["conv1", "conv2", "hidden"]}, SHAPE, 5, nnx.Rngs(0)
    )
    network.eval()
    network.network.logits.kernel[...] *= 30  # logits as large as a trained network's
    rng = np.random.default_rng(0)
    for bitmap in network.bitmaps.values():
        bitmap[...] = jnp.asarray(rng.random(bitmap.shape) < 0.6, jnp.uint8)
    graph, state = nnx.split(network)

    def forward(x: jax.Array) -> jax.Array:
        logits: jax.Array = nnx.merge(graph, state)(x)
        return logits

    inputs = rng.random((50, *SHAPE)).astype(np.float32)
    logits = np.asarray(forward(jnp.asarray(inputs)))
    assert np.abs(logits - np.asarray(network.network(inputs))).max() > 0.1  # the bitmaps matter
    labels = logits.argmax(1).astype(np.int32)
    for precision, error in (("float32", 1e-4), ("int8", 0.05 * np.ptp(logits))):
        content = to_tflite(forward, SHAPE, precision, inputs)  # type: ignore[arg-type]
        path = tmp_path / f"{precision}.tflite"
        path.write_bytes(content)
        result = check(path, inputs, labels, logits)
        assert result.max_abs_error <= error
        assert precision == "float32" or not not_int8(content)
