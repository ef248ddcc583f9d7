"""The table of the SimpLeNet study (Rusu 2018, table 2.3) from a run, beside the published figures, as Markdown.

python -m benchmarks.simplenet_table runs/simplenet_short
"""

import argparse
from collections import defaultdict
from pathlib import Path

from flaxcomp.report.statistics import summarise
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

# Accuracy in percent with its 95 % interval at the best temperature, and trained on hard targets only (tables 2.3 and 2.6).
PUBLISHED = {
    "simplenet_lm": ("99.281 ± 0.043", ""),
    "simplenet_v1": ("98.046 ± 0.063", "97.948"),
    "simplenet_v2": ("96.497 ± 0.584", "96.687"),
    "simplenet_v3": ("95.931 ± 0.486", "95.343"),
    "simplenet_v4": ("96.560 ± 0.304", "96.384"),
    "simplenet_v5": ("95.397 ± 0.761", "95.381"),
}
WEIGHTS = {
    "simplenet_lm": 3_274_634,
    "simplenet_v1": 3_484,
    "simplenet_v2": 5_968,
    "simplenet_v3": 3_982,
    "simplenet_v4": 6_007,
    "simplenet_v5": 4_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    with Store.open(RunPaths.at(parser.parse_args().run)) as store:
        frame = store.frame()
    groups: dict[tuple[str, float | None], list[Row]] = defaultdict(list)
    for row in frame.trials:
        if row["status"] == "finished":
            groups[row["model.name"], row.get("distill.temperature") if row.get("distill.loss") else None].append(row)
    lost = _lost_by_int8(frame.artifacts)
    print("| model | T | runs | accuracy, % | F, % | trainable weights | CompRate | int8 loses, points | published |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (name, temperature), rows in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        weights = {row["trainable_params"] for row in rows}
        assert weights == {WEIGHTS[name]}, f"{name} has {weights} weights, the study {WEIGHTS[name]}"
        accuracy, f1 = (summarise([100 * row[figure] for row in rows]) for figure in ("test_accuracy", "test_f1"))
        rate = 1 - WEIGHTS[name] / WEIGHTS["simplenet_lm"]
        drops = [100 * lost[row["trial"]] for row in rows if row["trial"] in lost]
        published = PUBLISHED[name][0] if temperature is not None or name == "simplenet_lm" else PUBLISHED[name][1]
        half = "" if accuracy.half_width is None else f" ± {accuracy.half_width:.3f}"
        cells = [
            name,
            "-" if temperature is None else f"{temperature:g}",
            str(len(rows)),
            f"{accuracy.mean:.3f}{half}",
            f"{f1.mean:.3f}",
            f"{WEIGHTS[name]:,}",
            f"{100 * rate:.2f} %" if rate else "-",
            f"{min(drops):+.2f} to {max(drops):+.2f}" if drops else "",
            published,
        ]
        print(f"| {' | '.join(cells)} |")


def _lost_by_int8(artifacts: list[Row]) -> dict[str, float]:
    """By trial: accuracy of the float32 file minus that of the int8 file, TFLite both."""
    accuracy = {(row["trial"], row["precision"]): row["accuracy"] for row in artifacts if row["format"] == "tflite"}
    return {trial: accuracy[trial, "float32"] - value for (trial, precision), value in accuracy.items()
            if precision == "int8" and value is not None and accuracy.get((trial, "float32")) is not None}  # fmt: skip


if __name__ == "__main__":
    main()
