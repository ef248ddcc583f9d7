"""The device pool that a sweep file names."""

from pathlib import Path

from flaxcomp.devices.pool import load_pool
from flaxcomp.devices.protocol import preset
from flaxcomp.sweep.load import LoadedSweep


def pool_file(loaded: LoadedSweep, sweep: Path, frozen: Path | None = None) -> Path | None:
    """The device pool that the sweep names, checked before anything is trained: from the working directory, or beside the file.

    Args:
        frozen: the run's copy of it, where the sweep is that of a run.

    Raises:
        UserError: it is not there, or no pool.
    """
    if loaded.sweep.benchmark is None:
        return None
    named = Path(loaded.sweep.benchmark.pool)
    file = first_there(named, sweep.parent / named, frozen)
    load_pool(file)
    preset(loaded.sweep.benchmark.protocol)
    return file


def first_there(named: Path, *others: Path | None) -> Path:
    """The first file that is there; `named` if none is, for the error."""
    return next((file for file in (named, *others) if file is not None and file.exists()), named)
