"""Convolution and pooling in several forms that compute the same.

XLA on CPU runs small convolutions far below the speed of its matrix products, so training may take a form made of those.
Tracing for export, counting, coupling and quantization always takes the plain form, which other tools recognise.
A contract test holds all forms equal.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Dense = nnx.Linear
Dropout = nnx.Dropout
BatchNorm = nnx.BatchNorm

_fast: ContextVar[bool] = ContextVar("fast_forms", default=False)


@contextlib.contextmanager
def fast_forms() -> Iterator[None]:
    """Within this context layers trace the form that this chip runs fastest.

    JAX keeps traces by function: a function traced outside is not traced again inside, so trace a new one in each.
    """
    token = _fast.set(jax.default_backend() == "cpu")
    try:
        yield
    finally:
        _fast.reset(token)


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Within this context layers trace the library's own operations."""
    token = _fast.set(False)
    try:
        yield
    finally:
        _fast.reset(token)


class Conv(nnx.Conv):
    """`flax.nnx.Conv`, NHWC and HWIO, that can also be computed as matrix products."""

    def __call__(self, inputs: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        form = self._form(inputs.shape) if _fast.get() else None
        if form is None:
            out: jax.Array = super().__call__(inputs, *args, **kwargs)
            return out
        kernel = self.kernel.get_value()
        bias = None if self.bias is None else self.bias.get_value()
        inputs, kernel, bias = nnx.nn.dtypes.promote_dtype((inputs, kernel, bias), dtype=self.dtype)
        y: jax.Array = form(inputs, kernel)
        return y if bias is None else y + bias

    def _form(self, shape: tuple[int, ...]) -> Any:
        """Choose by shape: measured on x86 CPUs, batch 128, float32 (benchmarks/layers.py)."""
        kh, kw, c_in, c_out = self.kernel_shape
        plain = (
            self.padding == "SAME" and self.feature_group_count == 1 and self.kernel_dilation == 1 and self.input_dilation == 1
        )
        if not plain or len(shape) != 4:
            return None
        _, height, width, _ = shape
        strides = self.strides if isinstance(self.strides, tuple) else (self.strides,) * 2
        if tuple(strides) == (kh, kw) and height % kh == 0 and width % kw == 0:
            return conv_by_blocks
        if tuple(strides) != (1, 1) or kh != kw or kh % 2 == 0:
            return None
        if width * c_in <= 128 and width * c_out <= 128:
            return conv_by_bands
        return conv_by_patches if kh * kw * c_in <= 32 else conv_by_taps


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


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maximum over blocks of size x size pixels; a rest at the right and bottom edge is dropped (VALID).

    Args:
        x: [n, h, w, c].

    Returns:
        [n, h // size, w // size, c].
    """
    n, h, w, c = x.shape
    if not _fast.get() or h % size or w % size:
        pooled: jax.Array = nnx.max_pool(x, (size, size), (size, size))
        return pooled
    # A maximum of slices: XLA's windowed reduction and its gradient (select and scatter) are slow on CPU.
    rows = x.reshape(n, h // size, size, w // size, size, c)
    cells = [rows[:, :, i, :, j] for i in range(size) for j in range(size)]
    out = cells[0]
    for cell in cells[1:]:
        out = jnp.maximum(out, cell)
    return out
