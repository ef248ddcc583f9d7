"""What an artifact says about itself, inside the file.

A TFLite file carries TFLite's standard metadata (`TFLITE_METADATA`, written by `standard_metadata.py`) and, as its associated
files, a zip archive at its end with `labels.txt` and `flaxcomp.json`: `unzip` shows them, runtimes ignore them. An ONNX file
carries the same in `metadata_props`. Nothing in it depends on the time or the machine, so equal exports are equal files.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from flaxcomp.errors import UserError
from flaxcomp.export.card import CARD_FILE, LABELS_FILE, Card
from flaxcomp.export.operators import ends, read_model
from flaxcomp.export.standard_metadata import standard_metadata

_ONNX_KEY = "flaxcomp"
_ALIGNMENT = 16  # bytes; `force_align` of Buffer.data in TFLite's schema
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def embed_tflite(data: bytes, card: Card) -> bytes:
    """Return a TFLite file with its metadata, and with its constants aligned to 16 bytes as the schema demands.

    (TensorFlow's own last pass packs the file in Python and loses the alignment.)
    """
    from ai_edge_litert import schema_py_generated as schema

    source, target = ends(data)
    if target.shape[-1] != len(card.labels):
        raise UserError(f"a label per logit is needed: {target.shape[-1]} logits, {len(card.labels)} labels")
    model = schema.ModelT.InitFromObj(read_model(data))
    model.buffers.append(schema.BufferT(data=standard_metadata(card, source, target)))
    model.metadata = [*(model.metadata or []), schema.MetadataT(name="TFLITE_METADATA", buffer=len(model.buffers) - 1)]
    file = io.BytesIO(_pack(model))
    with zipfile.ZipFile(file, "a") as archive:  # stored, not deflated: MediaPipe reads no other
        for name, content in ((LABELS_FILE, card.labels_text), (CARD_FILE, card.to_json(source, target))):
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), content)
    return file.getvalue()


def embed_onnx(data: bytes, card: Card, tflite: bytes) -> bytes:
    """Return an ONNX file with its metadata.

    Args:
        tflite: the file it was made from; ONNX keeps no scale and zero point of its ends, so the metadata does.
    """
    import onnx

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(
        model, {_ONNX_KEY: card.to_json(*ends(tflite)).decode(), LABELS_FILE: card.labels_text.decode()}
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def read_metadata(path: Path) -> dict[str, Any]:
    """Return an artifact's own description, with `labels`; for .tflite the standard library is enough.

    Raises:
        UserError: the file is missing, broken, or carries no metadata of flaxcomp's.
    """
    try:
        card, labels = _read_onnx(path) if path.suffix == ".onnx" else _read_zip(path)
        body: dict[str, Any] = json.loads(card)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: a .tflite or .onnx file made by `flaxcomp export` is expected, but its metadata cannot be "
                        f"read ({error or type(error).__name__})") from error  # fmt: skip
    return {**body, "labels": labels.decode().splitlines()}


def _read_zip(path: Path) -> tuple[bytes, bytes]:
    with zipfile.ZipFile(path) as archive:
        return archive.read(CARD_FILE), archive.read(LABELS_FILE)


def _read_onnx(path: Path) -> tuple[bytes, bytes]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(error) from error
    properties = {entry.key: entry.value.encode() for entry in model.metadata_props}
    return properties[_ONNX_KEY], properties[LABELS_FILE]


def _pack(model: Any) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated code's name
            content = b"" if self.data is None else bytes(self.data)
            builder.StartVector(1, len(content), _ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            vector = builder.EndVector()
            schema.BufferStart(builder)
            if self.data is not None:
                schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    model.buffers = [Aligned(data=buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
