"""The peer on a GPU: one Flax trial after the other in one process, the data on the device, one step a dispatch.

Several of these at a time, each in a process of its own under CUDA's MPS, are the peer `processes under MPS`.
"""

import time
from pathlib import Path

from flax_training import Data, train
from peer_job import Job, given_folder, read_arrays, read_job, write_result

_POLL_S = 0.001


def wait_at(job: Job, folder: Path) -> None:
    """Say that the program is compiled, then wait for the others."""
    if job.gate is not None:
        (folder / "ready").touch()
        while not Path(job.gate).exists():
            time.sleep(_POLL_S)


def main() -> None:
    folder = given_folder()
    job = read_job(folder)
    data = Data(job, read_arrays(folder), resident=True)
    trials = [train(job, point, data, compiled=lambda: wait_at(job, folder)) for point in job.points]
    seconds = sum(trial.pop("train_seconds") for trial in trials)
    write_result(folder, job, trials, train_seconds=seconds)


if __name__ == "__main__":
    main()
