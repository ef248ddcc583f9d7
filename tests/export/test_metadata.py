"""What a file says about itself, and that saying it changes nothing else."""

import json
import struct
import zipfile

import numpy as np
import pytest

from export_nets import NETS, net
from flaxcomp.data.catalog import info
from flaxcomp.errors import UserError
from flaxcomp.export.card import Card, Normalisation
from flaxcomp.export.convert import to_tflite
from flaxcomp.export.metadata import embed_onnx, embed_tflite, read_metadata
from flaxcomp.export.operators import ends, read_model
from flaxcomp.export.to_onnx import to_onnx
from flaxcomp.export.trained import normalisation, resizing
from flaxcomp.sweep.spec import Dataset
from flaxcomp.train.inputs import normalise_array

LABELS = ("zero", "one", "two", "drei", "vier", "fünf", "six", "seven", "eight", "nine\nlives")
CHANNEL = Normalisation("channel", (125.5, 120.25, 113.0), (62.5, 61.25, 66.75), "(pixel - mean) / std")


def card(normalisation: Normalisation = CHANNEL, **changes) -> Card:
    values = {
        "labels": LABELS,
        "normalisation": normalisation,
        "trial": "0123456789abcdef",
        "config": {"model": {"name": "wide"}, "seed": 3},
        "dataset": {"name": "cifar10", "fingerprint": "ab" * 32},
        "precision": "int8",
        "calibration": {"images": 100},
        "versions": {"jax": "1.2.3"},
    }
    return Card(**values | changes)


def tflite(name: str = "DepthwiseResidual", precision: str = "int8") -> bytes:
    forward, x, _ = net(name)
    return to_tflite(forward, NETS[name].shape, precision, x[:100])


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    data = tflite()
    (folder / "a.tflite").write_bytes(embed_tflite(data, card()))
    (folder / "a.onnx").write_bytes(embed_onnx(to_onnx(data), card(), data))
    return folder


@pytest.mark.parametrize("file", ["a.tflite", "a.onnx"])
def test_everything_reads_back(files, file):
    read = read_metadata(files / file)
    assert read["labels"] == [*LABELS[:-1], "nine lives"]  # a label is one line of labels.txt
    assert read["normalization"] == {
        "kind": "channel",
        "mean": [125.5, 120.25, 113.0],
        "std": [62.5, 61.25, 66.75],
        "formula": CHANNEL.formula,
    }
    assert read["trial"] == "0123456789abcdef"
    assert read["config"] == {"model": {"name": "wide"}, "seed": 3}
    assert read["dataset"] == {"name": "cifar10", "fingerprint": "ab" * 32}
    assert read["precision"] == "int8"
    assert read["calibration"] == {"images": 100}
    assert read["versions"] == {"jax": "1.2.3"}
    assert read["input"]["shape"] == [1, 32, 32, 3]
    assert read["input"]["dtype"] == "int8"
    assert read["input"]["scale"] == pytest.approx(1 / 255, rel=0.01)
    assert read["input"]["zero_point"] == -128
    assert read["output"]["shape"] == [1, 10]


def test_a_float_file_has_no_quantisation(tmp_path):
    path = tmp_path / "f.tflite"
    path.write_bytes(embed_tflite(tflite("Tiny", "float32"), card(Normalisation("unit", (0.0,), (255.0,), "pixel / 255"))))
    assert read_metadata(path)["input"] == {"name": "image", "layout": "NHWC", "shape": [1, 28, 28, 1], "dtype": "float32"}


def test_metadata_change_no_result():
    data = tflite()
    images = np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)
    np.testing.assert_array_equal(run(embed_tflite(data, card()), images), run(data, images))


def test_constants_are_aligned_to_16_bytes():
    model = read_model(embed_tflite(tflite(), card()))
    places = []
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            places.append(buffer._tab.Vector(buffer._tab.Offset(4)) % 16)
    assert places == [0] * len(places)
    assert len(places) > 10


