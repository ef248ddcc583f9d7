"""What may stand in the place of a 3x3 convolution: that itself, a residual block, or a depthwise-separable pair.

All three take and give the same shapes, so that a network can have another at any of its layers (Hoffman 2018, 3.1.2); what
follows the layer, such as ReLU, stays outside.
"""

from typing import Any

import jax
from flax import nnx

from flaxcomp.models.config import Kind
from flaxcomp.models.layers import BatchNorm, Conv


def make_convolution(
    kind: Kind, c_in: int, c_out: int, *, padding: str = "SAME", norm: bool = False, kernel_init: Any, rngs: nnx.Rngs
) -> nnx.Module:
    """A layer from [n, h, w, c_in] to c_out channels: h and w stay with padding `SAME`, lose 2 with `VALID`.

    Args:
        kind: see `Kind`.
        norm: batch norm inside of what has an inside.
        kernel_init: of all its kernels.
    """
    if kind == "residual":
        return Residual(c_in, c_out, padding, norm, kernel_init, rngs)
    if kind == "depthwise_separable":
        return DepthwiseSeparable(c_in, c_out, padding, norm, kernel_init, rngs)
    return Conv(c_in, c_out, (3, 3), padding=padding, kernel_init=kernel_init, rngs=rngs)


class Residual(nnx.Module):
    """Two 3x3 convolutions with ReLU between, plus a 1x1 projection of the input (He et al. 2016, figure 2, option C).

    The projection is there also where the channels are equal, so that every width stays free. With padding `VALID` the first
    convolution shrinks the image, and the projection takes its middle.
    """

    def __init__(self, c_in: int, c_out: int, padding: str, norm: bool, kernel_init: Any, rngs: nnx.Rngs) -> None:
        self.first = Conv(c_in, c_out, (3, 3), padding=padding, kernel_init=kernel_init, rngs=rngs)
        self.second = Conv(c_out, c_out, (3, 3), kernel_init=kernel_init, rngs=rngs)
        self.shortcut = Conv(c_in, c_out, (1, 1), use_bias=False, kernel_init=kernel_init, rngs=rngs)
        self.norm = BatchNorm(c_out, momentum=0.9, rngs=rngs) if norm else None
        self.edge = 1 if padding == "VALID" else 0

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.first(x)
        if self.norm is not None:
            y = self.norm(y)
        middle = x[:, self.edge : x.shape[1] - self.edge, self.edge : x.shape[2] - self.edge]
        total: jax.Array = self.second(nnx.relu(y)) + self.shortcut(middle)
        return total


class DepthwiseSeparable(nnx.Module):
    """A 3x3 depthwise convolution, then 1x1 to the channels wanted (Howard et al. 2017, 3.1).

    Between them are batch norm and ReLU with `norm`, as in MobileNet; without, nothing, as in Keras's `SeparableConv2D`.
    """

    def __init__(self, c_in: int, c_out: int, padding: str, norm: bool, kernel_init: Any, rngs: nnx.Rngs) -> None:
        self.depthwise = Conv(c_in, c_in, (3, 3), padding=padding, feature_group_count=c_in, use_bias=False,
                              kernel_init=kernel_init, rngs=rngs)  # fmt: skip
        self.norm = BatchNorm(c_in, momentum=0.9, rngs=rngs) if norm else None
        self.pointwise = Conv(c_in, c_out, (1, 1), kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.depthwise(x)
        if self.norm is not None:
            y = nnx.relu(self.norm(y))
        mixed: jax.Array = self.pointwise(y)
        return mixed
