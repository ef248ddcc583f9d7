"""Checkpoints of a pack in training: written while training goes on, the newest two kept."""

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orbax.checkpoint as ocp

from flaxcomp.checkpoint.arrays import read_arrays
from flaxcomp.checkpoint.room import require_room
from flaxcomp.checkpoint.trees import Flat, checksum

KEPT = 2  # the newest, and the one before for when the newest cannot be read


class PackCheckpoints:
    """The checkpoints of a pack, numbered by training step. Use as a context manager: leaving it waits for the last write.

    Args:
        folder: of the pack; each attempt writes into a folder of its own, so that a worker which was given up but still runs
            cannot meet its successor.
        attempt: which one this is.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=True, create=True)
        self._folder, self._attempt = folder, attempt
        self._saved: int | None = None
        self._manager = ocp.CheckpointManager(folder / str(attempt), options=options, item_names=("state", "meta"))

    def save(self, step: int, state: Flat, meta: dict[str, Any]) -> None:
        """Begin to write; returns when the arrays are safe from change. `meta` is JSON. The same step again is nothing new.

        Raises:
            OSError: the disk is too full.
        """
        if step == self._saved:
            return
        require_room(self._folder, sum(array.nbytes for array in state.values()))
        meta = {**meta, "checksum": checksum(state)}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)), force=True
        )
        self._saved = step

    def wait(self) -> None:
        """Return when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def restore(self, on_damage: Callable[[str], None]) -> tuple[int, Flat, dict[str, Any]] | None:
        """Return (step, state, meta) of the newest checkpoint of any attempt that can be read whole, or None.

        Args:
            on_damage: told of every checkpoint that had to be passed over, and why.
        """
        left = [(step, path) for step, attempt, path in _newest_first(self._folder) if attempt != self._attempt]
        while left:
            step, path = left.pop(0)
            try:
                return step, *_read(path)
            except Exception as error:  # tensorstore and json raise many kinds for a damaged file
                then = "going back to the one before" if left else "none is left before it, training starts anew"
                on_damage(f"checkpoint {step} is damaged ({_reason(error)}): {then}")
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manager.close()


def read_at(folder: Path, epoch: int) -> tuple[Flat, dict[str, Any]]:
    """Read what a pack that paused after so many epochs has left.

    Args:
        folder: of the pack.

    Raises:
        ValueError: there is no such checkpoint that can be read; says why.
    """
    reason = "it is gone"
    for _, _, path in _newest_first(folder):
        try:
            meta = _read_meta(path)
            if (meta["epoch"], meta["step"]) == (epoch, 0):
                return _read(path)
        except Exception as error:  # as above
            reason = _reason(error)
    raise ValueError(reason)


def _read(path: Path) -> tuple[Flat, dict[str, Any]]:
    state, meta = read_arrays(path / "state"), _read_meta(path)
    if checksum(state) != meta["checksum"]:
        raise ValueError("its contents do not match their checksum")
    return state, meta


def _read_meta(path: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((path / "meta" / "metadata").read_text())
    return meta


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _newest_first(folder: Path) -> list[tuple[int, int, Path]]:
    """Step, attempt and place of each checkpoint."""
    found = [(int(path.name), int(path.parent.name), path) for path in folder.glob("*/*")
             if path.name.isdigit() and path.parent.name.isdigit()]  # fmt: skip
    return sorted(found, reverse=True)
