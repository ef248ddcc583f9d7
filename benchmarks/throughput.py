"""Trials an hour: students of SimpLeNet-v1 on full MNIST, beside Ray Tune + Flax, Ray Tune + PyTorch, Optuna and Keras.

The grid is learning rate x temperature x seed, 4 x 4 x 4 trials. All students learn from one LM (`soft_mse`), which is trained
once, before the clock starts; its logits of all training images are given to every side: to us as the run folder in which LM
has finished, to the peers as an array. Everything else is included on both sides: process start, imports, data, compiling,
training, validation after every epoch, the test. No side finds a program compiled before.

    make bench                                              # every peer, five pairs each
    python -m benchmarks.throughput --epochs 5 --peers ray_tune_flax,ray_tune_torch
    python -m benchmarks.throughput --trials 4 --pairs 1 --images 2000 --accuracy-within 0.2       # does it all run?
"""

import argparse
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Noise, make_parser, measure, positive
from benchmarks.record import Record
from benchmarks.sides import ours, peer, reported, same, train_teacher, versions_of
from benchmarks.tasks import Task, grid

PEERS = ("ray_tune_flax", "ray_tune_torch", "optuna_torch", "keras_fit")
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
TEMPERATURES = (1.0, 3.0, 6.0, 10.0)
TEACHER = {"model": {"name": "simplenet_lm"}, "train": {"epochs": 1, "optimizer": {"learning_rate": 1e-3}}}


def make_task(trials: int, epochs: int, images: int | None) -> Task:
    """The grid nearest to `trials` from below: learning rate and temperature first grow, then seeds.

    Args:
        images: training images, validation's too; None: all.
    """
    side = min(len(RATES), max(1, math.isqrt(trials)))
    rates, temperatures = RATES[:side], TEMPERATURES[:side]
    points = grid(learning_rate=rates, temperature=temperatures, seed=range(trials // side**2))
    dataset = {"name": "mnist"} | ({"train_limit": images} if images else {})
    train = {"epochs": epochs, "batch_size": 128, "optimizer": {"name": "adam"}}
    return Task("simplenet_v1", dataset, train, points, TEACHER)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, pairs=5, trials=64, epochs=1, peers=PEERS)
    parser.add_argument("--images", type=positive, help="train on the first so many only [all]")
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray", help="of our side [ray]")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse()
    folder = Path(tempfile.mkdtemp(prefix="flaxcomp-bench-"))
    try:
        with reported():
            measure_all(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_all(arguments: argparse.Namespace, folder: Path) -> None:
    """Pairs with each peer; the teacher is trained in `folder`."""
    peer_versions = versions_of(arguments.peers)
    task = make_task(arguments.trials, arguments.epochs, arguments.images)
    settings = {"trials": len(task.points), "epochs": arguments.epochs, "images": len(task.arrays["train_labels"]),
                "batch_size": 128, "steps": task.steps, "teacher": TEACHER, "peer_versions": peer_versions}  # fmt: skip
    record = Record(f"throughput_{arguments.epochs}_epoch{'s' if arguments.epochs > 1 else ''}", settings, arguments.results)
    print("Training the teacher, which does not count.", flush=True)
    teacher_run, logits = train_teacher(task, folder)
    check = same(task, Noise(cap=arguments.accuracy_within))
    for program in arguments.peers:
        us = ours(task, executor=arguments.executor, teacher_run=teacher_run)
        measure(record, program, arguments.pairs, us, peer(task, program, logits=logits), check)
    print(f"Written: {record.file}")


if __name__ == "__main__":
    main()
