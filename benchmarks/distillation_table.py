"""A run of sweeps/embedded_distillation.yaml or its short form: errors of students beside those of the same network alone.

python -m benchmarks.distillation_table runs/embedded-distillation-short

Published (Greffe 2019, 5.2.3; error on the validation images, %, mean of three runs of 200 epochs):

| student | teacher | alone | taught | gained |
|---|---|---|---|---|
| MobileNet v1 medium | large | 6.35 | 5.79 | 0.56 |
| MobileNet v1 medium, SE | large, SE | 5.87 | 5.47 | 0.40 |
| MobileNet v2 medium | large | 6.61 | 6.34 | 0.27 |
| MobileNet v2 medium, SE | large, SE | - | - | 0.01 |
| MobileNet v1, v2, MnasNet, all SE | WRN-40-4-SE and assistants | - | - | none |
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxcomp.report.statistics import Summary, summarise, teachers_of
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

PUBLISHED = (__doc__ or "").partition("Published ")[2]
USUAL = (0.2, 2.0)  # lambda and T, of which the table need not speak
_LEFT_OUT = ("layout", "input_shape", "num_classes")


@dataclass(frozen=True)
class Line:
    """A network that learned in one way, over its seeds; errors in percent.

    Attributes:
        student: the network. teachers: from the first to its own, "" for labels alone. options: lambda and T if unusual.
        validation, test: errors. gained: points of validation error less than the same network alone; None where there is none.
    """

    student: str
    teachers: str
    options: str
    validation: Summary
    test: Summary
    gained: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    with Store.open(RunPaths.at(parser.parse_args().run)) as store:
        trials = store.frame().trials
    lines = table(trials)
    if not lines:
        raise SystemExit("no trial of this run has finished")
    print("| student | taught by | lambda, T | validation error, % | gained | test error, % | runs |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        gained = "-" if line.gained is None else f"{line.gained:+.2f}"
        told = [line.student, line.teachers or "labels alone", line.options or "-"]
        print(f"| {' | '.join(told)} | {_spread(line.validation)} | {gained} | {_spread(line.test)} | {line.test.count} |")
    unfinished = sum(row["status"] != "finished" for row in trials)
    print(f"\n{len(trials) - unfinished} of {len(trials)} trainings have finished. Published {PUBLISHED.rstrip()}")


def table(trials: Sequence[Row]) -> list[Line]:
    """The lines of the table, students of one network together, that on labels alone first."""
    by_id = {row["trial"]: row for row in trials}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in trials:
        if row["status"] == "finished":
            groups.setdefault((network(row), chain(row, by_id), _options(row)), []).append(row)
    alone = {student: _error(rows, "val_accuracy").mean for (student, teachers, _), rows in groups.items() if not teachers}
    lines = []
    for student, teachers, options in sorted(groups, key=lambda key: (list(groups).index(_first_of(key, groups)), key[1:])):
        rows = groups[student, teachers, options]
        error = _error(rows, "val_accuracy")
        gained = alone[student] - error.mean if teachers and student in alone else None
        lines.append(Line(student, teachers, options, error, _error(rows, "test_accuracy"), gained))
    return lines


def network(row: Row) -> str:
    """A model in few words: `mobilenet_v1 blocks=12 width=64`."""
    options = {name.removeprefix("model."): value for name, value in row.items() if name.startswith("model.")}
    name = options.pop("name")
    shown = (f"{key}={value}" for key, value in options.items() if key not in _LEFT_OUT and value not in (None, ""))
    return " ".join([str(name), *shown])


def chain(row: Row, by_id: dict[str, Row]) -> str:
    """Who taught it, and who taught those: `large > medium`; "" for nobody."""
    taught = []
    for teacher in teachers_of(row):
        known = by_id.get(teacher)
        taught.append(teacher if known is None else " > ".join(filter(None, [chain(known, by_id), network(known)])))
    return " + ".join(taught)


def _options(row: Row) -> str:
    given: tuple[Any, Any] = (row.get("distill.lambda"), row.get("distill.temperature"))
    return "" if not teachers_of(row) or given == USUAL else f"{given[0]:g}, {given[1]:g}"


def _first_of(key: tuple[str, str, str], groups: dict[tuple[str, str, str], list[Row]]) -> tuple[str, str, str]:
    """The first group of the same student."""
    return next(other for other in groups if other[0] == key[0])


def _error(rows: Sequence[Row], name: str) -> Summary:
    return summarise(100 * (1 - row[name]) for row in rows)


def _spread(summary: Summary) -> str:
    return f"{summary.mean:.2f}" + ("" if summary.deviation is None else f" +- {summary.deviation:.2f}")


if __name__ == "__main__":
    main()
