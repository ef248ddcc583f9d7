"""The embedded study's rows: sizes, counted instructions, the source's latency and how they rank; with a run, accuracies too.

python -m benchmarks.embedded_table                           # from benchmarks/results/embedded_on_board.json
python -m benchmarks.embedded_table runs/embedded-reduced     # a run of sweeps/embedded_architectures.yaml
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.embedded_rows import pi_3b_ms
from flaxcomp.models.registry import config_of
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

COUNTED = Path(__file__).parent / "results" / "embedded_on_board.json"
CHANCE = 0.1  # of CIFAR-10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    rows = json.loads(COUNTED.read_text())["rows"]
    if run is None:
        print_counted(rows)
        print_ranks(rows)
    else:
        print_trained(run, rows)


def print_counted(rows: list[Row]) -> None:
    print("| network | blocks | width | weights | MACs, M | float32 instructions, M | int8 instructions, M | Pi 3B ms |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        model, counts = row["model"], (row["macs"], row["float32"]["instructions"], row["int8"]["instructions"])
        cells = [model["name"], model["blocks"], model["width"], f"{row['trainable_params']:,}"]
        print(f"| {' | '.join(map(str, [*cells, *(f'{count / 1e6:.1f}' for count in counts), row['pi3b_ms']]))} |")


def print_ranks(rows: list[Row]) -> None:
    from benchmarks.zoo_on_board import correlations

    everything, without = correlations(rows), correlations([row for row in rows if row["model"]["name"] != "effnet"])
    print(f"\n| Spearman's rank correlation with the Pi 3B ms | {len(rows)} rows | without EffNet |")
    print("|---|---|---|")
    for figure in ("macs", "trainable_params", "instructions_float32", "instructions_int8"):
        print(f"| {figure} | {everything[figure]:.3f} | {without[figure]:.3f} |")


def print_trained(run: Path, rows: list[Row]) -> None:
    with Store.open(RunPaths.at(run)) as store:
        frame = store.frame()
    if not any(row["status"] == "finished" for row in frame.trials):
        raise SystemExit("no trial of this run has finished")
    first, last = _losses(frame.epochs)
    counted = {_key(row["model"]): row for row in rows}
    print("| architecture | options | weights | MACs | Pi 3B ms | int8 instructions | training loss | test accuracy, % |")
    print("|---|---|---|---|---|---|---|---|")
    finished = [row for row in frame.trials if row["status"] == "finished"]
    for row in finished:
        model = {name.removeprefix("model."): value for name, value in row.items() if name.startswith("model.")}
        model = with_defaults({name: value for name, value in model.items() if value is not None and value != ""})
        plain = not model.get("se")
        ms, board = (pi_3b_ms(model), counted.get(_key(model))) if plain else (None, None)
        options = " ".join(f"{name}={value}" for name, value in model.items() if name not in ("name", "layout", "activation"))
        print(
            f"| {model['name']} | {options} | {row['trainable_params']:,} | {row['macs']:,} | {'-' if ms is None else ms} |"
            f" {'-' if board is None else format(board['int8']['instructions'], ',')} |"
            f" {first[row['trial']]:.2f} to {last[row['trial']]:.2f} | {100 * row['test_accuracy']:.1f} |"
        )
    lowest = min(finished, key=lambda row: row["test_accuracy"])
    print(f"\n{len(finished)} of {len(frame.trials)} trials; chance is {100 * CHANCE:.0f} %, "
          f"the lowest accuracy {100 * lowest['test_accuracy']:.1f} % ({lowest['model.name']}).")  # fmt: skip


def with_defaults(model: dict[str, Any]) -> dict[str, Any]:
    """The model with the blocks and the width that it has by default, which a run does not repeat."""
    if model.get("layout") != "embedded":
        return model
    config: Any = config_of(model)
    return {"name": model["name"], "blocks": config.blocks, "width": config.width} | model


def _key(model: dict[str, Any]) -> tuple[Any, ...]:
    return (model["name"], model.get("blocks"), model.get("width"))


def _losses(epochs: list[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean training loss of the first and of the last epoch, by trial."""
    ordered = sorted(epochs, key=lambda row: row["epoch"])
    last = {row["trial"]: row["train_loss"] for row in ordered}
    return {row["trial"]: row["train_loss"] for row in reversed(ordered)}, last


if __name__ == "__main__":
    main()
