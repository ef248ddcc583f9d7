"""The layers that architectures are made of.

Training may compute them in the form that this chip runs fastest (`fast_forms`, `flaxcomp.models.forms`); tracing for export,
counting, coupling and quantization always takes the plain form, which other tools recognise.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.errors import UserError, suggest
from flaxcomp.models.forms import conv_by_bands, conv_by_blocks, conv_by_patches, conv_by_product, conv_by_taps

Dense = nnx.Linear
Dropout = nnx.Dropout
BatchNorm = nnx.BatchNorm

HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, as ResNet's authors and PyTorch
TORCH_DENSE = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's dense layer, but for its bias

Form = Callable[[jax.Array, jax.Array], jax.Array]

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
    """`flax.nnx.Conv`, NHWC and HWIO, that can also be computed as matrix products; a masked kernel takes the plain form."""

    def __call__(self, inputs: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        form = self._form(inputs.shape) if _fast.get() and not (args or kwargs) else None
        if form is None:
            out: jax.Array = super().__call__(inputs, *args, **kwargs)
            return out
        kernel = self.kernel.get_value()
        bias = None if self.bias is None else self.bias.get_value()
        inputs, kernel, bias = nnx.nn.dtypes.promote_dtype((inputs, kernel, bias), dtype=self.dtype)
        y: jax.Array = form(inputs, kernel)
        return y if bias is None else y + bias

    def _form(self, shape: tuple[int, ...]) -> Form | None:
        if len(shape) != 4 or not _is_one(self.kernel_dilation) or not _is_one(self.input_dilation) or self.mask is not None:
            return None
        return conv_form(shape, self.kernel_shape, _pair(self.strides), self.padding, self.feature_group_count)


def conv_form(
    shape: tuple[int, ...], kernel_shape: tuple[int, ...], strides: tuple[int, int], padding: Any, groups: int = 1
) -> Form | None:
    """Choose by shape: measured on x86 CPUs, batch 128, float32 (`python -m benchmarks.layers`).

    Args:
        shape: [n, h, w, c_in] of what is convolved, without dilation.
        kernel_shape: [kh, kw, c_in / groups, c_out].
        padding: SAME, VALID, a number, or ((top, bottom), (left, right)).

    Returns:
        (x, kernel) -> their convolution; None where only the library's form will do.
    """
    kh, kw, _, c_out = kernel_shape
    _, height, width, c_in = shape
    dense, same = groups == 1, padding == "SAME"
    if dense and kh == kw == 1 and strides == (1, 1) and padding in ("SAME", "VALID"):
        return conv_by_product
    if dense and same and strides == (kh, kw) and height % kh == 0 and width % kw == 0:
        return conv_by_blocks
    if dense and same and strides == (1, 1) and kh == kw and kh % 2:
        if width * c_in <= 128 and width * c_out <= 128:
            return conv_by_bands
        if kh * kw * c_in <= 32:
            return conv_by_patches
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        return None
    return functools.partial(conv_by_taps, strides=strides, padding=padding, groups=groups)


def conv_1x1(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution by a kernel that is computed rather than a parameter, in the form that this chip runs fastest.

    Args:
        x: [n, h, w, c_in].
        kernel: [1, 1, c_in, c_out].

    Returns:
        [n, h, w, c_out].
    """
    if _fast.get():
        return conv_by_product(x, kernel)
    out: jax.Array = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out


def _pair(value: Any) -> tuple[int, int]:
    if value is None:
        return (1, 1)
    first, second = (value, value) if isinstance(value, int) else value
    return (first, second)


def _is_one(dilation: Any) -> bool:
    return dilation is None or _pair(dilation) == (1, 1)


