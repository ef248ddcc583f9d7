"""Quantization-aware training: the trained network's weights, trained further by the ordinary loop while they round."""

from collections.abc import Generator
from functools import partial

from flaxcomp.compress.method import Found, Workshop
from flaxcomp.compress.quantize.fake import fake_quantized
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.abstract import abstract
from flaxcomp.sweep.compression.quantize import Quantize
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.job import Event
from flaxcomp.train.variant import Variant

Shape = tuple[int, int, int]


def check(config: TrialConfig, shape: Shape, classes: int) -> None:
    """Refuse networks with operations that qwix does not follow.

    Raises:
        UserError: with what it says.
    """
    model = registry.shipped(config.model)
    if model.get("masked") or (config.subset is not None and config.subset.partial):
        raise UserError("quantize must come after whole channels alone: bitmaps of positions are no operation of training with "
                        "rounding. Give `subset.partial: false`, or leave `quantize` out: export finds the ranges of int8 by "
                        "calibration")  # fmt: skip
    try:
        variant(config).wrapped(abstract(model, shape, classes), shape)
    except (ValueError, TypeError, NotImplementedError, AssertionError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"quantize: {model['name']} cannot be trained with rounding: {reason}. Leave the block out: "
                        "export finds the ranges of int8 by calibration") from error  # fmt: skip


def search(workshop: Workshop) -> Generator[Event, None, Found]:
    """There is nothing to find: the same network, with the weights that it has or with new ones."""
    yield from ()
    source, block = workshop.source, block_of(workshop.config)
    return Found(source.model, source.weights if block.then == "fine_tune" else None)


def variant(config: TrialConfig) -> Variant:
    """The network rounds while it trains and when it is evaluated."""
    per_channel = block_of(config).per_channel
    return Variant(key=f"quantize {per_channel}", wrap=partial(fake_quantized, per_channel=per_channel))


def block_of(config: TrialConfig) -> Quantize:
    assert config.quantize is not None
    return config.quantize
