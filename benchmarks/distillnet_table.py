"""Distill-Net's table 3 and its phone's speed-ups beside a run of sweeps/distillnet.yaml or its short form.

python -m benchmarks.distillnet_table runs/distillnet-short
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flaxcomp.store.frame import Row, RunFrame
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

BOUND = 0.01  # of the accuracy that may be lost, one point

# Motamedi et al., tables 3 and 4, by the share of the classes removed, %: parameters removed, %; accuracy lost, points; and how
# much faster on a phone. 10 to 80 %.
SHARES = range(10, 90, 10)
_REMOVED = {"tf_mnist": (10, 20, 30, 40, 49, 49, 57, 71), "tf_cifar": (10, 20, 30, 40, 50, 60, 68, 76)}
_LOST = {
    "tf_mnist": (0.02, 0.05, 0.06, 0.27, 0.97, 0.99, 0.98, 0.93),
    "tf_cifar": (0.01, 0.01, 0.0, 0.01, 0.06, 0.13, 0.48, 0.93),
}
_FASTER: dict[str, tuple[float | None, ...]] = {
    "tf_mnist": (1.07, 1.18, 1.40, 1.61, 1.90, 2.45, 3.09, 4.26),
    "tf_cifar": (None,) * 8,
}
PUBLISHED = {
    name: dict(zip(SHARES, zip(_REMOVED[name], _LOST[name], _FASTER[name], strict=True), strict=True)) for name in _REMOVED
}

HEAD = ("classes removed, %", "class sets", "parameters removed, % (published)", "multiply-adds skipped, % (as bitmaps)",
        "lost on held-out, points", "lost on test, points: mean, worst (published)", "sets beyond a point on test",
        "float32 file, KiB (of)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    with Store.open(RunPaths.at(parser.parse_args().run)) as store:
        frame = store.frame()
    tables = by_network(frame.trials)
    if not tables:
        raise SystemExit("no trial of this run with a block `subset` has finished")
    for title, rows in tables.items():
        print(f"\n{title}\n")
        print_table(rows, frame)


def by_network(trials: Iterable[Row]) -> dict[str, list[Row]]:
    """The finished trials that removed classes, by the network that they started from and whether positions went too."""
    tables: dict[str, list[Row]] = defaultdict(list)
    for row in trials:
        if row["status"] == "finished" and row.get("subset_removed_classes") is not None:
            options = [f"{name.removeprefix('model.')} {value}" for name, value in sorted(row.items())
                       if name.startswith("model.") and name != "model.name" and value not in (None, "")]  # fmt: skip
            what = "channels and positions" if row["subset.partial"] else "whole channels"
            tables[", ".join([row["model.name"], *options, row["dataset.name"], f"{what} removed"])].append(row)
    return tables


def print_table(rows: Sequence[Row], frame: RunFrame) -> None:
    dense = {row["trial"]: row for row in frame.trials}
    sizes = {row["trial"]: row["size_bytes"] for row in frame.artifacts
             if row.get("size_bytes") and (row["precision"], row.get("format")) == ("float32", "tflite")}  # fmt: skip
    latencies, devices = float_latencies(frame)
    heads = [*HEAD, *(f"faster on {device} (published, phone)" if not i else f"faster on {device}"
                      for i, device in enumerate(devices))]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    published = PUBLISHED.get(rows[0]["model.name"], {})
    for share, sets in sorted(by_share(rows).items()):
        print(f"| {' | '.join(cells(share, sets, published.get(share), dense, sizes, latencies, devices))} |")
    broken = [row for row in rows if lost(row, "test") > BOUND + 1e-9 >= lost(row, "val")]
    print(f"\nIn {len(broken)} of {len(rows)} class sets the held-out images promised one point at most and the test set "
          f"did not hold it{': ' + '; '.join(map(_named, broken)) if broken else ''}.")  # fmt: skip


def by_share(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Trials by the share of the classes that they removed, %."""
    shares: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        gone, kept = row["subset_removed_classes"], row["subset_kept_classes"]
        shares[round(100 * gone / (gone + kept))].append(row)
    return shares


def cells(
    share: int, sets: Sequence[Row], published: tuple[int, float, float | None] | None, dense: dict[str, Row],
    sizes: dict[str, int], latencies: dict[tuple[str, str], float], devices: Sequence[str],
) -> list[str]:  # fmt: skip
    parameters, loss, faster = published or (None, None, None)
    tested = [100 * lost(row, "test") for row in sets]
    macs = [100 * row["subset_macs_skipped"] / dense[row["source"]]["macs"] for row in sets]
    part = [100 * row["subset_macs_skipped_partial"] / dense[row["source"]]["macs"] for row in sets]
    files = [sizes[row["trial"]] / 1024 for row in sets if row["trial"] in sizes]
    whole = next((f" ({sizes[row['source']] / 1024:,.0f})" for row in sets if row["source"] in sizes), "")
    found = [
        str(share),
        str(len(sets)),
        f"{mean(100 * row['subset_parameters_removed_share'] for row in sets):.1f}{_beside(parameters)}",
        f"{mean(macs):.1f} ({mean(part):.1f})",
        f"{mean(100 * lost(row, 'val') for row in sets):.2f}",
        f"{mean(tested):.2f}, {max(tested):.2f}{_beside(loss)}",
        str(sum(points > 100 * BOUND + 1e-7 for points in tested)),
        f"{mean(files):,.0f}{whole}" if files else "-",
    ]
    for i, device in enumerate(devices):
        ratios = [latencies[row["source"], device] / latencies[row["trial"], device] for row in sets
                  if {(row["source"], device), (row["trial"], device)} <= latencies.keys()]  # fmt: skip
        found.append((f"{mean(ratios):.2f}x" if ratios else "-") + (_beside(faster) if not i else ""))
    return found


def float_latencies(frame: RunFrame) -> tuple[dict[tuple[str, str], float], list[str]]:
    """Milliseconds of the float32 files by trial and device, and the devices, this machine before emulated ones."""
    rows = [row for row in frame.measurements if row["precision"] == "float32" and row.get("latency_ms")]
    devices = {(bool(row["emulated"]), row["device"] + (" (emulated)" if row["emulated"] else "")) for row in rows}
    named = {(row["trial"], row["device"] + (" (emulated)" if row["emulated"] else "")): row["latency_ms"] for row in rows}
    return named, [device for _, device in sorted(devices)]


def lost(row: Row, part: str) -> float:
    """Accuracy lost on the kept classes, a share; below 0 where some was won."""
    return float(row[f"subset_{part}_accuracy_before"] - row[f"subset_{part}_accuracy_after"])


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _beside(published: Any) -> str:
    return "" if published is None else f" ({published})"


def _named(row: Row) -> str:
    gone = f"{100 * row['subset.remove_fraction']:.0f} % of seed {row['subset.class_seed']}" \
        if row.get("subset.remove_fraction") else f"classes {row.get('subset.classes')}"  # fmt: skip
    return f"{gone} lost {100 * lost(row, 'test'):.2f}"


if __name__ == "__main__":
    main()
