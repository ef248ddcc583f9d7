"""Images a second of the training step of several networks as `flaxcomp run` trains them, one trial on all cores. Batch 64,
float32, made-up images; compiling, data and evaluation are left out.

python -m benchmarks.steps [--networks resnet_20,mobilenet_v2]

Each is measured in a process of its own, whose XLA_FLAGS hold nothing.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.record import RESULTS, Record

BATCH, WINDOWS, WINDOW_SECONDS = 64, 5, 1.0
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "simplenet_v1": ({"name": "simplenet_v1"}, (28, 28, 1)),
    "simplenet_lm": ({"name": "simplenet_lm"}, (28, 28, 1)),
    "keras_cifar": ({"name": "keras_cifar"}, (32, 32, 3)),
    "tf_cifar": ({"name": "tf_cifar"}, (28, 28, 3)),
    "resnet_20": ({"name": "resnet", "layout": "cifar", "depth": 20}, (32, 32, 3)),
    "wide_resnet": ({"name": "wide_resnet", "layout": "embedded", "blocks": 9, "width": 16}, (32, 32, 3)),
    "mobilenet_v1_025": ({"name": "mobilenet_v1", "layout": "cifar", "width_multiplier": 0.25}, (32, 32, 3)),
    "mobilenet_v2": ({"name": "mobilenet_v2", "layout": "embedded", "blocks": 9, "width": 16, "expansion": 4}, (32, 32, 3)),
    "shufflenet_v2": ({"name": "shufflenet_v2", "layout": "embedded", "blocks": 12, "width": 64}, (32, 32, 3)),
    "googlenet_025": ({"name": "googlenet", "layout": "cifar", "width_multiplier": 0.25}, (32, 32, 3)),
}


def images_per_second(network: str) -> float:
    """The median of some windows of about a second; compiling and a first window are left out."""
    import jax

    from flaxcomp.sweep.spec import Dataset, Train, TrialConfig
    from flaxcomp.train.program import Program
    from flaxcomp.train.resident import Resident
    from flaxcomp.train.runtime import configure

    configure()
    model, shape = NETWORKS[network]
    config = TrialConfig(dataset=Dataset(name="made_up"), model=model, train=Train(epochs=1, batch_size=BATCH))
    program = Program(config, Resident.of(made_up(shape)), execution="map")
    hyper = program.hyper([config], [0])
    state, order, done = program.init(hyper), program.order(hyper, 0), 0
    rates, steps = [], 1
    while len(rates) < WINDOWS + 2:
        last = min(done + steps, program.steps)
        began = time.perf_counter()
        state = jax.block_until_ready(program.train(state, hyper, order, None, 0, done, last))
        seconds = time.perf_counter() - began
        rates.append(BATCH * (last - done) / seconds)
        if len(rates) > 1:  # the first compiles
            steps = max(1, round(WINDOW_SECONDS / seconds * (last - done)))
        done = last if last + steps <= program.steps else 0
    return statistics.median(rates[2:])


def made_up(shape: tuple[int, int, int], n: int = 64 * BATCH * 10) -> Any:
    from flaxcomp.data.arrays import Arrays
    from flaxcomp.data.catalog import DatasetInfo

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n, np.int32)
    statistics_ = ((0.5,) * shape[-1], (0.25,) * shape[-1])
    info = DatasetInfo("made_up", 10, shape, tuple("0123456789"), n, BATCH, *statistics_, "", "none")
    return Arrays(images, labels, images[:BATCH], labels[:BATCH], info)


@click.command(help=__doc__)
@click.option("--networks", default=",".join(NETWORKS), help="Which of them, comma-separated.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the JSON file.")
@click.option("--one", hidden=True)
def main(networks: str, results: Path, one: str | None) -> None:
    if one:
        print(json.dumps(images_per_second(one)))
        return
    names = networks.split(",")
    if unknown := set(names) - set(NETWORKS):
        raise click.UsageError(f"no network {sorted(unknown)[0]!r}; there are {', '.join(NETWORKS)}")
    record = Record("steps", {"batch": BATCH, "windows": WINDOWS, "window_seconds": WINDOW_SECONDS}, results)
    print("| network | images/s |\n|---|---|")
    for name in names:
        command = [sys.executable, "-m", "benchmarks.steps", "--one", name]
        done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, check=True, stdout=subprocess.PIPE, text=True)
        rate = float(json.loads(done.stdout.splitlines()[-1]))
        record.tell(name, {"images_per_second": rate})
        print(f"| {name} | {rate:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