def max_pool(
    x: jax.Array, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, padding: str = "VALID"
) -> jax.Array:
    """Maximum over windows of pixels.

    Args:
        x: [n, h, w, c].
        size: of the windows, (height, width) or both.
        stride: likewise, `size` if not given.
        padding: `VALID` drops a rest at the right and bottom edge, `SAME` pads with minus infinity.
    """
    size, stride = _pair(size), _pair(stride or size)
    n, h, w, c = x.shape
    if not _fast.get():
        pooled: jax.Array = nnx.max_pool(x, size, stride, padding)
        return pooled
    # Maxima of slices: XLA's windowed reduction and its gradient (select and scatter) are slow on CPU.
    if stride == size and h % size[0] == 0 and w % size[1] == 0:
        cells = x.reshape(n, h // size[0], size[0], w // size[1], size[1], c)
        return functools.reduce(jnp.maximum, [cells[:, :, i, :, j] for i in range(size[0]) for j in range(size[1])])
    return _pooled(x, size, stride, padding, jnp.maximum, -jnp.inf)


def _pooled(
    x: jax.Array, size: tuple[int, int], stride: tuple[int, int], padding: str, join: Callable[..., jax.Array], nothing: float
) -> jax.Array:
    """Windows of rows joined first, then of columns, each as slices; padding is `nothing`."""
    for axis, pads in zip((1, 2), jax.lax.padtype_to_pads(x.shape[1:3], size, stride, padding), strict=True):
        window, step = size[axis - 1], stride[axis - 1]
        if any(pads):
            x = jax.lax.pad(x, jnp.asarray(nothing, x.dtype), [(*pads, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)])
        last = (x.shape[axis] - window) // step * step
        x = functools.reduce(join, [jax.lax.slice_in_dim(x, i, i + last + 1, step, axis) for i in range(window)])
    return x


def caffe_max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 pixels at stride 2 that rounds up as Caffe's: a pixel is padded at the end where windows do not fit."""
    return max_pool(x, 3, 2, "VALID" if x.shape[1] % 2 and x.shape[2] % 2 else "SAME")


def avg_pool(x: jax.Array, size: int, stride: int | None = None, padding: str = "VALID") -> jax.Array:
    """Mean over windows of size x size pixels; padding is not counted, or int8 conversion would refuse it."""
    stride = stride or size
    if _fast.get():
        steps, sizes = (stride, stride), (size, size)
        counts = _pooled(jnp.ones((1, *x.shape[1:3], 1), x.dtype), sizes, steps, padding, jnp.add, 0)
        return _pooled(x, sizes, steps, padding, jnp.add, 0) / counts
    pooled: jax.Array = nnx.avg_pool(x, (size, size), (stride, stride), padding, count_include_pad=False)
    return pooled.astype(x.dtype)  # the division by the counts makes float32 of bfloat16


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Mean over all pixels, [n, h, w, c] to [n, 1, 1, c], as one window: unlike `jnp.mean` it stays int8 after conversion."""
    if _fast.get():
        return x.mean((1, 2), keepdims=True)
    pooled: jax.Array = nnx.avg_pool(x, x.shape[1:3], (1, 1))
    return pooled


def flatten(x: jax.Array) -> jax.Array:
    """[n, ...] to [n, features], which is what a dense layer must be given."""
    return x.reshape(x.shape[0], -1)


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deal the channels of each group out over all groups (ShuffleNet, figure 1): [n, h, w, c], c a multiple of `groups`."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, groups, c // groups).swapaxes(3, 4).reshape(n, h, w, c)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return relu, relu6, swish (silu), hard_swish, elu, leaky_relu, tanh or sigmoid.

    Raises:
        UserError: it is none of them.
    """
    known: dict[str, Callable[[jax.Array], jax.Array]] = {
        "relu": nnx.relu, "relu6": nnx.relu6, "swish": nnx.swish, "hard_swish": nnx.hard_swish, "elu": nnx.elu,
        "leaky_relu": nnx.leaky_relu, "tanh": nnx.tanh, "sigmoid": nnx.sigmoid,
    }  # fmt: skip
    if name not in known:
        raise UserError(f"no activation is called {name!r}.{suggest(name, known)}")
    return known[name]


class ConvBN(nnx.Module):
    """Convolution without bias, batch norm, activation (None: none), the brick of most networks here.

    Args:
        c_in, c_out: channels.
        size: of the square kernel, or (height, width).
        groups: of a grouped convolution; `c_in` for a depthwise one.
        momentum: Flax's, the share of the old statistics that stays: 1 minus PyTorch's.
    """

    def __init__(
        self, c_in: int, c_out: int, size: int | tuple[int, int], stride: int = 1, *, groups: int = 1, act: str | None = "relu",
        padding: Any = "SAME", momentum: float = 0.9, epsilon: float = 1e-5, kernel_init: Any = None, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        kernel = (size, size) if isinstance(size, int) else size
        init = kernel_init or nnx.initializers.he_normal()
        self.conv = Conv(c_in, c_out, kernel, strides=(stride, stride), padding=padding, feature_group_count=groups,
                         use_bias=False, kernel_init=init, rngs=rngs)  # fmt: skip
        self.bn = BatchNorm(c_out, momentum=momentum, epsilon=epsilon, rngs=rngs)
        self.act = act

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.bn(self.conv(x))
        return x if self.act is None else activation(self.act)(x)


class SqueezeExcite(nnx.Module):
    """Squeeze-and-Excitation (Hu et al. 2018, equations 2 to 4): channels scaled by a gate that sees all pixels.

    Args:
        channels: c of the input.
        squeezed: units in the middle.
    """

    def __init__(self, channels: int, squeezed: int, *, act: str = "relu", gate: str = "sigmoid", rngs: nnx.Rngs) -> None:
        self.squeeze = Conv(channels, squeezed, (1, 1), rngs=rngs)
        self.excite = Conv(squeezed, channels, (1, 1), rngs=rngs)
        self.act, self.gate = act, gate

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = self.excite(activation(self.act)(self.squeeze(global_avg_pool(x))))
        return x * activation(self.gate)(gate)


def squeeze_excite(channels: int, reduction: int, rngs: nnx.Rngs, *, of: int = 0) -> SqueezeExcite | None:
    """A Squeeze-and-Excitation whose middle has `channels` / `reduction` units, one at least; None where `reduction` is 0.

    Args:
        of: what is divided instead of `channels` (MnasNet divides the block's input).
    """
    return SqueezeExcite(channels, max(1, (of or channels) // reduction), rngs=rngs) if reduction else None


class NormConv(nnx.Module):
    """Batch norm, ReLU, square convolution without bias, dropout: the brick of the pre-activated networks."""

    def __init__(self, c_in: int, c_out: int, size: int, *, groups: int = 1, dropout: float = 0.0, rngs: nnx.Rngs) -> None:
        self.bn = BatchNorm(c_in, momentum=0.9, rngs=rngs)
        self.conv = Conv(c_in, c_out, (size, size), feature_group_count=groups, use_bias=False, kernel_init=HE_FAN_OUT,
                         rngs=rngs)  # fmt: skip
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.dropout(self.conv(nnx.relu(self.bn(x))), rngs=rngs)


class DropPath(nnx.Module):
    """Stochastic depth: in training an image's residual branch is dropped with probability `rate`, and scaled otherwise."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.deterministic = False

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        if self.deterministic or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError("drop-path in training mode needs rngs with a stream `dropout`")
        kept = jax.random.bernoulli(rngs.dropout(), 1 - self.rate, (x.shape[0], 1, 1, 1))
        return jnp.where(kept, x / (1 - self.rate), 0)
