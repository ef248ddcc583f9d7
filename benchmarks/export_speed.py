"""Seconds to export 20 small networks at four precisions, each file checked on MNIST's 10,000 test images.

The networks are SimpLeNet v1 to v5, four seeds each, trained briefly before the clock starts. What is timed is
`flaxcomp export`, process start and TensorFlow's import included: 80 TFLite files; `--onnx` adds the ONNX files that it writes
unless told not to. The wanted time is 3 minutes; a run that takes longer is reported like any other.

    make bench-export
    python -m benchmarks.export_speed --trials 5 --pairs 1       # does it all run?
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import UnequalError, make_parser
from benchmarks.record import Record
from benchmarks.sides import call, environment, reported, run_command
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

MODELS = tuple(f"simplenet_v{version}" for version in range(1, 6))
PRECISIONS = ("float32", "float16", "dynamic", "int8")
WANTED_S = 180.0
TEST_IMAGES = 10_000


def make_sweep(trials: int, epochs: int) -> str:
    """`trials` networks, all five versions with so many seeds each; a few thousand images are enough for a file to check."""
    parameters = {"model.name": {"values": list(MODELS[:trials])}, "seed": {"range": [0, max(1, trials // len(MODELS))]}}
    dataset = {"name": "mnist", "train_limit": 5000}
    base = {"dataset": dataset, "model": {"name": MODELS[0]}, "train": {"epochs": epochs, "optimizer": {"learning_rate": 4e-3}}}
    return json.dumps({"version": 1, "name": "export", "base": base, "parameters": parameters})


def check(artifacts: Sequence[Row], networks: int, formats: Sequence[str]) -> None:
    """Raise UnequalError unless every network has a file of every precision and format that answers as the network does."""
    wanted = networks * len(PRECISIONS) * len(formats)
    made = [row for row in artifacts if row["artifact"] is not None]
    if len(made) != wanted:
        raise UnequalError(f"{len(made)} of {wanted} files were made")
    if flagged := [row for row in made if row["flagged"]]:
        raise UnequalError(f"{len(flagged)} of {wanted} files are flagged, one for: {flagged[0]['reason']}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, pairs=5, trials=20, epochs=1)
    parser.add_argument("--onnx", action="store_true", help="ONNX files too")
    return parser.parse_args(arguments)


def export(trained: Path, onnx: bool) -> tuple[float, list[Row]]:
    """Export a copy of a run in a cold folder; seconds, and the rows of its files."""
    folder = Path(tempfile.mkdtemp(prefix="flaxcomp-bench-"))
    try:
        shutil.copytree(trained, folder / "run")
        precisions = [part for precision in PRECISIONS for part in ("--precision", precision)]
        command = run_command("export", "run", "--select", "all", "--quiet", *precisions, *([] if onnx else ["--no-onnx"]))
        began = time.perf_counter()
        call(command, folder, environment(folder))
        seconds = time.perf_counter() - began
        with Store.open(RunPaths.at(folder / "run")) as store:
            return seconds, store.frame(epochs=False).artifacts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    arguments = parse()
    folder = Path(tempfile.mkdtemp(prefix="flaxcomp-bench-"))
    try:
        with reported():
            measure(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Train the networks in `folder`, and export them as often as `--pairs` says."""
    formats = ["tflite", "onnx"] if arguments.onnx else ["tflite"]
    print("Training the networks, which does not count.", flush=True)
    (folder / "sweep.yaml").write_text(make_sweep(arguments.trials, arguments.epochs))
    command = run_command("run", "sweep.yaml", "--out", "run", "--train-only", "--executor", "inline")
    call(command, folder, environment(folder))
    with Store.open(RunPaths.at(folder / "run")) as store:
        networks = store.counts()["finished"]
    settings = {"networks": networks, "precisions": PRECISIONS, "formats": formats, "test_images": TEST_IMAGES,
                "wanted_s": WANTED_S}  # fmt: skip
    record = Record("export_speed", settings, arguments.results)
    times: list[float] = []
    for number in range(arguments.pairs):
        seconds, rows = export(folder / "run", arguments.onnx)
        check(rows, networks, formats)
        times.append(seconds)
        print(f"run {number + 1} of {arguments.pairs}: {len(rows)} files in {seconds:.1f} s", flush=True)
        record.tell("seconds", figures(times))
    found = f"{statistics.median(times):.1f} s (from {min(times):.1f} to {max(times):.1f} over {len(times)})"
    print(f"{len(rows)} files of {networks} networks, each checked on {TEST_IMAGES:,} images: {found}; wanted for 20 networks: "
          f"{WANTED_S:.0f} s")  # fmt: skip
    print(f"Written: {record.file}")


def figures(times: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(times), "lowest": min(times), "highest": max(times), "runs": list(times)}


if __name__ == "__main__":
    main()
