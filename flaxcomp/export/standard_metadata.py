"""TFLite's standard model metadata, which MediaPipe, Android Studio and Netron read.

Written field by field, because no installed package has generated code for it. Reference: `metadata_schema.fbs` 1.5.0 in
MediaPipe's `tasks/metadata`; the slots below are the positions of its fields.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flaxcomp
from flaxcomp.export.card import LABELS_FILE, Card
from flaxcomp.export.operators import Tensor

_NORMALIZATION_OPTIONS, _FEATURE, _IMAGE, _AXIS_LABELS = 1, 1, 2, 2  # members of unions and enumerations
_COLOR_SPACES = {3: 1, 1: 2}  # by channels: RGB, GRAYSCALE; otherwise 0, UNKNOWN


def standard_metadata(card: Card, source: Tensor, target: Tensor) -> bytes:
    """Return the flatbuffer `ModelMetadata` (identifier M001) for a classifier from one image to logits."""
    import flatbuffers

    writer = _Writer(flatbuffers.Builder(512))
    image = _image(writer, card, source)
    logits = _logits(writer, target)
    graph = writer.table(10, {2: writer.tables([image]), 3: writer.tables([logits])})
    root = writer.table(8, {
        0: writer.text(str(card.config.get("model", {}).get("name", "network"))),
        1: writer.text(f"Image classifier, {card.precision}, trained on {card.dataset['name']} as trial {card.trial}"),
        2: writer.text(flaxcomp.__version__),
        3: writer.tables([graph]),
        7: writer.text("1.0.0"),  # the oldest reader that understands every field used here
    })  # fmt: skip
    writer.builder.Finish(root, file_identifier=b"M001")
    return bytes(writer.builder.Output())


def _image(writer: "_Writer", card: Card, source: Tensor) -> int:
    normalisation = card.normalisation
    properties = writer.table(2, {}, small={0: _COLOR_SPACES.get(source.shape[-1], 0)})
    fields = {
        0: writer.text("image"),
        1: writer.text(_preparation(card)),
        3: writer.table(2, {1: properties}, small={0: _IMAGE}),
    }
    if normalisation.mean is not None and normalisation.std is not None:
        pairs = list(zip(normalisation.mean, normalisation.std, strict=True))
        options = writer.table(2, {0: writer.floats(normalisation.mean), 1: writer.floats(normalisation.std)})
        unit = writer.table(2, {1: options}, small={0: _NORMALIZATION_OPTIONS})
        highest, lowest = [(255 - m) / s for m, s in pairs], [(0 - m) / s for m, s in pairs]
        fields[4] = writer.tables([unit])
        fields[5] = writer.table(2, {0: writer.floats(highest), 1: writer.floats(lowest)})
    return writer.table(7, fields)


def _preparation(card: Card) -> str:
    if card.resize is None:
        return card.normalisation.formula
    (height, width), formula = card.resize.target, card.resize.formula
    return f"resized to {height}x{width} ({formula}), then {card.normalisation.formula}"


def _logits(writer: "_Writer", target: Tensor) -> int:
    labels = writer.table(5, {0: writer.text(LABELS_FILE), 1: writer.text("A name per logit")}, small={2: _AXIS_LABELS})
    features = writer.table(0, {})
    return writer.table(7, {
        0: writer.text("logits"),
        1: writer.text(f"{target.shape[-1]} scores before the softmax; the largest is the class"),
        3: writer.table(2, {1: features}, small={0: _FEATURE}),
        6: writer.tables([labels]),
    })  # fmt: skip


class _Writer:
    """The few parts of a flatbuffer that are needed; every method returns an offset."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.text: Callable[[str], int] = builder.CreateString

    def table(self, slots: int, offsets: dict[int, int], small: dict[int, int] | None = None) -> int:
        """A table with references at the slots of `offsets` and one-byte numbers at those of `small`."""
        self.builder.StartObject(slots)
        for slot, offset in offsets.items():
            self.builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, value in (small or {}).items():
            self.builder.PrependUint8Slot(slot, value, 0)
        end: int = self.builder.EndObject()
        return end

    def tables(self, offsets: Sequence[int]) -> int:
        return self._vector(self.builder.PrependUOffsetTRelative, offsets)

    def floats(self, values: Sequence[float]) -> int:
        return self._vector(self.builder.PrependFloat32, values)

    def _vector(self, prepend: Callable[[Any], None], items: Sequence[Any]) -> int:
        self.builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            prepend(item)
        end: int = self.builder.EndVector()
        return end
