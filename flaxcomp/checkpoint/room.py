"""Room on the disk, asked for before Orbax begins: where it runs out of it, it leaves parts and a disk full to the brim."""

import errno
import os
from pathlib import Path

SPARE_BYTES = 8 << 20  # stays free, so that the store can still record that the run has stopped


def require_room(folder: Path, size_bytes: int) -> None:
    """Refuse to begin what the disk of `folder`, which may not be there yet, cannot hold.

    Raises:
        OSError: ENOSPC.
    """
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    free = (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) * disk.f_frsize
    if disk.f_blocks and free < size_bytes + SPARE_BYTES:  # some network file systems do not tell their size
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
