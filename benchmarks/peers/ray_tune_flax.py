"""The peer: Ray Tune with one Flax trial a process, one a core, one step a dispatch, as both projects' guides have it."""

from pathlib import Path
from typing import Any

import ray
from peer_job import given_folder, read_arrays, read_job, write_result
from ray import tune


def trainable(config: dict[str, Any]) -> None:
    from flax_training import Data, train

    folder = Path(config["folder"])
    job = read_job(folder)
    done = train(job, config["point"], Data(job, read_arrays(folder)), tune.report)
    tune.report(done)


def main() -> None:
    folder = given_folder()
    job = read_job(folder)
    ray.init(num_cpus=job.processes, include_dashboard=False, log_to_driver=False, logging_level="error")
    space = {"point": tune.grid_search(job.points), "folder": str(folder)}
    run_config = tune.RunConfig(verbose=0, storage_path=str(folder / "ray_results"))
    results = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), param_space=space, run_config=run_config).fit()
    names = ("params", "steps", "test_accuracy")
    write_result(folder, job, [{"point": r.config["point"], **{name: r.metrics[name] for name in names}} for r in results])


if __name__ == "__main__":
    main()
