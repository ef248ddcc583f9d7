"""SimpLeNet and its teacher for 28x28 digits (Rusu 2018, tables 2.1 and 2.2).

5x5 convolutions with SAME padding and ReLU, each followed by a halving (2x2 max-pool, or in v4 and v5 a 2x2 convolution of
stride 2 with ReLU), then an optional hidden dense layer with dropout, then the logits.
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.models.config import Classifier, Count, Share


class SimpLeNet(Classifier, frozen=True, kw_only=True):
    num_classes: Count = 10
    input_shape: tuple[Count, Count, Count] = (28, 28, 1)
    widths: Annotated[tuple[Count, ...], Meta(min_length=1)]  # channels of the 5x5 convolutions
    halving: Literal["pool", "convolution"] = "pool"  # what halves height and width after each of them
    hidden: Annotated[int, Meta(ge=0)] = 0  # units of the dense layer before the logits; 0: there is none
    dropout: Share = 0.0  # share dropped after the hidden layer


NAMES = {
    "simplenet_lm": SimpLeNet(widths=(32, 64), hidden=1024, dropout=0.4),
    "simplenet_v1": SimpLeNet(widths=(3, 6)),
    "simplenet_v2": SimpLeNet(widths=(3,)),
    "simplenet_v3": SimpLeNet(widths=(2,)),
    "simplenet_v4": SimpLeNet(widths=(3,), halving="convolution"),
    "simplenet_v5": SimpLeNet(widths=(2,), halving="convolution"),
}


def default_widths(config: SimpLeNet) -> tuple[int, ...]:
    """The widths themselves: no other option sets them, and how many there are is the network's depth."""
    return config.widths


import jax
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models.layers import Conv, Dense, Dropout, max_pool


class _Network(nnx.Module):
    def __init__(self, config: SimpLeNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = input_shape
        convolutions, halvings = [], []
        for features in config.widths:
            if height % 2 or width % 2:
                raise UserError(f"simplenet halves its input {len(config.widths)} times: height and width must be multiples of "
                                f"{2 ** len(config.widths)}, got {input_shape[0]}x{input_shape[1]}")  # fmt: skip
            convolutions.append(Conv(channels, features, (5, 5), rngs=rngs))
            if config.halving == "convolution":
                halvings.append(Conv(features, features, (2, 2), strides=(2, 2), rngs=rngs))
            height, width, channels = height // 2, width // 2, features
        self.convolutions, self.halvings = nnx.List(convolutions), nnx.List(halvings)
        inputs = height * width * channels
        self.hidden = nnx.data(Dense(inputs, config.hidden, rngs=rngs) if config.hidden else None)
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(config.hidden or inputs, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        for i, convolution in enumerate(self.convolutions):
            x = nnx.relu(convolution(x))
            x = nnx.relu(self.halvings[i](x)) if self.halvings else max_pool(x, 2)
        x = x.reshape(x.shape[0], -1)
        if self.hidden is not None:
            x = self.dropout(nnx.relu(self.hidden(x)), rngs=rngs)
        return self.logits(x)


def build(config: SimpLeNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    return _Network(config, input_shape, num_classes, rngs)
