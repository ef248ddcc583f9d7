"""The CIFAR-10 example network of Keras, which CramNet shrinks (Hoffman 2018, table 4.1 and appendix A).

Two pairs of 3x3 convolutions, the first of a pair SAME, the second VALID, each pair followed by a 2x2 max-pool; a hidden
dense layer; logits. ReLU after every layer but the last.
"""

from typing import Annotated

from msgspec import Meta

from flaxcomp.models.config import Classifier, Count, Kind, Shape, Share, check_size


class KerasCifar(Classifier, frozen=True, kw_only=True):
    """Options of the Keras example.

    `widths`: channels of the four convolutions, units of the hidden dense layer.
    `kinds`: what each of the four convolutions is, see `flaxcomp.models.replacements`.
    """

    num_classes: Count = 10
    input_shape: Shape = (32, 32, 3)
    dropout: Share = 0.5  # share dropped after the hidden layer; half of it after each max-pool
    widths: Annotated[tuple[Count, ...], Meta(min_length=5, max_length=5)] = (32, 32, 64, 64, 512)
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=4, max_length=4)] = ("conv",) * 4


NAMES = {"keras_cifar": KerasCifar()}
SMALL = {"widths": (8, 8, 16, 16, 16)}  # CramNet's test 5b


def default_widths(config: KerasCifar) -> tuple[int, ...]:
    """The widths themselves: no other option sets them."""
    return config.widths


import jax
from flax import nnx

from flaxcomp.models.layers import Dense, Dropout, flatten, max_pool
from flaxcomp.models.replacements import make_convolution


class _Network(nnx.Module):
    def __init__(self, config: KerasCifar, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = input_shape
        check_size("keras_cifar", input_shape, 10, "shrinks its input by two pairs of convolution and max-pool")
        *convolutions, hidden = config.widths
        init = nnx.initializers.glorot_uniform()
        layers = []
        for i, (kind, features) in enumerate(zip(config.kinds, convolutions, strict=True)):
            padding = "VALID" if i % 2 else "SAME"
            layers.append(make_convolution(kind, channels, features, padding=padding, kernel_init=init, rngs=rngs))
            channels = features
        self.convolutions = nnx.List(layers)
        pixels = (((height - 2) // 2 - 2) // 2) * (((width - 2) // 2 - 2) // 2)
        self.hidden = Dense(pixels * channels, hidden, kernel_init=init, rngs=rngs)
        self.pool_dropout, self.hidden_dropout = Dropout(config.dropout / 2), Dropout(config.dropout)
        self.logits = Dense(hidden, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        for i, convolution in enumerate(self.convolutions):
            x = nnx.relu(convolution(x))
            if i % 2:
                x = self.pool_dropout(max_pool(x, 2), rngs=rngs)
        x = nnx.relu(self.hidden(flatten(x)))
        return self.logits(self.hidden_dropout(x, rngs=rngs))


def build(config: KerasCifar, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`. Initial weights are Keras's (Glorot uniform, biases 0)."""
    return _Network(config, input_shape, num_classes, rngs)
