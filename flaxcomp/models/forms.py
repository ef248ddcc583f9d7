"""Convolutions as matrix products: several forms that compute what the library's does, for the shapes that each names.

XLA on CPU runs small convolutions far below the speed of its matrix products, and their kernel gradients inside a loop on
one thread (`python -m benchmarks.layers`). A contract test holds all forms equal, forward and in both gradients.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Pads = tuple[tuple[int, int], ...]  # (top, bottom), (left, right)

_FEW_GROUPS = 16
_CACHED_BYTES = 2**20  # of images, which stay in the cache of one core while they are looked at
_WORTH_BLOCKS = 3 * 2**20  # bytes of images from which on it pays to take some at a time
_NARROW = 32


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


def conv_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 kernel, stride 1: a matrix product.

    Args:
        x: [n, h, w, c_in].
        kernel: [1, 1, c_in, c_out].

    Returns:
        [n, h, w, c_out].
    """
    n, h, w, c = x.shape
    return (x.reshape(-1, c) @ kernel[0, 0]).reshape(n, h, w, -1)  # of two axes: the gradient of more turns them round


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


def conv_by_taps(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int] = (1, 1), padding: Any = "SAME", groups: int = 1
) -> jax.Array:
    """Any convolution without dilation; gradients, and what is grouped, as one product (depthwise: one multiply-add) per tap.

    The library's own kernel gradient runs on one thread inside a loop on CPU, 10 to 500 times slower. Few groups are computed
    one by one: a batched product over groups would move every number twice, and takes 2 to 15 times as long.

    Args:
        x: [n, h, w, c_in].
        kernel: [kh, kw, c_in / groups, c_out].
        padding: SAME, VALID, a number, or ((top, bottom), (left, right)).

    Returns:
        [n, h', w', c_out].
    """
    pads = _pads(x.shape, kernel.shape, strides, padding)
    if 1 < groups <= _FEW_GROUPS and not _is_depthwise(x, kernel, groups):
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        is_product = kernel.shape[:2] == strides == (1, 1) and not any(map(any, pads))
        return jnp.concatenate([conv_by_product(*part) if is_product else _taps(*part, strides, pads, 1) for part in parts], -1)
    return _taps(x, kernel, strides, pads, groups)


def _pads(shape: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, int], padding: Any) -> Pads:
    if isinstance(padding, str):
        return tuple(jax.lax.padtype_to_pads(shape[1:3], kernel[:2], strides, padding))
    if isinstance(padding, int):
        return ((padding, padding),) * 2
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _taps(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads, groups: int) -> jax.Array:
    if groups == 1:
        dimensions = ("NHWC", "HWIO", "NHWC")
        out: jax.Array = jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=dimensions)
        return out
    product = _depthwise if _is_depthwise(x, kernel, groups) else functools.partial(_grouped, groups=groups)
    taps = kernel.reshape(-1, *kernel.shape[2:])
    parts = _windows(x, kernel.shape, strides, pads)
    return functools.reduce(jnp.add, (product(part, tap) for part, tap in zip(parts, taps, strict=True)))


def _taps_forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _taps(x, kernel, strides, pads, groups), (x, kernel)


def _taps_backward(
    strides: tuple[int, int], pads: Pads, groups: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if _is_depthwise(x, kernel, groups):
        summed = _sum_by_taps(x, gradient, kernel.shape, strides, pads).reshape(kernel.shape).astype(kernel.dtype)
        return _back_depthwise(gradient, kernel, x.shape, strides, pads), summed
    taps = kernel.reshape(-1, *kernel.shape[2:])
    if groups == 1:
        to_kernel = _product_by_taps(x, gradient, kernel.shape, strides, pads).reshape(kernel.shape).astype(kernel.dtype)
        if strides == (1, 1):  # a convolution again, with the kernel turned round
            around = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel.shape[:2], pads, strict=True))
            return _taps(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), (1, 1), around, 1), to_kernel
        back = [gradient @ tap.T for tap in taps]
    else:
        windows = _windows(x, kernel.shape, strides, pads)
        split = gradient.reshape(*gradient.shape[:3], groups, -1)
        by_tap = [jnp.einsum("nhwgc,nhwgo->cgo", part.reshape(*part.shape[:3], groups, -1), split) for part in windows]
        to_kernel = jnp.stack(by_tap).reshape(kernel.shape)
        back = [jnp.einsum("nhwgo,cgo->nhwgc", split, tap.reshape(tap.shape[0], groups, -1)) for tap in taps]
        back = [part.reshape(*part.shape[:3], -1) for part in back]
    return _put_back(back, x.shape, kernel.shape, strides, pads), to_kernel


_taps.defvjp(_taps_forward, _taps_backward)


