"""Convolutions as matrix products: several forms that compute what the library's does, for the shapes that each names.

XLA on CPU runs small convolutions far below the speed of its matrix products, and their kernel gradients inside a loop on
one thread (`python -m benchmarks.layers`). A contract test holds all forms equal, forward and in both gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np


def conv_by_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution whose stride equals its kernel: each block of pixels is one row of a matrix product.

    Args:
        x: [n, h, w, c_in], h and w multiples of the kernel's.
        kernel: [kh, kw, c_in, c_out].

    Returns:
        [n, h / kh, w / kw, c_out].
    """
    n, h, w, c = x.shape
    kh, kw, _, c_out = kernel.shape
    blocks = x.reshape(n, h // kh, kh, w // kw, kw, c).swapaxes(2, 3)  # [n, h', w', kh, kw, c]
    return (blocks.reshape(-1, kh * kw * c) @ kernel.reshape(-1, c_out)).reshape(n, h // kh, w // kw, c_out)


def conv_by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Odd square kernel, stride 1, SAME: every pixel's neighbourhood is one row of a matrix product.

    Args:
        x: [n, h, w, c_in].
        kernel: [k, k, c_in, c_out].

    Returns:
        [n, h, w, c_out].
    """
    n, h, w, c = x.shape
    k, _, _, c_out = kernel.shape
    p = k // 2
    padded = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    columns = jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(k) for j in range(k)], -1)
    return (columns.reshape(-1, k * k * c) @ kernel.reshape(-1, c_out)).reshape(n, h, w, c_out)


def conv_by_bands(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Odd square kernel, stride 1, SAME: k whole image rows times a banded (Toeplitz) matrix give one output row.

    Wastes width / k of the products on zeros and wins all the same where channels are few, because the product is large.

    Args:
        x: [n, h, w, c_in].
        kernel: [k, k, c_in, c_out].

    Returns:
        [n, h, w, c_out].
    """
    n, h, w, c = x.shape
    k, _, _, c_out = kernel.shape
    p = k // 2
    padded = jnp.pad(x, ((0, 0), (p, p), (0, 0), (0, 0))).reshape(n, h + 2 * p, w * c)
    rows = jnp.concatenate([padded[:, i : i + h] for i in range(k)], -1)  # [n, h, k * w * c]
    taps = np.stack([np.eye(w, w, p - j) for j in range(k)]).astype(
        np.dtype(kernel.dtype)
    )  # taps[j, a, b] = 1 where a = b + j - p
    band = jnp.einsum("ijco,jab->iacbo", kernel, taps).reshape(k * w * c, w * c_out)
    return (rows.reshape(n * h, -1) @ band).reshape(n, h, w, c_out)


@jax.custom_vjp
def conv_by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Odd square kernel, stride 1, SAME: the library's convolution, with a kernel gradient of one product per tap.

    The library's own kernel gradient runs on one thread inside a loop on CPU, 10 to 80 times slower.

    Args:
        x: [n, h, w, c_in].
        kernel: [k, k, c_in, c_out].

    Returns:
        [n, h, w, c_out].
    """
    dimensions = ("NHWC", "HWIO", "NHWC")
    out: jax.Array = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return out


def _taps_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_by_taps(x, kernel), (x, kernel)


def _taps_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    _, h, w, c = x.shape
    k, _, _, c_out = kernel.shape
    p = k // 2
    to_input = conv_by_taps(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    padded = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    flat = gradient.reshape(-1, c_out)
    taps = [padded[:, i : i + h, j : j + w].reshape(-1, c).T @ flat for i in range(k) for j in range(k)]
    return to_input, jnp.stack(taps).reshape(kernel.shape)


conv_by_taps.defvjp(_taps_forward, _taps_backward)
