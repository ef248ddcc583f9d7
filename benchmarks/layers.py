"""Milliseconds of a convolution with both gradients, in every form, inside a loop as training runs it. Batch 128, float32.

python -m benchmarks.layers
"""

import time
from collections.abc import Callable
from typing import Any

import jax

from flaxcomp.models import forms

LOOPS = 5
SHAPES = [  # images [n, h, w, c_in], kernel [k, k, c_in, c_out]
    ((128, 28, 28, 1), (5, 5, 1, 3)),
    ((128, 14, 14, 3), (5, 5, 3, 6)),
    ((128, 28, 28, 1), (5, 5, 1, 32)),
    ((128, 14, 14, 32), (5, 5, 32, 64)),
    ((128, 32, 32, 16), (3, 3, 16, 16)),
    ((128, 8, 8, 64), (3, 3, 64, 64)),
]


def library(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def milliseconds(form: Callable[..., Any], x: jax.Array, kernel: jax.Array) -> float:
    gradients = jax.grad(lambda x, k: (form(x, k) ** 2).sum(), (0, 1))

    def step(_: Any, state: Any) -> Any:
        return jax.tree.map(lambda a, g: a - 1e-6 * g, state, gradients(*state))

    loop = jax.jit(lambda x, kernel: jax.lax.fori_loop(0, LOOPS, step, (x, kernel)))
    jax.block_until_ready(loop(x, kernel))
    began = time.perf_counter()
    jax.block_until_ready(loop(x, kernel))
    return (time.perf_counter() - began) / LOOPS * 1e3


def main() -> None:
    candidates = (library, forms.conv_by_bands, forms.conv_by_patches, forms.conv_by_taps)
    for images, kernel_shape in SHAPES:
        x, kernel = jax.random.normal(jax.random.key(0), images), 0.1 * jax.random.normal(jax.random.key(1), kernel_shape)
        times = {form.__name__: milliseconds(form, x, kernel) for form in candidates}
        print(f"{images} {kernel_shape}: " + ", ".join(f"{name} {ms:.1f}" for name, ms in times.items()), flush=True)


if __name__ == "__main__":
    main()
