"""Trials an hour: 32 one-epoch trainings of SimpLeNet-v1 on full MNIST, beside Ray Tune with one Flax trial a process.

Everything is included on both sides: process start, imports, data, compiling, training, the test. Compiled programs of
earlier runs are not used. The two sides take turns, so that a slow minute of the machine hits both.

    make bench                                   # or: python -m benchmarks.throughput --trials 32 --pairs 1
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SWEEP = """\
version: 1
name: throughput
base:
  dataset: {name: mnist}
  model: {name: simplenet_v1}
  train: {epochs: 1, batch_size: 128, optimizer: {name: adam}}
parameters:
  train.optimizer.learning_rate: {values: [1e-3, 2e-3]}
  seed: {range: [0, %d]}
"""


def ours(trials: int, folder: Path) -> dict[str, Any]:
    """Run the sweep as a user does."""
    (folder / "sweep.yaml").write_text(SWEEP % (trials // 2))
    environment = {**os.environ, "FLAXCOMP_CACHE": str(folder / "cache")}  # cold: nothing compiled before
    command = [sys.executable, "-m", "flaxcomp.cli.main", "run", "sweep.yaml", "--out", "run", "--train-only"]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    output = subprocess.run([sys.executable, "-m", "flaxcomp.cli.main", "results", "run", "--format", "json"], cwd=folder,
                            check=True, capture_output=True, text=True).stdout  # fmt: skip
    return {"seconds": seconds, "accuracy": [row["test_accuracy"] for row in json.loads(output)]}


def ray_tune(trials: int, folder: Path) -> dict[str, Any]:
    """Run the peer, written as Ray Tune's and Flax's own guides do."""
    began = time.perf_counter()
    peer = [sys.executable, str(HERE / "peers" / "ray_tune_flax.py"), str(trials), "1"]
    output = subprocess.run(peer, cwd=folder, check=True, capture_output=True, text=True).stdout
    return {"seconds": time.perf_counter() - began, "accuracy": json.loads(output.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=1)
    arguments = parser.parse_args()
    pairs = []
    for pair in range(arguments.pairs):
        sides: dict[str, Any] = {}
        for side in (ours, ray_tune) if pair % 2 == 0 else (ray_tune, ours):
            folder = Path(tempfile.mkdtemp(prefix="flaxcomp-bench-"))
            try:
                sides[side.__name__] = side(arguments.trials, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        for side_name, result in sides.items():
            assert len(result["accuracy"]) == arguments.trials, f"{side_name} finished {len(result['accuracy'])} trials"
        means = {name: statistics.mean(result["accuracy"]) for name, result in sides.items()}
        assert abs(means["ours"] - means["ray_tune"]) < 0.01, f"the sides do not reach the same accuracy: {means}"
        ratio = sides["ray_tune"]["seconds"] / sides["ours"]["seconds"]
        hourly = {name: arguments.trials / result["seconds"] * 3600 for name, result in sides.items()}
        print(f"pair {pair + 1}: flaxcomp {hourly['ours']:.0f}, Ray Tune + Flax {hourly['ray_tune']:.0f} trials an hour: "
              f"{ratio:.2f} times; mean test accuracy {means['ours']:.4f} and {means['ray_tune']:.4f}")  # fmt: skip
        pairs.append(
            {
                "ratio": ratio,
                "trials_per_hour": hourly,
                "seconds": {n: r["seconds"] for n, r in sides.items()},
                "mean_test_accuracy": means,
            }
        )
    ratios = [pair["ratio"] for pair in pairs]
    print(f"ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs)")
    packages = ("jax", "flax", "ray", "numpy")
    command = f"python -m benchmarks.throughput --trials {arguments.trials} --pairs {arguments.pairs}"
    record = {"benchmark": "throughput", "command": command,
              "date": datetime.date.today().isoformat(), "machine": platform.machine(), "cores": os.cpu_count(), "cpu": _cpu(),
              "versions": {p: importlib.metadata.version(p) for p in packages}, "trials": arguments.trials, "pairs": pairs,
              "ratio_median": statistics.median(ratios)}  # fmt: skip
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "throughput.json").write_text(json.dumps(record, indent=1) + "\n")


def _cpu() -> str:
    return next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )


if __name__ == "__main__":
    main()
