"""Float32, calibrated int8 and int8 of quantization-aware training: accuracy on the whole test set by the TFLite interpreter.

python -m benchmarks.quantization_table runs/quantization-short     # a run of sweeps/quantization_short.yaml
"""

import argparse
import statistics
from pathlib import Path

from flaxcomp.store.frame import Row, RunFrame
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

Key = tuple[str, ...]  # the network, in words
USUAL = ("tensorflow", 200)  # of several ways to calibrate, the one that is compared with training; the others have a table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    with Store.open(RunPaths.at(parser.parse_args().run)) as store:
        frame = store.frame(epochs=False)
    print_accuracies(frame)
    print_calibrations(frame)


def print_accuracies(frame: RunFrame) -> None:
    """A row a network: means over seeds, and what is lost against its own float32 file, in points."""
    files = by_network(frame)
    print("| network | seeds | float32, % | int8 by calibration, % | lost | int8 by training, % | lost | int8 KiB |")
    print("|---|---|---|---|---|---|---|---|")
    for network, kinds in sorted(files.items()):
        plain, calibrated, trained = (kinds.get(kind, []) for kind in ("float32", "calibrated", "trained"))
        if not plain:
            continue
        calibrated = [row for row in calibrated if (row["quantizer"], row["calibration_images"]) == USUAL] or calibrated
        float32 = _mean(plain)
        size = statistics.mean(row["size_bytes"] for row in [*calibrated, *trained]) / 1024 if calibrated or trained else 0.0
        cells = [
            " ".join(network),
            str(len(plain)),
            f"{100 * float32:.2f}",
            *_lost(calibrated, float32),
            *_lost(trained, float32),
        ]
        print(f"| {' | '.join(cells)} | {size:.1f} |")


def print_calibrations(frame: RunFrame) -> None:
    """A row for each way to calibrate, where there are several: what is lost against the network in Flax, in points."""
    lost: dict[tuple[str, str, int], list[float]] = {}
    for row in frame.artifacts:
        if row["artifact"] and row["precision"] in ("int8", "int16") and row.get("calibration_images"):
            way = (row["precision"], row["quantizer"], row["calibration_images"])
            lost.setdefault(way, []).append(100 * row["accuracy_drop"])
    if len(lost) < 2:
        return
    print("\n| precision | quantizer | images | files | lost on average | at worst |")
    print("|---|---|---|---|---|---|")
    for (precision, quantizer, images), drops in sorted(lost.items()):
        print(f"| {precision} | {quantizer} | {images} | {len(drops)} | {statistics.mean(drops):+.2f} | {max(drops):+.2f} |")


def by_network(frame: RunFrame) -> dict[Key, dict[str, list[Row]]]:
    """The TFLite files of each network: float32 and calibrated int8 of the trials without rounding, int8 of those with it."""
    trials = {row["trial"]: row for row in frame.trials if row["role"] == "trial"}
    found: dict[Key, dict[str, list[Row]]] = {}
    for row in frame.artifacts:
        if row["trial"] not in trials or row["format"] != "tflite" or not row["artifact"]:
            continue
        rounded = any(name.startswith("quantize.") and value is not None for name, value in trials[row["trial"]].items())
        kind = {("float32", False): "float32", ("int8", False): "calibrated", ("int8", True): "trained"}.get(
            (row["precision"], rounded)
        )
        if kind is not None:
            found.setdefault(_network(trials[row["trial"]]), {}).setdefault(kind, []).append(row)
    return found


def _network(trial: Row) -> Key:
    options = {name.removeprefix("model."): value for name, value in trial.items() if name.startswith("model.")}
    parts = [
        f"{name}={value}"
        for name, value in sorted(options.items())
        if name not in ("name", "layout") and value not in (None, "")
    ]
    ratio = trial.get("prune.ratio")
    return (str(options["name"]), *parts, *([f"pruned {ratio:g}"] if ratio else []))


def _mean(rows: list[Row]) -> float:
    return statistics.mean(row["accuracy"] for row in rows)


def _lost(rows: list[Row], float32: float) -> tuple[str, str]:
    if not rows:
        return "–", "–"
    return f"{100 * _mean(rows):.2f}", f"{100 * (float32 - _mean(rows)):+.2f}"


if __name__ == "__main__":
    main()