def test_the_archive_holds_plain_files_without_a_time(files):
    with zipfile.ZipFile(files / "a.tflite") as archive:
        assert archive.namelist() == ["labels.txt", "flaxcomp.json"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(archive.read("flaxcomp.json"))["format"] == 1


def test_equal_cards_give_equal_bytes():
    data = tflite()
    assert embed_tflite(data, card()) == embed_tflite(data, card())
    assert embed_tflite(data, card()) != embed_tflite(data, card(trial="f" * 16))


class Table:
    """A flatbuffer table read by the definition of the format: an independent reader for what `standard_metadata` writes."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    @classmethod
    def root(cls, data: bytes) -> "Table":
        return cls(data, struct.unpack_from("<I", data)[0])

    def _field(self, slot: int) -> int | None:
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        (size,) = struct.unpack_from("<H", self.data, vtable)
        if 4 + 2 * slot >= size:
            return None
        (offset,) = struct.unpack_from("<H", self.data, vtable + 4 + 2 * slot)
        return self.at + offset if offset else None

    def _follow(self, slot: int) -> int:
        field = self._field(slot)
        assert field is not None, f"slot {slot} is absent"
        return field + struct.unpack_from("<I", self.data, field)[0]

    def byte(self, slot: int) -> int:
        field = self._field(slot)
        return 0 if field is None else self.data[field]

    def has(self, slot: int) -> bool:
        return self._field(slot) is not None

    def table(self, slot: int) -> "Table":
        return Table(self.data, self._follow(slot))

    def text(self, slot: int) -> str:
        at = self._follow(slot)
        (length,) = struct.unpack_from("<I", self.data, at)
        return self.data[at + 4 : at + 4 + length].decode()

    def tables(self, slot: int) -> list["Table"]:
        at = self._follow(slot)
        (length,) = struct.unpack_from("<I", self.data, at)
        places = [at + 4 + 4 * i for i in range(length)]
        return [Table(self.data, place + struct.unpack_from("<I", self.data, place)[0]) for place in places]

    def floats(self, slot: int) -> list[float]:
        at = self._follow(slot)
        (length,) = struct.unpack_from("<I", self.data, at)
        return list(struct.unpack_from(f"<{length}f", self.data, at + 4))


def standard(data: bytes) -> Table:
    model = read_model(data)
    entries = {model.Metadata(i).Name().decode(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    content = model.Buffers(entries["TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert content[4:8] == b"M001"
    return Table.root(content)


def test_tflites_standard_metadata_say_the_same():
    """Slots as in MediaPipe's metadata_schema.fbs."""
    root = standard(embed_tflite(tflite(), card()))
    assert root.text(0) == "wide"
    assert "0123456789abcdef" in root.text(1)
    assert root.text(7) == "1.0.0"
    (graph,) = root.tables(3)
    (image,), (logits,) = graph.tables(2), graph.tables(3)
    assert image.text(0) == "image"
    assert image.table(3).byte(0) == 2  # ImageProperties
    assert image.table(3).table(1).byte(0) == 1  # RGB
    (unit,) = image.tables(4)
    assert unit.byte(0) == 1  # NormalizationOptions
    assert unit.table(1).floats(0) == [125.5, 120.25, 113.0]
    assert unit.table(1).floats(1) == [62.5, 61.25, 66.75]
    assert image.table(5).floats(0) == pytest.approx([(255 - 125.5) / 62.5, (255 - 120.25) / 61.25, (255 - 113.0) / 66.75])
    assert logits.table(3).byte(0) == 1  # FeatureProperties
    (labels,) = logits.tables(6)
    assert (labels.text(0), labels.byte(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_standard_metadata_have_no_word_for_normalisation_per_image():
    per_image = Normalisation("image", None, None, "zero mean and unit deviation of each image")
    root = standard(embed_tflite(tflite(), card(per_image)))
    (image,) = root.tables(3)[0].tables(2)
    assert not image.has(4)
    assert image.text(1) == per_image.formula


def test_images_that_are_resized_are_said_to_be():
    about = info("cifar10")
    plain, same = (card(resize=resizing(Dataset(name="cifar10", size=size), about)) for size in (None, 32))
    assert plain == same
    small = card(resize=resizing(Dataset(name="cifar10", size=24), about))
    (image,) = standard(embed_tflite(tflite(), small)).tables(3)[0].tables(2)
    assert image.text(1).startswith("resized to 24x24 (linear interpolation, half-pixel centres, antialiased where it shrinks")
    assert image.text(1).endswith(f"then {CHANNEL.formula}")
    stated, silent = (json.loads(it.to_json(*ends(tflite()))) for it in (small, plain))
    assert (stated["resize"]["source"], stated["resize"]["target"]) == ([32, 32], [24, 24])
    assert "resize" not in silent


@pytest.mark.parametrize("kind", ["unit", "channel"])
def test_the_stated_normalisation_is_the_one_in_training(kind):
    spec, about = Dataset(name="cifar10", normalize=kind), info("cifar10")
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    stated = normalisation(spec, about)
    assert stated.kind == kind
    by_the_card = (images - np.float32(stated.mean)) / np.float32(stated.std)
    np.testing.assert_allclose(by_the_card, normalise_array(images, spec, about), atol=1e-5)


def test_the_stated_normalisation_per_image_is_the_one_in_training():
    spec, about = Dataset(name="cifar10", normalize="image"), info("cifar10")
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    images[0] = 7  # uniform: the floor of the deviation
    stated = normalisation(spec, about)
    assert (stated.kind, stated.mean, stated.std) == ("image", None, None)
    assert (
        stated.formula
        == "x = pixel / 255, then (x - mean(x)) / max(deviation(x), 0.001) over each whole image, before the network"
    )
    x = images / 255
    mean, deviation = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose((x - mean) / np.maximum(deviation, 0.001), normalise_array(images, spec, about), atol=1e-4)


def test_as_many_labels_as_logits():
    with pytest.raises(UserError, match="10 logits, 3 labels"):
        embed_tflite(tflite(), card(labels=("a", "b", "c")))


@pytest.mark.parametrize("name", ["missing.tflite", "broken.tflite", "bare.tflite", "missing.onnx", "broken.onnx", "bare.onnx"])
def test_files_without_metadata_are_refused(tmp_path, name):
    path = tmp_path / name
    if name.startswith("broken"):
        path.write_bytes(b"\x01\x02\x03" * 50)
    elif name.startswith("bare"):
        data = tflite("Tiny", "float32")
        path.write_bytes(data if name.endswith("tflite") else to_onnx(data))
    with pytest.raises(UserError, match="made by `flaxcomp export` is expected"):
        read_metadata(path)


@pytest.mark.parametrize("data", [b"", b"short", b"\x00" * 100])
def test_bytes_that_are_no_tflite_file(data):
    with pytest.raises(UserError, match="not a TFLite file"):
        embed_tflite(data, card())
