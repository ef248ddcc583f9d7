"""VGG-16 (Simonyan and Zisserman 2015, table 1, configuration D), and its form for 32x32 images (Li et al. 2017, table 2).

Thirteen 3x3 SAME convolutions with ReLU in five groups, each group followed by a 2x2 max-pool; then hidden dense layers with
ReLU and dropout, then the logits. CramNet narrows the ImageNet form (Hoffman 2018, table 4.2 and appendix B).
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.models.config import Classifier, Count, Kind, Positive, Shape, Share, check_size, scaled

_GROUPS = (2, 2, 3, 3, 3)  # convolutions between max-pools
_CHANNELS = (64, 128, 256, 512, 512)
_HIDDEN = {"imagenet": (4096, 4096), "cifar": (512,)}


class VGG16(Classifier, frozen=True, kw_only=True):
    """Options of VGG-16.

    `widths`: channels of the thirteen convolutions, then units of the hidden dense layers (two, or one in the cifar layout).
    `kinds`: what each of the thirteen convolutions is, see `flaxcomp.models.replacements`; with `norm` also inside of it.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "cifar"] = "imagenet"
    norm: Literal["none", "batch"] | None = None  # batch norm before each ReLU; null: none in imagenet, batch in cifar
    width_multiplier: Positive = 1.0  # of all convolutions and hidden layers; rounded to multiples of 8
    dropout: Share = 0.5  # share dropped after each hidden dense layer
    widths: tuple[Count, ...] = ()
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=13, max_length=13)] = ("conv",) * 13


NAMES = {"vgg16": VGG16()}
SMALL = {"layout": "cifar", "width_multiplier": 0.125}


def default_widths(config: VGG16) -> tuple[int, ...]:
    """The widths that the other options ask for."""
    convolutions = [width for width, count in zip(_CHANNELS, _GROUPS, strict=True) for _ in range(count)]
    return tuple(scaled(width, config.width_multiplier) for width in (*convolutions, *_HIDDEN[config.layout]))


import jax
from flax import nnx

from flaxcomp.models.layers import BatchNorm, Dense, Dropout, flatten, max_pool
from flaxcomp.models.replacements import make_convolution


class _Network(nnx.Module):
    def __init__(self, config: VGG16, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = input_shape
        check_size("vgg16", input_shape, 32, "halves its input five times")
        widths = config.widths or default_widths(config)
        count = sum(_GROUPS)
        batch = (config.norm or ("batch" if config.layout == "cifar" else "none")) == "batch"
        init = nnx.initializers.he_normal()
        convolutions, hidden = [], []
        for kind, features in zip(config.kinds, widths[:count], strict=True):
            convolutions.append(make_convolution(kind, channels, features, norm=batch, kernel_init=init, rngs=rngs))
            channels = features
        units = height // 32 * (width // 32) * channels
        for features in widths[count:]:
            hidden.append(Dense(units, features, kernel_init=init, rngs=rngs))
            units = features
        self.convolutions, self.hidden = nnx.List(convolutions), nnx.List(hidden)
        # The published ImageNet form with batch norm has none in its dense layers, the cifar form has.
        normed = widths if config.layout == "cifar" else widths[:count]
        self.norms = nnx.List([BatchNorm(features, momentum=0.9, rngs=rngs) for features in normed] if batch else [])
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(units, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        ends = {sum(_GROUPS[: i + 1]) for i in range(len(_GROUPS))}
        for i, convolution in enumerate(self.convolutions):
            x = nnx.relu(self._norm(i, convolution(x)))
            if i + 1 in ends:
                x = max_pool(x, 2)
        x = flatten(x)
        for i, layer in enumerate(self.hidden, len(self.convolutions)):
            x = self.dropout(nnx.relu(self._norm(i, layer(x))), rngs=rngs)
        return self.logits(x)

    def _norm(self, layer: int, x: jax.Array) -> jax.Array:
        normed: jax.Array = self.norms[layer](x) if layer < len(self.norms) else x
        return normed


def build(config: VGG16, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    Initial weights are He's instead of the paper's, which needed a shallower trained net to start from. Convolutions keep
    their biases before batch norm, as in the published counts; momentum and epsilon are PyTorch's.
    """
    return _Network(config, input_shape, num_classes, rngs)
