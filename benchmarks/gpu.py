"""On a GPU: packs of trials beside serial JAX and processes under MPS, single trainings beside compiled PyTorch, whole sweeps.

Ray is not needed: packs train in one process (`--executor inline`). PyTorch is needed by `single` alone, and MPS by a part of
`packs`; what is lacking is said and left out. MNIST and CIFAR-10 must be prepared (`flaxcomp data prepare`, or FLAXCOMP_DATA).

    make bench-gpu                                                     # all of it, an hour or more
    python -m benchmarks.gpu --parts packs --models simplenet_v1 --sizes 1 32 256 --pairs 5
    python -m benchmarks.gpu --dry-run                                 # say what would be run and printed
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_parts import WANTED_SERIAL, Packs, Part, Single, TimeTo94, WholeSweep
from benchmarks.harness import Noise, UnequalError, make_parser, positive
from benchmarks.record import Record
from benchmarks.sides import LackingError, environment, python_of
from flaxcomp.errors import UserError

PARTS = ("packs", "single", "time_to_94", "sweep")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PROCESSES = (2, 4, 8, 16)
SINGLES = ("wrn_40_2", "resnet18")
_ASK = "import jax; d = jax.devices()[0]; print(jax.default_backend(), d.device_kind, sep='|')"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, pairs=5, trials=4, epochs=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help=f"[{' '.join(PARTS)}]")
    models = list(WANTED_SERIAL)
    parser.add_argument("--models", nargs="+", choices=models, default=models, help=f"of packs [{' '.join(models)}]")
    parser.add_argument(
        "--sizes", nargs="+", type=positive, default=list(SIZES), help=f"of packs [{' '.join(map(str, SIZES))}]"
    )
    parser.add_argument("--processes", nargs="*", type=positive, default=list(PROCESSES),
                        help=f"under MPS [{' '.join(map(str, PROCESSES))}]")  # fmt: skip
    parser.add_argument("--images", type=positive, help="train on the first so many only [all]")
    parser.add_argument("--epochs-to-94", type=positive, default=20, help="of the training that is to reach 94 %% [20]")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run and printed, and run nothing")
    return parser.parse_args(arguments)


def make_parts(arguments: argparse.Namespace) -> list[Part]:
    """What the command line asks for."""
    a, noise = arguments, Noise(cap=arguments.accuracy_within)
    parts: list[Part] = []
    if "packs" in a.parts:
        parts += [Packs(model, a.pairs, a.trials, a.epochs, a.images, a.sizes, a.processes, noise) for model in a.models]
    if "single" in a.parts:
        parts += [Single(model, a.pairs, a.epochs, a.images, noise) for model in SINGLES]
    if "time_to_94" in a.parts:
        parts.append(TimeTo94(a.pairs, a.epochs_to_94))
    if "sweep" in a.parts:
        parts.append(WholeSweep())
    return parts


def gpu() -> str | None:
    """What JAX calls the first GPU, asked in a process of its own, which leaves its memory alone; None: it sees none."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK], capture_output=True, text=True, check=False, env=environment(Path.cwd())
    )
    backend, _, kind = done.stdout.strip().partition("|")
    return kind if backend == "gpu" else None


def main() -> None:
    arguments = parse()
    parts = make_parts(arguments)
    if arguments.dry_run:
        for part in parts:
            print("\n".join(part.plan()))
        return
    try:
        python_of("serial_flax")
    except LackingError as error:
        sys.exit(str(error))
    device = gpu()
    if device is None:
        sys.exit("JAX sees no GPU here: nothing was run. `pip install -e '.[gpu]'` on a machine that has one, or see with "
                 "--dry-run what would be run and printed.")  # fmt: skip
    settings = {name: value for name, value in vars(arguments).items() if name not in ("results", "dry_run")}
    record = Record("gpu", {**settings, "gpu": device}, arguments.results)
    failed = False
    for part in parts:
        try:
            part.run(record)
        except LackingError as error:
            print(f"left out: {error}", flush=True)
        except (UnequalError, UserError, RuntimeError) as error:
            failed = True
            print(f"No figure: {error}", flush=True)
    print(f"Written: {record.file}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
