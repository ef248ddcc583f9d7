"""The device pool that a sweep file names."""

from pathlib import Path

from flaxcomp.devices.pool import load_pool
from flaxcomp.devices.protocol import preset
from flaxcomp.sweep.load import LoadedSweep


def pool_file(loaded: LoadedSweep, sweep: Path) -> Path | None:
    """The device pool that the sweep names, checked before anything is trained: from the working directory, or beside the file.

    Raises:
        UserError: it is not there, or no pool.
    """
    if loaded.sweep.benchmark is None:
        return None
    named = Path(loaded.sweep.benchmark.pool)
    beside = sweep.parent / named
    file = beside if not named.exists() and beside.exists() else named
    load_pool(file)
    preset(loaded.sweep.benchmark.protocol)
    return file
