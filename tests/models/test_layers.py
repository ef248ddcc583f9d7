"""All forms of a layer compute the same, forward and in both gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.models import forms, layers

CASES = [  # n, h, w, c_in, c_out, k
    (2, 28, 28, 1, 3, 5), (2, 14, 14, 3, 6, 5), (3, 7, 9, 4, 5, 3), (1, 8, 8, 16, 8, 1), (2, 5, 5, 2, 2, 5),
]  # fmt: skip


def plain(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("form", [forms.conv_by_bands, forms.conv_by_patches, forms.conv_by_taps])
@pytest.mark.parametrize(("n", "h", "w", "c_in", "c_out", "k"), CASES)
def test_stride_one_forms(form: object, n: int, h: int, w: int, c_in: int, c_out: int, k: int) -> None:
    assert callable(form)
    a, b, c = jax.random.split(jax.random.key(0), 3)
    x, kernel, weight = (
        jax.random.normal(a, (n, h, w, c_in)),
        jax.random.normal(b, (k, k, c_in, c_out)),
        jax.random.normal(c, (n, h, w, c_out)),
    )
    np.testing.assert_allclose(form(x, kernel), plain(x, kernel), atol=2e-4)
    wanted = jax.grad(lambda x, k: (plain(x, k) * weight).sum(), (0, 1))(x, kernel)
    got = jax.grad(lambda x, k: (form(x, k) * weight).sum(), (0, 1))(x, kernel)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.parametrize(("size", "c_in", "c_out", "k", "stride", "padding", "groups"), [
    (9, 3, 8, 3, 2, "SAME", 1), (8, 4, 6, 3, 2, "SAME", 1), (8, 4, 6, 1, 2, "SAME", 1), (11, 2, 4, 7, 2, ((3, 3), (3, 3)), 1),
    (8, 4, 6, 3, 1, "VALID", 1), (8, 6, 6, 3, 1, "SAME", 6), (9, 6, 6, 5, 2, "SAME", 6), (8, 8, 12, 3, 1, "SAME", 4),
    (7, 8, 12, 1, 1, "SAME", 2), (8, 4, 8, 3, 2, ((0, 1), (0, 1)), 4), (6, 3, 5, 4, 3, "VALID", 1), (8, 4, 4, 3, 1, 1, 1),
    (6, 36, 36, 3, 1, "SAME", 18), (6, 18, 36, 3, 2, "SAME", 18), (5, 4, 4, 1, 1, 2, 4), (7, 4, 4, 3, 3, ((0, 2), (1, 0)), 4),
])  # fmt: skip
def test_taps_are_any_convolution(size: int, c_in: int, c_out: int, k: int, stride: int, padding: Any, groups: int) -> None:
    def library(x: jax.Array, kernel: jax.Array) -> jax.Array:
        pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                            feature_group_count=groups)  # fmt: skip

    def taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return forms.conv_by_taps(x, kernel, (stride, stride), padding, groups)

    x, kernel = (
        jax.random.normal(jax.random.key(0), (2, size, size, c_in)),
        jax.random.normal(jax.random.key(1), (k, k, c_in // groups, c_out)),
    )
    wanted = library(x, kernel)
    weight = jax.random.normal(jax.random.key(2), wanted.shape)
    np.testing.assert_allclose(taps(x, kernel), wanted, atol=1e-4)
    got = jax.grad(lambda x, k: (taps(x, k) * weight).sum(), (0, 1))(x, kernel)
    for one, other in zip(got, jax.grad(lambda x, k: (library(x, k) * weight).sum(), (0, 1))(x, kernel), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_depthwise_kernels_gradient_in_bfloat16_is_summed_in_float32() -> None:
    x, kernel = jnp.ones((8, 32, 32, 4), jnp.bfloat16), jnp.ones((3, 3, 1, 4), jnp.bfloat16)
    gradient = jax.grad(lambda k: forms.conv_by_taps(x, k, padding="VALID", groups=4).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), 8 * 30 * 30, rtol=0.005)


def test_one_by_one_is_a_product() -> None:
    x, kernel = jax.random.normal(jax.random.key(0), (2, 5, 7, 3)), jax.random.normal(jax.random.key(1), (1, 1, 3, 4))
    np.testing.assert_allclose(forms.conv_by_product(x, kernel), plain(x, kernel), atol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_blocks(size: int) -> None:
    x, kernel = jax.random.normal(jax.random.key(0), (2, 8, 12, 3)), jax.random.normal(jax.random.key(1), (size, size, 3, 5))
    np.testing.assert_allclose(forms.conv_by_blocks(x, kernel), plain(x, kernel, size), atol=1e-4)


@pytest.mark.parametrize("arguments", [
    {"kernel_size": (5, 5)}, {"kernel_size": (3, 3), "use_bias": False}, {"kernel_size": (2, 2), "strides": (2, 2)},
    {"kernel_size": (3, 3), "strides": (2, 2)}, {"kernel_size": (3, 3), "feature_group_count": 2},
    {"kernel_size": (3, 3), "padding": "VALID"},
])  # fmt: skip
def test_conv_layer_gives_the_same_in_any_context(arguments: dict[str, object]) -> None:
    conv = layers.Conv(4, 6, rngs=nnx.Rngs(0), **arguments)  # type: ignore[arg-type]
    x = jax.random.normal(jax.random.key(1), (2, 12, 12, 4))
    outside = conv(x)
    with layers.fast_forms():
        fast = conv(x)
        with layers.plain_forms():
            inner = conv(x)
    np.testing.assert_allclose(fast, outside, atol=1e-4)
    np.testing.assert_array_equal(inner, outside)


@pytest.mark.parametrize("size", [1, 3])
def test_a_masked_kernel_stays_masked_in_any_context(size: int) -> None:
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, (size, size, 4, 6)).astype(jnp.float32)
    conv = layers.Conv(4, 6, (size, size), mask=mask, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    with layers.fast_forms():
        fast = conv(x)
    np.testing.assert_allclose(fast, plain(x, conv.kernel.get_value() * mask), atol=1e-5)


def test_caffes_max_pool_rounds_up() -> None:
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(layers.caffe_max_pool(x)[0, :, :, 0], [[10, 11], [14, 15]])
    assert [layers.caffe_max_pool(jnp.zeros((1, n, n, 1))).shape[1] for n in (111, 112, 54, 5)] == [55, 56, 27, 2]


def test_plain_forms_trace_to_the_librarys_convolution() -> None:
    conv = layers.Conv(1, 3, (5, 5), rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 28, 28, 1))
    with layers.plain_forms():
        assert "conv_general_dilated" in str(
            jax.make_jaxpr(lambda x: conv(x))(x)
        )  # a new function: JAX keeps traces by function
    if jax.default_backend() == "cpu":
        with layers.fast_forms():
            assert "conv_general_dilated" not in str(jax.make_jaxpr(lambda x: conv(x))(x))


@pytest.mark.parametrize("shape", [(2, 28, 28, 3), (2, 7, 9, 2), (1, 3, 3, 1)])
def test_max_pool(shape: tuple[int, ...]) -> None:
    x = jax.random.normal(jax.random.key(0), shape)
    with layers.fast_forms():
        fast = layers.max_pool(x, 2)
    np.testing.assert_array_equal(fast, nnx.max_pool(x, (2, 2), (2, 2)))


def test_max_pool_gradient_behind_relu() -> None:
    """Ties are zeros behind a ReLU, where no gradient passes: both forms give one gradient."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))

    def loss(x: jax.Array) -> jax.Array:
        return (layers.max_pool(nnx.relu(x), 2) ** 2).sum()

    wanted = jax.grad(loss)(x)
    with layers.fast_forms():
        np.testing.assert_allclose(jax.grad(loss)(x), wanted, atol=1e-6)
