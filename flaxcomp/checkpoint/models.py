"""The file of one trained network: parameters and batch statistics, written by Orbax, read back without a template."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from flaxcomp.checkpoint.arrays import read_arrays
from flaxcomp.checkpoint.room import require_room
from flaxcomp.checkpoint.trees import checksum, flatten, nest
from flaxcomp.errors import UserError

_CHECKSUM = "checksum"


def save_models(models: dict[Path, dict[str, Any]]) -> None:
    """Write networks `{folder: {"params": ..., "stats": ...}}`; a folder appears whole or not at all, and replaces an old one.

    Writing overlaps between networks; returns when all are on disk.

    Raises:
        OSError: the disk is too full.
    """
    for folder in models:
        require_room(folder, sum(leaf.nbytes for leaf in jax.tree.leaves(models)))
    checkpointers = []
    for folder, model in models.items():
        flat = flatten(model)
        flat[_CHECKSUM] = np.asarray(checksum(flat), np.int64)
        checkpointer = ocp.StandardCheckpointer()
        checkpointer.save(folder, flat, force=True)
        checkpointers.append(checkpointer)
    for checkpointer in checkpointers:
        checkpointer.close()


def load_model(folder: Path) -> dict[str, Any]:
    """Return {"params": ..., "stats": ...} as nested dictionaries of NumPy arrays.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: a trained network must be there, but there is none. Has its trial finished, or has the "
                        "sweep's `retention` removed it?")  # fmt: skip
    try:
        flat = read_arrays(folder)
        expected = int(flat.pop(_CHECKSUM))
        if checksum(flat) != expected:
            raise ValueError("its contents do not match their checksum")
    except Exception as error:  # tensorstore and json raise many kinds for a damaged file
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"{folder}: the trained network cannot be read ({first_line}). Put it back from a copy, or train it again in "
            "another run folder."
        ) from None
    tree = nest(flat)
    return {"params": tree.get("params", {}), "stats": tree.get("stats", {})}
