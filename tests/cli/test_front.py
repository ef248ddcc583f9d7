"""`flaxcomp front`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_runs import Done, create, trial

pytest_plugins = ("calling",)
Program = Callable[..., Done]


def front(flaxcomp: Program, run: Path, metrics: str | None = None) -> list[tuple[str, ...]]:
    options = [] if metrics is None else ["--metrics", metrics]
    rows = json.loads(flaxcomp("front", run, "--format", "json", *options).out)
    return [(row["trial"], *([row["device"]] if "device" in row else [])) for row in rows]


@pytest.mark.parametrize(
    ("metrics", "trials"),
    [
        (None, [("t1",), ("t2",)]),
        ("val_accuracy:max", [("t2",)]),
        ("val_accuracy:min,params:max", [("t0",), ("t3",)]),
        ("accuracy:maximize,params:minimize", [("t1",), ("t2",)]),  # of files
        ("size_bytes:min", [("t1",), ("t2",)]),
        ("latency_ms:min", [("t1", "board"), ("t1", "emulated")]),  # each device by itself
        ("latency_ms:min,val_accuracy:max", [("t1", "board"), ("t1", "emulated"), ("t2", "board"), ("t2", "emulated")]),
    ],
)
def test_fronts(flaxcomp: Program, run: Path, metrics: str | None, trials: list[tuple[str, ...]]) -> None:
    assert front(flaxcomp, run, metrics) == trials


def test_a_table_shows_metrics_and_what_differs(flaxcomp: Program, run: Path) -> None:
    table = flaxcomp("front", run).out.splitlines()
    assert table[0].split() == ["trial", "model.width", "seed", "val_accuracy", "params"]
    assert table[2].split() == ["t1", "2", "2", "0.92", "100"]
    table = flaxcomp("front", run, "--metrics", "latency_ms:min").out.splitlines()
    assert [name for name in table[0].split() if name in ("trial", "latency_ms", "precision", "device", "emulated")] == [
        "trial",
        "latency_ms",
        "precision",
        "device",
        "emulated",
    ]


def test_a_run_without_figures_names_its_metrics(flaxcomp: Program, tmp_path: Path) -> None:
    create(tmp_path / "new", [trial("a")]).close()
    done = flaxcomp("front", tmp_path / "new")
    assert (done.code, done.out) == (0, "")
    assert done.err == f"No finished trial of {tmp_path / 'new'} has figures of val_accuracy, params yet.\n"


def test_of_many_known_metrics_ten_are_named(flaxcomp: Program, run: Path) -> None:
    error = flaxcomp("front", run, "--metrics", "zzz:max").err
    assert error.count(", ") == 9
    assert error.endswith(" more; `flaxcomp results RUN --format csv` has all as columns.\n")


def test_metrics_without_figures(flaxcomp: Program, run: Path) -> None:
    done = flaxcomp("front", run, "--metrics", "peak_memory_bytes:min")
    assert (done.code, done.out) == (0, "")
    assert "has figures of peak_memory_bytes yet" in done.err
    assert flaxcomp("front", run, "--metrics", "macs:min", "--format", "json").out == "[\n\n]\n"


@pytest.mark.parametrize(
    ("metrics", "error"),
    [
        ("val_acuracy:max", "No metric 'val_acuracy' in this run. Did you mean 'val_accuracy'?"),
        ("params", "A metric must be NAME:max or NAME:min, got 'params'."),
        ("params:up", "A metric must be NAME:max or NAME:min, got 'params:up'."),
        ("status:max", "No metric 'status' in this run."),
    ],
)
def test_wrong_metrics(flaxcomp: Program, run: Path, metrics: str, error: str) -> None:
    done = flaxcomp("front", run, "--metrics", metrics)
    assert done.code == 2
    assert done.err.startswith(f"error: {error}")
