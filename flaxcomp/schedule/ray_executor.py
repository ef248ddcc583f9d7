"""Warm Ray Core actors, one a slot. Ray places and starts them; retries are the controller's business."""

import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray

from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.schedule.worker import Worker
from flaxcomp.sweep.spec import Resources
from flaxcomp.train.job import Event, Failed, Finished, PackJob, Stopped


@dataclass(eq=False)
class _Slot:
    """A worker and what it is doing; `placed` is ready once Ray has started it, or has given up."""

    name: str
    actor: Any
    placed: Any
    job: PackJob | None = None
    stream: Any = None


class RayExecutor:
    """Workers on a Ray cluster.

    Args:
        resources: of one worker, and how many; `auto` fills the cluster.
        address: of a running cluster (`auto`, `host:port`); None starts one on this machine.

    Raises:
        UserError: no cluster answers at the address, or it has no room for a single worker.
    """

    def __init__(self, resources: Resources, address: str | None = None) -> None:
        if address and "://" in address:  # Ray's client carries no streams
            raise UserError(f"the Ray cluster must be named as auto or HOST:PORT, got {address}: run on one of its nodes, "
                            "or hand the sweep over with `flaxcomp submit`.")  # fmt: skip
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:  # "local", for None would take the cluster of RAY_ADDRESS
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, configure_logging=False,
                     **({} if address else {"include_dashboard": False}))  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"at {address}" if address else "on this machine"
            raise UserError(f"no Ray cluster could be reached {where}: {str(error).splitlines()[0]}") from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count = count_workers(resources, nodes)
        self._options, self._environment = actor_options(resources), worker_environment(resources, count, nodes)
        self._slots = [_Slot(f"ray worker {i + 1}", *self._new_actor()) for i in range(count)]
        self._arrays: dict[str, Any] = {}
        self._stopping = False

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def free(self) -> list[str]:
        return [slot.name for slot in self._idle()]

    def start(self, job: PackJob) -> None:
        slot = self._idle()[0]
        slot.job = job
        slot.stream = slot.actor.run.remote(job, self._data(job))

    def events(self, timeout_s: float) -> list[Event]:
        idle = self._idle()
        awaited = [slot.placed if slot.job is None else slot.stream for slot in self._slots if slot not in idle]
        if not awaited:
            time.sleep(timeout_s)
            return []
        ray.wait(awaited, num_returns=1, timeout=timeout_s)
        return [event for slot in self._slots for event in self._drain(slot)]

    def request_stop(self) -> None:
        self._stopping = True
        for slot in self._slots:
            if slot.job is not None:
                slot.actor.request_stop.remote()

    def close(self) -> None:
        for slot in self._slots:
            ray.kill(slot.actor)
        ray.shutdown()

    def _idle(self) -> list[_Slot]:
        """Workers that could begin a pack. One that waits for room in a shared cluster could not, and is given none."""
        idle = [slot for slot in self._slots if slot.job is None]
        placed = set(ray.wait([slot.placed for slot in idle], num_returns=len(idle), timeout=0)[0]) if idle else set()
        return [slot for slot in idle if slot.placed in placed]

    def _drain(self, slot: _Slot) -> list[Event]:
        """Take all that a worker has to tell without waiting for more."""
        found: list[Event] = []
        while slot.job is not None and ray.wait([slot.stream], timeout=0)[0]:
            event = self._next_event(slot, slot.job)
            found.append(event)
            if isinstance(event, Finished | Stopped | Failed):
                slot.job = slot.stream = None
            if isinstance(event, Failed):
                ray.kill(slot.actor)  # what an error leaves behind in a process is not to be trusted
                slot.actor, slot.placed = self._new_actor()
        return found

    def _next_event(self, slot: _Slot, job: PackJob) -> Event:
        try:
            event: Event = ray.get(next(slot.stream))
        except (ray.exceptions.RayError, StopIteration) as error:
            if self._stopping:
                return Stopped(job.pack_id, job.attempt)
            return Failed(job.pack_id, job.attempt, _kind_of(error), _summary(error), str(error))
        return event

    def _new_actor(self) -> tuple[Any, Any]:
        actor = ray.remote(_RayWorker).options(**self._options).remote(bool(self._options["num_gpus"]), self._environment)
        return actor, actor.__ray_ready__.remote()

    def _data(self, job: PackJob) -> Any:
        """The data set in Ray's object store: read once here, fetched once by every node."""
        name = next(iter(job.configs.values())).dataset.name
        if name not in self._arrays:
            self._arrays[name] = ray.put(load(name))
        return self._arrays[name]


