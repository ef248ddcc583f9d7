"""What a long search keeps on disk, so that a kill costs at most the step that it was in."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flaxcomp import durable

Arrays = dict[str, npt.NDArray[Any]]

_META = "/meta"  # no array has this name: names of arrays do not begin with a slash


def keep(folder: Path, name: str, arrays: Arrays, meta: Any) -> None:
    """Write `name`, whole or not at all, in the place of what it was before.

    Args:
        arrays: by name. meta: JSON.
    """
    stream = io.BytesIO()
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(stream, **{**arrays, _META: text})  # type: ignore[arg-type]
    durable.write_bytes(folder / f"{name}.npz", stream.getvalue())


def kept(folder: Path, name: str) -> tuple[Arrays, Any] | None:
    """What was kept as `name`; None where there is nothing, or it is damaged."""
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        return arrays, json.loads(arrays.pop(_META).tobytes())
    except Exception:  # missing; or zipfile, zlib, NumPy and json, which raise many kinds for a damaged one
        return None
