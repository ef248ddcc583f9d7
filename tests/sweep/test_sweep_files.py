import re
from pathlib import Path

import pytest

from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS
from flaxcomp.sweep.columns import RESULT_COLUMNS
from flaxcomp.sweep.load import load_sweep
from flaxcomp.sweep.plan import make_plan

PLACEHOLDER = re.compile(r"\b(?:COST|EXPECTED|TODO|TBD|FIXME|XXX)\b")
TIME = re.compile(r"\d[\d.,]*(?: to \d[\d.,]*)? ?(?:min|minutes?|h|hours?|days?)\b")

FOLDER = Path(__file__).parents[2] / "sweeps"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_the_head_says_command_cost_and_expected_result(path: Path) -> None:
    head = path.read_text().split("version: 1")[0]
    assert f"flaxcomp run sweeps/{path.name}" in head
    assert PLACEHOLDER.findall(head) == []
    lines = [line.removeprefix("#").strip() for line in head.splitlines()]
    (start,) = [i for i, line in enumerate(lines) if line.startswith("Cost: ")]
    (expected,) = [i for i, line in enumerate(lines) if line.startswith("Expected")]
    assert start < expected
    assert TIME.search(" ".join(lines[start:expected])), "the cost needs a figure with its unit, such as `27 minutes`"


@pytest.mark.parametrize(
    ("text", "is_a_time"),
    [("27 minutes", True), ("about 2 to 3 h on", True), ("1.5 days", True), ("4min", True), ("5 hours", True),
     ("minutes on two cores", False), ("610 trials of 11 programs", False), ("3 seeds x 200 epochs; days", False)],
)  # fmt: skip
def test_a_time_is_a_figure_with_a_unit(text: str, is_a_time: bool) -> None:
    assert bool(TIME.search(text)) == is_a_time


@pytest.mark.parametrize(
    ("name", "trials", "signatures"),
    [("simplenet", 610, 11), ("simplenet_short", 18, 6), ("quickstart", 16, 6)],
)
def test_their_sizes(name: str, trials: int, signatures: int) -> None:
    plan = make_plan(load_sweep(FOLDER / f"{name}.yaml"), RoomCatalog())
    assert (plan.trials, len(plan.groups)) == (trials, signatures)
    assert plan.dependencies == 0  # LM's run of seed 0 is the teacher
    assert plan.tally.excluded == plan.tally.repeated == 0


def test_the_columns_of_results_are_those_of_the_store() -> None:
    assert list(RESULT_COLUMNS) == [*TRIAL_COLUMNS, *MEASUREMENT_COLUMNS]
