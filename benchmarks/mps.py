"""The peer that shares a GPU between processes by CUDA's Multi-Process Service."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Side, Work
from benchmarks.sides import PEERS, OutOfMemoryError, environment, python_of, read_result
from benchmarks.tasks import Task, write_arrays


def under_mps(task: Task) -> Side:
    """A process a trial, all at once on one GPU; they train from the moment at which all have compiled."""
    python, count = python_of("serial_flax"), len(task.points)

    def prepare(folder: Path) -> None:
        for i, point in enumerate(task.points):
            own = folder / str(i)
            own.mkdir()
            write_arrays(own, task.arrays)
            alone = Task(task.model, task.dataset, task.train, (point,))
            alone.job(1, gate=folder / "gate").write(own)

    def run(folder: Path) -> None:
        env = environment(folder, XLA_PYTHON_CLIENT_PREALLOCATE="false")
        with mps(folder, env):
            processes = [start(python, folder / str(i), env) for i in range(count)]
            try:
                while not all((folder / str(i) / "ready").exists() for i in range(count)):
                    if any(process.poll() for process in processes):
                        break
                    time.sleep(0.01)
                (folder / "gate").touch()
                codes = [process.wait() for process in processes]
            finally:
                for process in processes:
                    process.kill()
        if any(codes):
            log = folder / str(next(i for i, code in enumerate(codes) if code)) / "output.log"
            said = log.read_text(errors="replace")
            raise (OutOfMemoryError if "RESOURCE_EXHAUSTED" in said else RuntimeError)(f"a process failed:\n{said[-3000:]}")

    def read(folder: Path) -> Work:
        works = [read_result(folder / str(i)) for i in range(count)]
        accuracy = {point: share for work in works for point, share in work.accuracy.items()}
        longest = max(work.train_seconds or 0.0 for work in works)  # all began together
        return Work(works[0].data, works[0].params, works[0].batch_size, works[0].steps, accuracy, longest)

    return Side(f"MPS {count}", prepare, run, read)


def start(python: str, folder: Path, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    with (folder / "output.log").open("wb") as log:
        return subprocess.Popen([python, str(PEERS / "serial_flax.py"), str(folder)], env=env, stdout=log, stderr=log)


@contextmanager
def mps(folder: Path, env: dict[str, str]) -> Iterator[None]:
    """A control daemon of our own, which nobody else's processes see."""
    env |= {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "mps_log")}
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=env, check=True)
    try:
        yield
    finally:
        subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, env=env, check=False)
