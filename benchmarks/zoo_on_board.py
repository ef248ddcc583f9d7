"""Every architecture, with random weights, as float32 and int8 TFLite files on the emulated ARM core, instructions counted.

    make bench-zoo                               # or: python -m benchmarks.zoo_on_board: the reduced form of each
    python -m benchmarks.zoo_on_board --full     # the rows of the embedded study, ranked beside its Raspberry Pi 3B

Writes a JSON file and a Markdown table into benchmarks/results/. The emulator's times are its own, and the machine's other work
disturbs them; instructions are counted exactly, but one instruction is not one cycle. Needs qemu-user (the static one takes
no plugins) and a C compiler.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.embedded_rows import ROWS
from flaxcomp.devices.measure import Failure, Observer, Subject, measure
from flaxcomp.devices.pool import Pool
from flaxcomp.devices.protocol import Protocol, preset
from flaxcomp.devices.transports import emulated
from flaxcomp.export.convert import Precision, to_tflite
from flaxcomp.export.operators import not_int8
from flaxcomp.models import registry
from flaxcomp.models.counting import count

RESULTS = Path(__file__).parent / "results"
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
CALIBRATION_IMAGES = 20
CLASSES = 10
Row = dict[str, Any]


def reduced_forms() -> list[tuple[dict[str, Any], None]]:
    """Every architecture's reduced form for 32x32 images, or its smallest ones."""
    models = []
    for name in registry.names():
        published = getattr(registry.config_of({"name": name}), "input_shape")  # noqa: B009  of every Classifier
        shape = published if published[0] <= 32 else (32, 32, 3)
        models.append(({"input_shape": shape, **registry.small(name), "num_classes": CLASSES}, None))
    return models


def random_network(model: dict[str, Any], shape: tuple[int, ...]) -> tuple[Any, Any]:
    """A network in eval mode, split: kernels with He's normal weights, batch norm as it begins.

    The architecture's own initial weights would be no other work, but compile a program for each layer's shape.
    """
    network = nnx.eval_shape(lambda: registry.build(model, (shape[0], shape[1], shape[2]), CLASSES, nnx.Rngs(0)))
    network.eval()
    graph, state = nnx.split(network)
    rng, begin = np.random.default_rng(0), {"bias": 0.0, "mean": 0.0, "scale": 1.0, "var": 1.0, "mask": 1.0}

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        name = str(path[-2].key)
        if name == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, begin[name], np.float32)

    return graph, jax.tree_util.tree_map_with_path(draw, state)


def export(model: dict[str, Any], folder: Path, number: int) -> tuple[Row, list[Subject]]:
    """Write a model's files; return what is known of it before it runs, and the files with `number` as their trial."""
    shape = tuple(model["input_shape"])
    graph, state = random_network(model, shape)
    images = np.random.default_rng(0).standard_normal((CALIBRATION_IMAGES, *shape), np.float32)
    counts = count(model, shape, CLASSES)
    row: Row = {"model": model, "trainable_params": counts.trainable_params, "macs": counts.macs}
    subjects = []
    for precision in PRECISIONS:

        def forward(x: jax.Array) -> jax.Array:
            logits: jax.Array = nnx.merge(graph, state)(x)  # type: ignore[operator]
            return logits

        data = to_tflite(forward, shape, precision, images)
        path = folder / f"{number}_{precision}.tflite"
        path.write_bytes(data)
        subjects.append(Subject(hashlib.sha256(data).hexdigest(), path, precision, str(number)))
        if precision == "int8":
            row["not_int8"] = not_int8(data)
    return row, subjects


