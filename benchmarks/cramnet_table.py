"""CramNet's tests (Hoffman 2018, table 4.1) from a run, beside the published figures and the same from scratch, as Markdown.

python -m benchmarks.cramnet_table runs/cramnet
"""

import argparse
import json
from pathlib import Path
from typing import Any

from flaxcomp.report.statistics import summarise
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

Widths = tuple[int, ...]

# By widths: the test, its parameters, its FLOPs in percent of the original's, and its accuracy less the original's, in points.
PUBLISHED: dict[Widths, tuple[str, int, float, float | None]] = {
    (32, 32, 64, 64, 512): ("0", 1_250_858, 100.0, None),
    (16, 16, 32, 32, 96): ("1", 128_314, 25.17, 1.02),
    (16, 16, 32, 32, 64): ("2", 91_098, 24.98, 0.21),
    (16, 16, 32, 32, 48): ("3", 72_490, 24.93, -0.60),
    (16, 16, 32, 32, 32): ("4", 53_882, 24.83, -1.35),
    (16, 16, 32, 32, 16): ("5", 35_274, 24.83, -3.38),
    (8, 8, 16, 16, 16): ("5b", 13_698, 6.75, -14.97),
    (8, 8, 16, 16, 96): ("1b", 60_658, 6.94, -5.52),
    (16, 16, 32, 16, 96): ("1c", 68_394, 21.17, -1.28),
}
ORIGINAL = next(iter(PUBLISHED))
PUBLISHED_ACCURACY = 80.64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    paths = RunPaths.at(parser.parse_args().run)
    with Store.open(paths) as store:
        rows = [row for row in store.frame().trials if row["status"] == "finished"]
    original = [row for row in rows if widths_of(row) == ORIGINAL and not is_small(row)]
    if not original:
        raise SystemExit("the original network has not finished yet; everything is compared with it")
    print_table(rows, original)
    print_variants(paths, rows, original)


def print_table(rows: list[Row], original: list[Row]) -> None:
    """A line for each of the source's tests that the run has."""
    base = summarise([100 * row["test_accuracy"] for row in original]).mean
    print("| test | conv widths | fc | parameters | % params | % FLOPs (published) | accuracy, % | difference, points "
          "| published | before fine-tuning (held out) | from scratch, % | difference |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for widths, (test, params, flops, difference) in PUBLISHED.items():
        group = [row for row in rows if widths_of(row) == widths]
        small = original if widths == ORIGINAL else [row for row in group if is_plain(row)]
        scratch = [row for row in group if not is_small(row)] if widths != ORIGINAL else []
        for row in small + scratch:
            got = row["trainable_params"]
            assert got == params, f"test {test} has {got} parameters, published are {params}"
        if not small and not scratch:
            continue
        any_row = (small or scratch)[0]
        cells = [
            test, " ".join(map(str, widths[:-1])), str(widths[-1]), f"{params:,}",
            f"{100 * params / original[0]['trainable_params']:.2f}",
            f"{100 * any_row['macs'] / original[0]['macs']:.2f} ({flops:.2f})",
            *accuracy(small, None if widths == ORIGINAL else base),
            f"{PUBLISHED_ACCURACY:.2f} %" if difference is None else f"{difference:+.2f}",
            mean_of(small, "cramnet_val_accuracy"), *accuracy(scratch, base),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def print_variants(paths: RunPaths, rows: list[Row], original: list[Row]) -> None:
    """The experiments beside the table: direction, initialisation, other blocks; with the held-out accuracy on the way."""
    variants = [row for row in rows if is_small(row) and not is_plain(row)]
    if not variants:
        return
    base = summarise([100 * row["test_accuracy"] for row in original]).mean
    print("\n| widths | what differs | parameters | sub-problems | ended | held-out accuracy after each, % | test accuracy, % "
          "| difference, points |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(variants + [row for row in rows if is_plain(row)], key=lambda row: (widths_of(row), not is_plain(row))):
        if not any(widths_of(row) == widths_of(variant) for variant in variants):
            continue
        details = json.loads(paths.compression_file(row["trial"]).read_text())["details"]["sub_problems"]
        steps = " ".join(f"{100 * step['val_accuracy']:.1f}{'' if step['stays'] else ' (taken back)'}" for step in details)
        cells = [
            " ".join(map(str, widths_of(row))), differing(row) or "-", f"{row['trainable_params']:,}",
            str(row["cramnet_sub_problems"]), row["cramnet_ended"], steps, *accuracy([row], base),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def widths_of(row: Row) -> Widths:
    """Of the network that a trial asks for."""
    return tuple(row.get("cramnet.widths") or row.get("model.widths") or ORIGINAL)


def is_small(row: Row) -> bool:
    """Whether CramNet made it."""
    return "cramnet_sub_problems" in row and row["cramnet_sub_problems"] is not None


def is_plain(row: Row) -> bool:
    """Whether CramNet made it as the source does."""
    return is_small(row) and not differing(row)


def differing(row: Row) -> str:
    """What of a trial is not as in the source's tests."""
    found = [str(row[key]) for key, usual in (("cramnet.direction", "output_first"), ("cramnet.initialisation", "random"))
             if row.get(key) not in (None, usual)]  # fmt: skip
    prefix = "cramnet.replace."
    found += [f"{key.removeprefix(prefix)} {value}" for key, value in row.items() if key.startswith(prefix) and value]
    return ", ".join(found)


def accuracy(rows: list[Row], base: float | None) -> tuple[str, str]:
    """Mean test accuracy in percent, with its interval over several seeds, and its difference to the original's."""
    if not rows:
        return "-", "-"
    summary = summarise([100 * row["test_accuracy"] for row in rows])
    half = "" if summary.half_width is None else f" ± {summary.half_width:.2f}"
    return f"{summary.mean:.2f}{half}", "-" if base is None else f"{summary.mean - base:+.2f}"


def mean_of(rows: list[Any], figure: str) -> str:
    values = [100 * row[figure] for row in rows if row.get(figure) is not None]
    return f"{sum(values) / len(values):.2f}" if values else "-"


if __name__ == "__main__":
    main()
