"""What the programs that measure on this machine share: a cache folder, and the locks in it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_TOLD_EVERY_S = 30.0
_POLL_S = 0.1


def cache_folder(given: str | Path | None = None) -> Path:
    """Return where provisioned boards and locks lie: `given`, else $FLAXCOMP_CACHE, else the user's cache folder."""
    if given or (given := os.environ.get("FLAXCOMP_CACHE")):
        return Path(given).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("flaxcomp")


@contextmanager
def locked(file: Path, on_wait: Callable[[str, float], None]) -> Iterator[None]:
    """Hold `file` for this process alone; wait while another holds it.

    Args:
        on_wait: called with who holds it and the seconds waited so far: at once, then every WAIT_TOLD_EVERY_S.

    The lock belongs to the open file, so it ends with the process, however that ends.
    """
    import fcntl

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as handle:
        began, told = time.monotonic(), 0
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - began
            if waited >= told * WAIT_TOLD_EVERY_S:
                told += 1
                handle.seek(0)
                on_wait(handle.read().strip() or "another process", waited)
            time.sleep(_POLL_S)
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()}\n")
        handle.flush()
        yield