def measured(models: Sequence[tuple[dict[str, Any], float | None]], device: emulated.Options, protocol: Protocol) -> list[Row]:
    """Export and measure the models; a row each, with the figures of both files.

    Raises:
        RuntimeError: a file could not be measured, or its instructions not be counted; names all of them.
    """
    rows: list[Row] = []
    subjects: list[Subject] = []
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="flaxcomp-zoo-") as folder:
        for number, (model, published_ms) in enumerate(models):
            row, files = export(model, Path(folder), number)
            rows.append(row | ({} if published_ms is None else {"pi3b_ms": published_ms}))
            subjects += files
            say(f"exported {label(model)}")
        observer = Observer(
            on_failure=failures.append, on_note=say, on_progress=lambda _, done, total: say(f"measured {done} of {total}")
        )
        for figure in measure(Pool((device,)), subjects, protocol, observer=observer):
            wanted = ("size_bytes", "instructions", "instructions_counted", "latency_ms", "max_output_error", "output_flagged")
            row = rows[int(figure["trial"])]
            row[figure["precision"]] = {name: figure[name] for name in wanted}
            row["device"] = {name: figure[name] for name in ("device_model", "runtime", "protocol", "threads")}
    lacking = [label(r["model"]) for r in rows if not all(r.get(p, {}).get("instructions") for p in PRECISIONS)]
    if failures or lacking:
        raise RuntimeError(f"no instructions of {', '.join(lacking) or 'none'}; failures: {failures}")
    return rows


def ranks(values: Iterable[float]) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, number = np.unique(np.asarray(list(values), np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(number)
    return np.asarray((ends - (number - 1) / 2)[place])


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def correlations(rows: Sequence[Row]) -> dict[str, float]:
    """Rank correlation of the published latencies with each of our figures."""
    published = [row["pi3b_ms"] for row in rows]
    figures = {name: [row[name] for row in rows] for name in ("macs", "trainable_params")}
    figures |= {f"instructions_{p}": [row[p]["instructions"] for row in rows] for p in PRECISIONS}
    figures |= {f"emulated_ms_{p}": [row[p]["latency_ms"] for row in rows] for p in PRECISIONS}
    return {name: spearman(published, values) for name, values in figures.items()}


def label(model: dict[str, Any]) -> str:
    hidden = ("name", "layout", "input_shape", "num_classes", "dropout")
    return " ".join([model["name"], *(f"{key}={value}" for key, value in model.items() if key not in hidden)])


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    published = any("pi3b_ms" in row for row in rows)
    head = ["network", "weights", "MACs", "int8 KiB", *(f"{p} instructions" for p in PRECISIONS)]
    head += [*(f"{p} ms, emulated" for p in PRECISIONS), "not int8", *(["Pi 3B ms"] if published else [])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [
            label(row["model"]),
            f"{row['trainable_params']:,}",
            f"{row['macs']:,}",
            f"{row['int8']['size_bytes'] / 1024:.0f}",
        ]
        cells += [f"{row[p]['instructions']:,}" for p in PRECISIONS]
        cells += [f"{row[p]['latency_ms']:.3g}" for p in PRECISIONS]
        cells += [", ".join(row["not_int8"]) or "none", *([f"{row['pi3b_ms']:g}"] if published else [])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the rows of the embedded study in place of the reduced forms")
    parser.add_argument("--cpu", default="cortex-a53")
    parser.add_argument("--protocol", default="quick")
    arguments = parser.parse_args()
    models = ROWS if arguments.full else reduced_forms()
    device = emulated.Options(name="board", cpu=arguments.cpu, count_instructions=True)
    began = time.perf_counter()
    rows = measured(models, device, preset(arguments.protocol))
    name = "embedded_on_board" if arguments.full else "zoo_on_board"
    text = table(rows)
    options = f"{' --full' if arguments.full else ''} --cpu {arguments.cpu} --protocol {arguments.protocol}"
    record = {
        "benchmark": name,
        "command": f"python -m benchmarks.zoo_on_board{options}",
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - began),
        "host": platform.machine(),
        "load_average": os.getloadavg()[2],  # of the last 15 minutes: beside other work the emulator's times say little
        "device": rows[0]["device"],
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "flax", "numpy", "tensorflow-cpu")},
    }
    if arguments.full:
        record["spearman_with_pi3b_ms"] = found = correlations(rows)
        lines = "".join(f"| {figure} | {value:.3f} |\n" for figure, value in found.items())
        text += f"\n| figure of {len(rows)} rows | Spearman's rank correlation with the Pi 3B's ms |\n|---|---|\n{lines}"
    record["rows"] = [{key: value for key, value in row.items() if key != "device"} for row in rows]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
