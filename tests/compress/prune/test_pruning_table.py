"""The table of `python -m benchmarks.pruning_table`."""

from typing import Any

from benchmarks.pruning_table import drawing, points_of, table


def row(criterion: str | None, error: float, *, ratio: float = 0.5, macs: int = 1_000_000, **more: Any) -> dict[str, Any]:
    figures = {"test_accuracy": 1 - error / 100, "macs": macs, "trainable_params": 1234}
    if criterion is None:
        return figures
    block = {"criterion": criterion, "ratio": ratio, "per_cost": "none", "penalty": 0.0, "schedule": "one_shot", "steps": 5,
             "retrain_at": [], "then": "scratch", **more}  # fmt: skip
    return figures | {f"prune.{key}": value for key, value in block.items()}


ROWS = [
    row("fisher", 9.0, seed=0),
    row("fisher", 11.0, seed=1),
    row("uniform", 12.0),
    row("uniform", 7.0, schedule="iterative"),
    row(None, 5.0, macs=2_000_000),
    row("l1", 20.0, per_cost="macs", schedule="iterative", steps=3, retrain_at=[1, 2], then="fine_tune"),
    row("batch_norm_scale", 8.0, penalty=1e-4),
    {**row(None, 6.0), "netadapt.ratio": 0.5, "netadapt.then": "scratch", "netadapt.criterion": "l2",
     "netadapt.allow_small_prunings": False},
]  # fmt: skip


def test_seeds_are_averaged_and_compared_with_uniform_pruning() -> None:
    lines = table(points_of(ROWS))
    assert lines[2] == "| dense | 0 | - | 2.00 | 1,234 | 5.00 | - | 1 |"
    assert "| fisher | 0.5 | scratch | 1.00 | 1,234 | 10.00 ± 1.96 | -2.00 | 2 |" in lines
    assert "| uniform | 0.5 | scratch | 1.00 | 1,234 | 12.00 | +0.00 | 1 |" in lines
    assert "| l1, per macs, in 3 steps, retrained 2 times | 0.5 | fine-tune | 1.00 | 1,234 | 20.00 | - | 1 |" in lines
    assert any(line.startswith("| batch_norm_scale, slimmed | 0.5 |") for line in lines)
    assert any(line.startswith("| netadapt, l2 | 0.5 | scratch |") for line in lines)


def test_the_chart_has_a_line_for_each_method_that_ends_in_the_dense_network() -> None:
    values = drawing(points_of(ROWS))["data"]["values"]
    fisher = [(v["macs"], v["error"]) for v in values if v["group"] == "fisher"]
    assert [(macs, round(error, 6)) for macs, error in fisher] == [(1.0, 10.0), (2.0, 5.0)]
    assert {v["then"] for v in values} == {"scratch", "fine-tune"}
