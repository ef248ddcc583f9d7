"""Keeps a lease while its holder is busy with something that writes nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flaxcomp.errors import UserError
from flaxcomp.store.lease import Lease, LeaseLostError
from flaxcomp.store.records import Store


@contextmanager
def beating(store: Store, lease: Lease, every_s: float) -> Iterator[None]:
    """Renew a lease in a thread for as long as the block takes; for stretches with a known end, not for a whole run.

    The thread imports nothing that `Store.acquire` has not imported: imports of C code in two threads must not race.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_s):
            try:
                store.renew(lease)
            except LeaseLostError:
                return  # the holder's next write says so
            except UserError:
                continue  # a full disk or a server away: the holder meets it too, or it passes

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