def _sum_by_taps(x: jax.Array, gradient: jax.Array, kernel: tuple[int, ...], strides: tuple[int, int], pads: Pads) -> jax.Array:
    """A depthwise kernel's gradient, float32 [taps, c]: one pass over the images for all taps; passes are what costs here."""

    def of(x: jax.Array, gradient: jax.Array) -> jax.Array:
        parts = _windows(x, kernel, strides, pads)
        products = [(part * gradient).astype(jnp.float32) for part in parts]  # a sum in bfloat16 stops at 256 times its terms
        return jnp.stack(jax.lax.reduce(products, [jnp.zeros((), jnp.float32)] * len(parts), _add_all, (0, 1, 2)))

    return _summed(of, x, gradient, _CACHED_BYTES, 1)


def _product_by_taps(
    x: jax.Array, gradient: jax.Array, kernel: tuple[int, ...], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """A dense kernel's gradient, float32 [taps, c_in, c_out]."""
    taps, c_out = kernel[0] * kernel[1], kernel[-1]
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def of(x: jax.Array, gradient: jax.Array) -> jax.Array:
        rows = jnp.concatenate(_windows(x, kernel, strides, pads), -1).reshape(-1, taps * x.shape[-1])
        flat = gradient.reshape(-1, c_out)
        return product(flat.T, rows).T if c_out < _NARROW else product(rows.T, flat)

    if x.nbytes < _WORTH_BLOCKS:  # all of it is in the cache
        flat = gradient.reshape(-1, c_out)
        return jnp.stack([product(part.reshape(-1, x.shape[-1]).T, flat) for part in _windows(x, kernel, strides, pads)])
    return _summed(of, x, gradient, 4 * _CACHED_BYTES, taps).reshape(taps, x.shape[-1], c_out)


def _summed(
    of: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, gradient: jax.Array, cached_bytes: int, times: int
) -> jax.Array:
    """The sum of `of` over some images at a time, so many that `times` what they hold stays in the cache.

    A pass that leaves the cache takes up to four times as long.
    """
    n = x.shape[0]
    some = max((b for b in range(1, n + 1) if n % b == 0 and b * times * x.nbytes <= n * cached_bytes), default=1)
    if some == n:
        return of(x, gradient)

    def part(i: jax.Array | int) -> jax.Array:
        return of(*(jax.lax.dynamic_slice_in_dim(array, i * some, some) for array in (x, gradient)))

    total: jax.Array = jax.lax.fori_loop(1, n // some, lambda i, total: total + part(i), part(0))
    return total


def _add_all(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> list[jax.Array]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _back_depthwise(
    gradient: jax.Array, kernel: jax.Array, shape: tuple[int, ...], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """A convolution again: of the gradient with zeros between its pixels, by the kernel turned round."""
    spread = [size + (size - 1) * (stride - 1) for size, stride in zip(gradient.shape[1:3], strides, strict=True)]
    between = ((0, 0, 0), *((0, 0, stride - 1) for stride in strides), (0, 0, 0))
    dilated = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), between) if strides != (1, 1) else gradient
    around = tuple(
        (k - 1 - low, size - wide + low)
        for k, size, wide, (low, _) in zip(kernel.shape[:2], shape[1:3], spread, pads, strict=True)
    )
    return _taps(dilated, jnp.flip(kernel, (0, 1)), (1, 1), around, gradient.shape[-1])


def _is_depthwise(x: jax.Array, kernel: jax.Array, groups: int) -> bool:
    return groups == x.shape[-1] == kernel.shape[-1]


def _depthwise(part: jax.Array, tap: jax.Array) -> jax.Array:
    return part * tap[0]


def _grouped(part: jax.Array, tap: jax.Array, groups: int) -> jax.Array:
    split = part.reshape(*part.shape[:3], groups, -1)
    out = jnp.einsum("nhwgc,cgo->nhwgo", split, tap.reshape(tap.shape[0], groups, -1))
    return out.reshape(*part.shape[:3], -1)


def _windows(x: jax.Array, kernel: tuple[int, ...], strides: tuple[int, int], pads: Pads) -> list[jax.Array]:
    """What each tap of the kernel sees: [n, h', w', c] for each, row by row."""
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))
    h, w = ((size - k) // s + 1 for size, k, s in zip(padded.shape[1:3], kernel[:2], strides, strict=True))
    (sh, sw) = strides
    return [
        padded[:, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _put_back(
    parts: list[jax.Array], shape: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """The transpose of `_windows`: add every tap's part to where it was seen."""
    (sh, sw), ((top, bottom), (left, right)) = strides, pads
    height, width = shape[1] + top + bottom, shape[2] + left + right
    h, w = parts[0].shape[1:3]
    total = jnp.zeros((shape[0], height, width, shape[3]), parts[0].dtype)
    for number, part in enumerate(parts):
        i, j = divmod(number, kernel[1])
        rows, columns = (i, height - i - sh * (h - 1) - 1, sh - 1), (j, width - j - sw * (w - 1) - 1, sw - 1)
        total = total + jax.lax.pad(part, jnp.zeros((), part.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
    return total[:, top : top + shape[1], left : left + shape[2]]
