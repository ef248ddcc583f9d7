"""Figures, configurations and tables in words."""

import pytest

from flaxcomp.report.charts import short_names
from flaxcomp.report.configurations import Naming, varying
from flaxcomp.report.quantities import quantity
from flaxcomp.report.tables import Cell, Table, markdown, number
from flaxcomp.store.frame import RunFrame
from flaxcomp.sweep.spec import Metric
from synthetic_runs import TEACHER, study, teacher, trial


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("val_accuracy", 0.98046, "98.05 %"),
        ("comp_rate", 0.99894, "99.89 %"),
        ("params", 3_274_634, "3,274,634"),
        ("macs", 12_345_678, "12.3 M"),
        ("macs", 4_110_000_000, "4.11 G"),
        ("size_bytes", 524_288, "512 KiB"),
        ("size_bytes", 999, "999 B"),
        ("peak_memory_bytes", 3_500_000, "3.34 MiB"),
        ("latency_ms", 0.0123456, "0.0123 ms"),
        ("latency_ms", 235.4, "235 ms"),
        ("train_seconds", 61.23, "61.2 s"),
        ("train_seconds", 600, "10.0 min"),
        ("train_seconds", 7200, "2.0 h"),
        ("train_loss", 0.123456, "0.1235"),
        ("val_accuracy", None, "–"),
        ("val_accuracy", float("nan"), "–"),
    ],
)
def test_figures_carry_their_unit(name, value, text):
    assert quantity(name).text(value) == text


def test_differences_of_shares_are_percentage_points():
    assert quantity("test_accuracy").difference(0.000633) == "0.06 pp"


def test_goals_are_the_sweeps_or_the_obvious_ones():
    assert quantity("test_f1").goal == "maximize"
    assert quantity("latency_ms").goal == "minimize"
    assert quantity("comp_rate", [Metric(name="comp_rate", goal="minimize")]).goal == "minimize"


def test_axes_name_their_unit_and_span_decades():
    size = quantity("size_bytes")
    assert size.axis([1.0, 5.0])["title"] == "File size (KiB)"
    assert size.axis([1.0, 5.0])["scale"]["type"] == "linear"
    assert size.axis([1.0, 500.0])["scale"]["type"] == "log"
    assert quantity("params").axis([0, 500])["scale"]["type"] == "linear"  # zero has no logarithm
    assert quantity("latency_ms").axis([], "EMULATED")["title"] == "Latency (ms), EMULATED"
    assert size.plotted(2048) == 2.0
    assert quantity("val_accuracy").plotted(0.9805) == 98.05


def test_a_label_tells_what_varies():
    frame = RunFrame("r", (), trials=[teacher(), trial(), trial("simplenet_v2", None), trial(temperature=3.0)])
    naming = Naming.of(frame)
    assert naming.columns == ("model.name", "distill.temperature")
    assert naming.label(trial(temperature=3.0, seed=4), seed=True) == "simplenet_v1 · T 3 · seed 4"
    assert naming.label(trial("simplenet_v2", None)) == "simplenet_v2 · hard targets"
    assert naming.label(trial(temperature=3.0), without=["distill.temperature"]) == "simplenet_v1"


def test_teachers_go_by_the_name_of_their_model():
    other = teacher() | {"trial": "o", "model.name": "simplenet_v4"}
    rows = [trial(), trial(seed=1, **{"distill.teacher": "o"})]
    naming = Naming.of(RunFrame("r", (), trials=[teacher(), other, *rows]))
    assert [naming.value(row, "distill.teacher") for row in rows] == ["simplenet_lm", "simplenet_v4"]
    assert rows[0]["distill.teacher"] == TEACHER


def test_columns_with_the_same_last_word_keep_their_full_name():
    rows = [{"trial": "a", "x.rate": 1, "y.rate": 1}, {"trial": "b", "x.rate": 2, "y.rate": 2}]
    naming = Naming.of(RunFrame("r", (), trials=rows))
    assert dict(naming.names) == {"x.rate": "x.rate", "y.rate": "y.rate"}


def test_results_and_seeds_do_not_vary_a_configuration():
    assert varying(study(models=("simplenet_v1",), temperatures=(1.0,)).trials[1:]) == ()


def test_names_in_charts_are_short_and_distinct():
    labels = ["short", "a" * 30 + "1" + "b" * 30, "a" * 30 + "2" + "b" * 30]
    names = short_names(labels)
    assert names["short"] == "short"
    assert len(set(names.values())) == 3
    assert all(len(name) <= 50 for name in names.values())


def test_tables_in_markdown():
    table = Table(
        ("Trial", "Size|x"), ((Cell("ab12", kind="trial"), number("1", 1)), (Cell("cd|<b>*", kind="text"), number("2", 2)))
    )
    assert markdown(table, limit=1).splitlines() == [
        "| Trial | Size\\|x |",
        "| --- | ---: |",
        "| `ab12` | 1 |",
        "",
        "1 more rows are in the HTML report.",
    ]
    assert "cd\\|\\<b\\>\\*" in markdown(table)


def test_empty_columns_go():
    table = Table(("A", "B"), ((Cell("x"), Cell("–")), (Cell("y"), Cell(""))))
    assert table.without_empty_columns() == Table(("A",), ((Cell("x"),), (Cell("y"),)))
