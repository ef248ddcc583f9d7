"""Checkpoints of a pack in training: written while training goes on, the newest two kept."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orbax.checkpoint as ocp

from flaxcomp.checkpoint.trees import Flat, checksum

KEPT = 2  # the newest, and the one before for when the newest cannot be read

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step of every save


class PackCheckpoints:
    """The checkpoints in one folder, numbered by epoch. Use as a context manager: leaving it waits for the last write."""

    def __init__(self, folder: Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=True, create=True)
        self._manager = ocp.CheckpointManager(folder, options=options, item_names=("state", "meta"))

    def save(self, epoch: int, state: Flat, meta: dict[str, Any]) -> None:
        """Begin to write; returns when the arrays are safe from change. `meta` is JSON."""
        meta = {**meta, "checksum": checksum(state)}
        self._manager.save(
            epoch, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)), force=True
        )

    def restore(self, on_fallback: Callable[[str], None]) -> tuple[int, Flat, dict[str, Any]] | None:
        """Return (epoch, state, meta) of the newest checkpoint that can be read whole, or None.

        Args:
            on_fallback: told of every checkpoint that had to be passed over, and why.
        """
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                loaded = self._manager.restore(
                    epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
                )
                state, meta = dict(loaded["state"]), dict(loaded["meta"])
                if checksum(state) != meta["checksum"]:
                    raise ValueError("its contents do not match their checksum")
            except Exception as error:  # Orbax, tensorstore and json raise many kinds for a damaged file
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                on_fallback(f"checkpoint of epoch {epoch} is damaged ({first_line}): going back to the one before")
                with contextlib.suppress(Exception):  # or saving this epoch again would be refused
                    self._manager.delete(epoch)
                continue
            return epoch, state, meta
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manager.close()
