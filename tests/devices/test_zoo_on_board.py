"""The benchmark that measures every architecture on the emulated board: its arithmetic, and two small rows for real."""

from pathlib import Path

import pytest

from benchmarks.embedded_rows import PI_3B_MS, ROWS, pi_3b_ms
from benchmarks.embedded_table import with_defaults
from benchmarks.zoo_on_board import correlations, measured, ranks, reduced_forms, spearman, table
from boards import emulated_cache
from flaxcomp.devices import counting
from flaxcomp.devices.protocol import Protocol
from flaxcomp.devices.transports import emulated
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from parts import require


def test_equal_values_share_the_mean_rank() -> None:
    assert ranks([30, 10, 20, 20, 5]).tolist() == [5, 2, 3.5, 3.5, 1]


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Without ties 1 - 6 sum d^2 / (n (n^2 - 1)), here with d = 0, 1, -1, 0, 0.
    assert spearman([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]) == pytest.approx(1 - 6 * 2 / (5 * 24))
    # With ties Pearson's correlation of 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)


def test_the_rows_are_the_studys() -> None:
    assert len(ROWS) == 17
    assert sum(ms for _, ms in ROWS) == pytest.approx(1274.1)  # of the table as printed
    for model, _ in ROWS:
        assert registry.canonical(model)["layout"] == "embedded"
    smallest = next(model for model, ms in ROWS if ms == 48.9)
    assert count(smallest, (32, 32, 3), 10).trainable_params == 272_282  # see wide_resnet.py


def test_a_row_is_found_by_what_a_run_keeps_of_its_model() -> None:
    """A run leaves out what an architecture has by default, 9 blocks and width 16 among it."""
    found = [pi_3b_ms(with_defaults(registry.canonical(model))) for model, _ in ROWS]
    assert found == list(PI_3B_MS.values())


def test_every_architecture_is_measured() -> None:
    assert [model["name"] for model, _ in reduced_forms()] == registry.names()


@pytest.mark.device
def test_two_rows_on_the_board(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAXCOMP_CACHE", str(tmp_path / "locks"))
    cache = emulated_cache(tmp_path_factory)
    notes: list[str] = []
    require(counting.plugin_options(Path(cache) / "emulated", notes.append), "; ".join(notes))
    device = emulated.Options(name="board", cache=str(cache), count_instructions=True)
    names = ("tf_mnist", "mobilenet_v1")
    chosen = [model for model, _ in reduced_forms() if model["name"] in names]
    models = list(zip(chosen, (9.0, 3.0), strict=True))
    rows = measured(models, device, Protocol(name="once", rounds=1, warmup_s=0.0, runs=5))
    assert [row["model"]["name"] for row in rows] == ["mobilenet_v1", "tf_mnist"]
    for row in rows:
        assert row["not_int8"] == []
        for precision in ("float32", "int8"):
            figures = row[precision]
            assert figures["instructions"] > 5_000
            assert not figures["output_flagged"]
        assert row["int8"]["size_bytes"] < row["float32"]["size_bytes"]
    larger = rows[0]["macs"] > rows[1]["macs"]
    assert correlations(rows)["macs"] == pytest.approx(1 if larger else -1)
    lines = table(rows).splitlines()
    assert lines[2].startswith("| mobilenet_v1 width=16 blocks=6 se=2 | ")
    assert lines[2].endswith("| none | 9 |")
    assert len({line.count("|") for line in lines}) == 1
