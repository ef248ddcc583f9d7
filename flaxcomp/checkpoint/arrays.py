"""Reads the arrays of a folder that Orbax wrote, without Orbax.

Its own reading gives up at the first damaged array and closes its event loop while others are still being read; each of these
then prints a traceback. Here every read has ended when the error is raised.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from flaxcomp.checkpoint.trees import Flat


def read_arrays(folder: Path) -> Flat:
    """The arrays of a flat dictionary that was saved with `StandardSave`, by name.

    Raises:
        Exception: of many kinds, for a damaged or incomplete folder. What was read need not be right: see `checksum`.
    """
    written = json.loads((folder / "_METADATA").read_text())
    if not written["use_ocdbt"] or written["use_zarr3"]:
        raise ValueError("its format is not the one that flaxcomp writes")
    names = [entry["key_metadata"][0]["key"] for entry in written["tree_metadata"].values()]
    context = ts.Context()  # one for all, so that the index is read once
    opened = _settled([ts.open(_place(folder, name), context=context, open=True, read=True) for name in names])
    arrays = _settled([store.read() for store in opened])
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _place(folder: Path, name: str) -> dict[str, Any]:
    base = {"driver": "file", "path": f"{folder.absolute()}/"}
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}


def _settled(futures: list[Any]) -> list[Any]:
    """Their results when all have ended; raises the first error among them."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