def count_workers(resources: Resources, nodes: list[dict[str, float]]) -> int:
    """How many workers there will be; no worker spans two nodes.

    Args:
        resources: of the sweep.
        nodes: "CPU" and "GPU" of each.

    Raises:
        UserError: no node has room for one.
    """
    cpu, gpu = _cpus(resources), resources.gpu
    room = sum(int(min(node.get("CPU", 0) / cpu, node.get("GPU", 0) / gpu if gpu else math.inf)) for node in nodes)
    if room < 1:
        largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        raise UserError(
            f"one worker needs {cpu:g} CPUs and {gpu:g} GPUs, the largest node of the Ray cluster has "
            f"{largest.get('CPU', 0):g} and {largest.get('GPU', 0):g}: change `resources` in the sweep file"
        )
    return room if resources.workers == "auto" else min(resources.workers, room)


def actor_options(resources: Resources) -> dict[str, Any]:
    """What Ray is told of each worker.

    No runtime environment is among it: with one, Ray would not take a process that it started with the node, but wait for its
    agent of environments and start another.
    """
    return {
        "num_cpus": _cpus(resources),
        "num_gpus": resources.gpu,
        "max_restarts": 0,
        "max_concurrency": 2,  # a request to stop reaches a worker that trains
    }


def worker_environment(resources: Resources, workers: int, nodes: list[dict[str, float]]) -> dict[str, str]:
    """The environment of each of so many workers, set before it imports JAX.

    XLA starts a thread for every core of the machine in every process. NPROC gives it twice what the worker asks for instead,
    since threads often wait for each other; or its share of the cluster, where the workers ask for less than there is.
    """
    cpu, cpus = _cpus(resources), [node.get("CPU", 0) for node in nodes]
    environment = {"NPROC": str(math.ceil(max(2, 2 * cpu, min(sum(cpus) / workers, max(cpus)))))}
    if resources.gpu:
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # workers may share a GPU
    else:
        environment["JAX_PLATFORMS"] = "cpu"
    return environment


def _cpus(resources: Resources) -> float:
    return 1.0 if resources.cpu == "auto" else resources.cpu


def _kind_of(error: Exception) -> Literal["out_of_memory", "lost"]:
    """Ray kills workers before a node runs out of memory, and says so; the kernel does not."""
    return "out_of_memory" if isinstance(error, ray.exceptions.OutOfMemoryError) else "lost"


def _summary(error: Exception) -> str:
    """Ray's errors begin with what every one of them says and a table; the reason comes after."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"[:300]
    lines = [line for line in str(error).splitlines() if line and not line.startswith("\t")]
    return " ".join(lines).partition(" Some common causes")[0][:300] or "the worker ended without a result"


class _RayWorker:
    """The actor around a Worker."""

    def __init__(self, accelerator: bool, environment: dict[str, str]) -> None:
        os.environ.update(environment)  # nothing that reads it has been imported yet
        self._worker = Worker(accelerator=accelerator)

    def run(self, job: PackJob, arrays: Arrays) -> Iterator[Event]:  # a generator: Ray streams what it yields
        yield from self._worker.run(job, arrays)

    def request_stop(self) -> None:
        self._worker.request_stop()
