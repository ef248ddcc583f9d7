"""Warm Ray Core actors, one a slot. Ray places and starts them; retries are the controller's business."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray

from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.schedule.worker import Worker
from flaxcomp.sweep.spec import Resources
from flaxcomp.train.job import Event, Failed, PackJob, Stopped


@dataclass
class _Slot:
    """A worker and what it is doing."""

    name: str
    actor: Any
    job: PackJob | None = None
    stream: Any = None


class RayExecutor:
    """Workers on a Ray cluster.

    Args:
        resources: of one worker, and how many; `auto` fills the cluster.
        address: of a running cluster (`auto`, `host:port`, `ray://...`); None starts one on this machine.

    Raises:
        UserError: no cluster answers at the address, or it has no room for a single worker.
    """

    def __init__(self, resources: Resources, address: str | None = None) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False,
                     **({} if address else {"include_dashboard": False}))  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"at {address}" if address else "on this machine"
            raise UserError(f"no Ray cluster could be reached {where}: {str(error).splitlines()[0]}") from None
        self._options = self._actor_options(resources)
        count = self._count(resources)
        self._slots = [_Slot(f"ray worker {i + 1}", self._new_actor()) for i in range(count)]
        self._arrays: dict[str, Any] = {}
        self._stopping = False

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def free(self) -> int:
        return sum(slot.job is None for slot in self._slots)

    @property
    def next_worker(self) -> str:
        return self._free_slot().name

    def start(self, job: PackJob) -> None:
        slot = self._free_slot()
        slot.job = job
        slot.stream = slot.actor.run.remote(job, self._data(job))

    def _free_slot(self) -> _Slot:
        return next(slot for slot in self._slots if slot.job is None)

    def events(self, timeout_s: float) -> list[Event]:
        found: list[Event] = []
        busy = [slot for slot in self._slots if slot.job is not None]
        if not busy:
            time.sleep(timeout_s)
            return found
        ready, _ = ray.wait([slot.stream for slot in busy], num_returns=1, timeout=timeout_s)
        for slot in busy:
            if any(slot.stream is stream for stream in ready):
                found += self._drain(slot)
        return found

    def request_stop(self) -> None:
        self._stopping = True
        for slot in self._slots:
            if slot.job is not None:
                slot.actor.request_stop.remote()

    def close(self) -> None:
        for slot in self._slots:
            ray.kill(slot.actor)
        ray.shutdown()

    def _drain(self, slot: _Slot) -> list[Event]:
        """Take all that a worker has to tell without waiting for more."""
        found: list[Event] = []
        job = slot.job
        assert job is not None
        while True:
            try:
                found.append(ray.get(next(slot.stream)))
            except StopIteration:
                slot.job = slot.stream = None
                if found and isinstance(found[-1], Failed):
                    self._replace(slot)  # what an error leaves behind in a process is not to be trusted
                return found
            except ray.exceptions.RayError as error:
                slot.job = slot.stream = None
                self._replace(slot)
                text = str(error).strip().splitlines()[0][:300]
                found.append(
                    Stopped(job.pack_id, job.attempt) if self._stopping else Failed(job.pack_id, job.attempt, "lost", text)
                )
                return found
            if not ray.wait([slot.stream], timeout=0)[0]:
                return found

    def _replace(self, slot: _Slot) -> None:
        ray.kill(slot.actor)
        slot.actor = self._new_actor()

    def _new_actor(self) -> Any:
        return ray.remote(_RayWorker).options(**self._options).remote()

    def _data(self, job: PackJob) -> Any:
        """The data set in Ray's object store: read once here, fetched once by every node."""
        name = next(iter(job.configs.values())).dataset.name
        if name not in self._arrays:
            self._arrays[name] = ray.put(load(name))
        return self._arrays[name]

    def _actor_options(self, resources: Resources) -> dict[str, Any]:
        gpus = resources.gpu
        cpus = 1.0 if resources.cpu == "auto" else resources.cpu
        environment = {"JAX_PLATFORMS": "cpu"} if not gpus else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": 0,
            "max_concurrency": 2,
            "runtime_env": {"env_vars": environment},
        }

    def _count(self, resources: Resources) -> int:
        total = ray.cluster_resources()
        room = int(total.get("CPU", 0) // self._options["num_cpus"])
        if resources.gpu:
            room = min(room, int(total.get("GPU", 0) // resources.gpu))
        if room < 1:
            raise UserError(
                f"one worker needs {self._options['num_cpus']:g} CPUs and {resources.gpu:g} GPUs, the Ray cluster has "
                f"{total.get('CPU', 0):g} and {total.get('GPU', 0):g}: change `resources` in the sweep file"
            )
        return room if resources.workers == "auto" else min(resources.workers, room)


class _RayWorker:
    """The actor around a Worker."""

    def __init__(self) -> None:
        self._worker = Worker()

    def run(self, job: PackJob, arrays: Arrays) -> Iterator[Event]:  # a generator: Ray streams what it yields
        yield from self._worker.run(job, arrays)

    def request_stop(self) -> None:
        self._worker.request_stop()
