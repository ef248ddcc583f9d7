"""Everything in one process: the executor for one machine without Ray, for debugging and for tests."""

import contextlib
import queue
import threading

from flaxcomp.schedule.worker import Worker
from flaxcomp.train.job import Event, Failed, Finished, PackJob, Stopped


class InlineExecutor:
    """One worker in a thread, so that the controller can still answer, renew its lease and stop."""

    slots = 1

    def __init__(self) -> None:
        self._worker = Worker()
        self._queue: queue.Queue[Event] = queue.Queue()
        self._thread: threading.Thread | None = None

    @property
    def free(self) -> list[str]:
        return [] if self._thread is not None and self._thread.is_alive() else [self._worker.name]

    def start(self, job: PackJob) -> None:
        self._thread = threading.Thread(target=self._run, args=(job,), name=f"pack-{job.pack_id}", daemon=True)
        self._thread.start()

    def _run(self, job: PackJob) -> None:
        try:
            for event in self._worker.run(job):
                self._queue.put(event)
        except BaseException as error:
            self._queue.put(Failed(job.pack_id, job.attempt, "lost", f"{type(error).__name__}: {error}"))
            raise

    def events(self, timeout_s: float) -> list[Event]:
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._queue.get(timeout=timeout_s))
            while True:
                found.append(self._queue.get_nowait())
        if self._thread is not None and found and isinstance(found[-1], Finished | Stopped | Failed):
            self._thread.join()  # it has nothing left to do: the worker is free
        return found

    def request_stop(self) -> None:
        self._worker.request_stop()

    def close(self) -> None:
        self._worker.request_stop()
        if self._thread is not None:
            self._thread.join()
