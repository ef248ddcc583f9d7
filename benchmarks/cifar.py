"""Trials an hour of MobileNet v1 (width 0.25) and ResNet-20 on CIFAR-10, beside Ray Tune + Flax and Ray Tune + PyTorch.

For each network 32 trials, learning rate x seed, 4 x 8, of SGD with Nesterov's momentum, on the first images of CIFAR-10 and
for few epochs. Everything is included on both sides: process start, imports, data, compiling, training, validation after every
epoch, the test. No side finds a program compiled before. Batch norm keeps 0.9 of its statistics at a step on all sides, for
the trainings are short.

    make bench-cifar
    python -m benchmarks.cifar --models resnet20 --peers ray_tune_flax --images 20000
    python -m benchmarks.cifar --trials 2 --pairs 1 --images 600 --accuracy-within 0.3       # does it all run?
"""

import argparse
from collections.abc import Sequence

from benchmarks.harness import Noise, make_parser, measure, positive
from benchmarks.record import Record
from benchmarks.sides import ours, peer, reported, same, versions_of
from benchmarks.tasks import Task, grid

MODELS = ("mobilenet_v1", "resnet20")
PEERS = ("ray_tune_flax", "ray_tune_torch")
RATES = (0.02, 0.05, 0.1, 0.2)
SGD = {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}


def make_task(model: str, trials: int, epochs: int, images: int) -> Task:
    """As many learning rates as there are trials, four at most, then seeds.

    Args:
        images: of the training set, validation's too.
    """
    rates = RATES[: min(len(RATES), trials)]
    points = grid(learning_rate=rates, seed=range(trials // len(rates)))
    dataset = {"name": "cifar10", "train_limit": images, "normalize": "channel"}
    train = {"epochs": epochs, "batch_size": 128, "optimizer": SGD, "batch_norm_momentum": 0.9}
    return Task(model, dataset, train, points)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, pairs=5, trials=32, epochs=1, peers=PEERS)
    parser.add_argument("--images", type=positive, default=10_000, help="train on the first so many [10000]")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help=f"[{' '.join(MODELS)}]")
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray", help="of our side [ray]")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse()
    with reported():
        peer_versions = versions_of(arguments.peers)
        tasks = [make_task(model, arguments.trials, arguments.epochs, arguments.images) for model in arguments.models]
        settings = {"trials": len(tasks[0].points), "epochs": arguments.epochs, "images": arguments.images, "batch_size": 128,
                    "steps": tasks[0].steps, "models": arguments.models, "peer_versions": peer_versions}  # fmt: skip
        record = Record("cifar", settings, arguments.results)
        for task in tasks:
            for program in arguments.peers:
                check = same(task, Noise(cap=arguments.accuracy_within))
                us = ours(task, executor=arguments.executor)
                measure(record, f"{task.model} {program}", arguments.pairs, us, peer(task, program), check)
    print(f"Written: {record.file}")


if __name__ == "__main__":
    main()
