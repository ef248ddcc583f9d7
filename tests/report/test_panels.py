"""Each panel: what it gathers, that it stays away when it has nothing to show, and that its drawing can be drawn."""

import dataclasses
import json
from dataclasses import replace

import pytest

from flaxcomp.report import panels
from flaxcomp.report.fronts import Setting, pareto
from flaxcomp.report.panels import (
    confusion,
    f_against_comprate,
    f_against_temperature,
    failures,
    front,
    latency,
    learning_curves,
    precision_ladder,
    runs,
    winners,
)
from flaxcomp.report.points import level
from flaxcomp.report.tables import Table
from flaxcomp.report.write import png
from flaxcomp.store.frame import RunFrame
from flaxcomp.sweep.spec import Metric
from synthetic_runs import EMULATED, REAL, TEACHER, artifacts, epochs, measurement, study, teacher, trial

ACCURACY_LATENCY = (Metric(name="val_accuracy", goal="maximize"), Metric(name="latency_ms", goal="minimize"))
SMALL = study(seeds=2, temperatures=(None, 1.0, 3.0), exported=4)


def only(*trials, **parts):
    return RunFrame("r", SMALL.metrics, trials=list(trials), **parts)


# The contract of all panels


@pytest.mark.parametrize("name", panels.names())
def test_a_panel_gathers_frozen_data_and_draws_it(name):
    panel = panels.load(name)
    info = panel.info(SMALL)
    assert dataclasses.is_dataclass(info)
    assert info.__dataclass_params__.frozen
    assert panel.TITLE
    assert info.caption
    drawing = panel.draw(info)
    assert panel.draw(panel.info(SMALL)) == drawing  # the same run, the same picture
    if not isinstance(drawing, Table):
        assert drawing["description"]
        json.dumps(drawing, allow_nan=False)
        assert png(drawing, scale=0.5).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", panels.names())
def test_a_panel_with_nothing_to_show_stays_away(name):
    assert panels.load(name).info(RunFrame("empty", SMALL.metrics)) is None
    waiting = [{"trial": "a", "role": "trial", "model.name": "m", "seed": 0, "status": "pending", "val_accuracy": None}]
    assert panels.load(name).info(RunFrame("waiting", SMALL.metrics, trials=waiting)) is None


def test_panels_come_in_the_order_of_the_page():
    assert [panel.name for panel in panels.draw_all(SMALL)] == [
        "front", "winners", "runs", "f_against_comprate", "f_against_temperature", "precision_ladder", "latency",
        "learning_curves", "confusion", "failures",
    ]  # fmt: skip
    assert {panel.name for panel in panels.draw_all(SMALL)} == set(panels.names())


# The front


def test_the_front_opens_with_the_sweeps_metrics():
    info = front.info(SMALL)
    assert (info.y, info.x) == ("val_accuracy", "params")
    turned = front.info(replace(SMALL, metrics=SMALL.metrics[::-1]))
    assert (turned.y, turned.x) == ("params", "val_accuracy")


def test_the_front_of_every_pair_is_exact():
    info = front.info(SMALL)
    finished = [row for row in SMALL.trials if row["role"] == "trial" and row["status"] == "finished"]
    expected = {row["trial"] for row in pareto(finished, SMALL.metrics)}
    assert {info.points["trial"][index].trial for index in info.front("params", "val_accuracy")} == expected
    assert len(info.fronts) == len(info.quantities) * (len(info.quantities) - 1) / 2


def test_of_very_many_points_the_fronts_are_all_drawn_and_the_others_thinned(monkeypatch):
    whole = front.info(SMALL)
    monkeypatch.setattr("flaxcomp.report.points.MOST_POINTS", 7)
    info = front.info(SMALL)
    assert whole.left_out == 0
    for pair, members in info.fronts.items():
        where = level(pair)
        assert [info.points[where][index] for index in members] == [whole.points[where][i] for i in whole.fronts[pair]]
    on_one = {index for pair, its in info.fronts.items() if level(pair) == "trial" for index in its}
    assert len(info.points["trial"]) == len(on_one) + 7
    lost = sum(len(whole.points[where]) - len(info.points[where]) for where in whole.points)
    assert info.left_out == lost > 0
    assert f"{lost:,} are not" in info.caption
    assert "are not, evenly" not in whole.caption


def test_a_front_on_devices_has_members_on_each():
    info = front.info(replace(SMALL, metrics=ACCURACY_LATENCY))
    members = [info.points["measurement"][index] for index in info.front("val_accuracy", "latency_ms")]
    assert {point.setting for point in members} == {0, 1}
    assert info.settings == (Setting.of(REAL), Setting.of(EMULATED))  # real ones first
    assert "EMULATED" in info.caption


def test_emulated_figures_say_so_in_tooltip_and_axis():
    info = front.info(replace(study(seeds=1, settings=(EMULATED,)), metrics=ACCURACY_LATENCY))
    assert all(point.tip["Latency"].endswith("ms (emulated)") for point in info.points["measurement"])
    assert info.caption.endswith("All device figures are EMULATED.")
    spec = front.draw(info)
    assert spec["encoding"]["x"]["title"] == "Latency (ms), EMULATED"
    assert "EMULATED" not in spec["encoding"]["y"]["title"]


def test_rows_outside_the_constraints_are_drawn_but_do_not_compete():
    row, beaten = trial(), trial("simplenet_v2", val_accuracy=0.99)
    info = front.info(replace(only(row, beaten), constraints=("params <= 4000", "size_bytes <= 1")))
    assert [(point.trial, point.competes) for point in info.points["trial"]] == [(row["trial"], True), (beaten["trial"], False)]
    assert info.front("params", "val_accuracy") == (0,)
    kinds = [value["kind"] for value in front.draw(info)["datasets"]["points"]]
    assert kinds == ["out of the running", "on the front"]  # the front on top


def test_flagged_files_do_not_compete():
    row = trial("simplenet_v5")
    info = front.info(only(row, artifacts=artifacts(row)))
    assert [point.competes for point in info.points["artifact"]] == [True, True, True, False]
    assert "beyond the bound" in info.points["artifact"][3].tip["File"]


def test_hovering_shows_the_configuration_and_the_figures():
    info = front.info(SMALL)
    point = next(point for point in info.points["trial"] if "T 3" in point.tip["title"])
    assert point.tip["title"] == f"{point.group} · T 3"
    assert point.tip["Trial"] == point.trial
    assert point.tip["Parameters"] == f"{point.values[info.index('params')]:,.0f}"


@pytest.mark.parametrize(("goal", "interpolate"), [("minimize", "step-after"), ("maximize", "step-before")])
def test_the_line_bounds_what_can_be_had(goal, interpolate):
    metrics = (SMALL.metrics[0], Metric(name="params", goal=goal))
    assert front.draw(front.info(replace(SMALL, metrics=metrics)))["layer"][0]["mark"]["interpolate"] == interpolate


def test_one_metric_is_no_front():
    row = {"trial": "a", "role": "trial", "status": "finished", "val_accuracy": 0.5}
    assert front.info(only(row)) is None


# Winners


def test_winners_are_the_front_best_first():
    info = winners.info(SMALL)
    accuracies = [row["val_accuracy"] for row in info.rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert TEACHER not in {row["trial"] for row in info.rows}
    assert info.total == len(info.rows)
    table = winners.draw(info)
    assert table.columns[:5] == ("Trial", "Configuration", "Seed", "Validation accuracy", "Parameters")
    assert "Trainable parameters" not in table.columns  # as many as parameters
    assert table.rows[0][0].kind == "trial"


def test_winners_on_devices_name_file_and_device():
    info = winners.info(replace(SMALL, metrics=ACCURACY_LATENCY))
    table = winners.draw(info)
    place, device = table.columns.index("Latency"), table.columns.index("Device")
    for row in table.rows:
        assert row[place].text.endswith("(emulated)") == ("EMULATED" in row[device].text)
    assert {"pi3" in row[device].text for row in table.rows} == {True, False}


def test_metrics_without_figures_wait():
    """Before anything was measured the front is that of the other metrics."""
    metrics = (*ACCURACY_LATENCY, Metric(name="params", goal="minimize"))
    info = winners.info(replace(SMALL, metrics=metrics, measurements=[], artifacts=[]))
    assert [its.name for its in info.metrics] == ["val_accuracy", "params"]


# Statistics over runs


def test_runs_group_by_configuration_and_rank_by_mean():
    info = runs.info(SMALL)
    assert info.accuracy.name == "test_accuracy"
    means = [its.summary.mean for its in info.configurations]
    assert means == sorted(means, reverse=True)
    assert info.total == 15
    assert all(its.summary.count == len(its.seeds) <= 2 for its in info.configurations)


def test_single_runs_make_no_interval_panel():
    assert runs.info(only(trial(), trial(temperature=2.0))) is None


def test_validation_accuracy_stands_in_for_a_missing_test_accuracy():
    rows = [trial(seed=seed, test_accuracy=None) for seed in range(2)]
    assert runs.info(only(*rows)).accuracy.name == "val_accuracy"


def test_compression_is_relative_to_the_teacher():
    info = f_against_comprate.info(only(teacher(), trial(seed=0), trial(seed=1)))
    (student,), (reference,) = info.configurations, info.references
    assert round(100 * student.comp_rate, 2) == 99.89
    assert student.f.count == 2
    assert reference.label == "simplenet_lm (teacher)"
    assert "Dashed: the teacher." in info.caption


def test_models_of_one_size_have_no_compression_to_show():
    assert f_against_comprate.info(only(trial(seed=0), trial(seed=1))) is None


def test_temperatures_make_a_line_an_architecture():
    info = f_against_temperature.info(SMALL)
    assert {its.label for its in info.series} == {f"simplenet_v{n}" for n in range(1, 6)}
    assert all([t for t, _ in its.f] == [1.0, 3.0] and its.hard is not None for its in info.series)
    assert "hard targets" in info.caption


def test_hard_targets_belong_to_their_own_architecture():
    rows = [trial("simplenet_v1", t) for t in (1.0, 3.0)] + [trial("simplenet_v2", t) for t in (None, 1.0, 3.0)]
    info = f_against_temperature.info(only(teacher(), *rows))
    hard = {its.label: its.hard and its.hard.mean for its in info.series}
    assert hard == {"simplenet_v1": None, "simplenet_v2": pytest.approx(rows[2]["test_f1"])}


def test_what_else_varies_makes_other_lines():
    rows = [trial(temperature=t, **{"train.batch_size": size}) for t in (1.0, 3.0) for size in (64, 128)]
    info = f_against_temperature.info(only(teacher(), *rows))
    assert {its.label for its in info.series} == {"simplenet_v1 · batch size 64", "simplenet_v1 · batch size 128"}


def test_one_temperature_is_no_line():
    assert f_against_temperature.info(only(trial(), trial("simplenet_v2"))) is None


# Files and devices


def test_the_ladder_descends_from_float32_to_int8():
    row = trial("simplenet_v5")
    info = precision_ladder.info(only(row, artifacts=artifacts(row)[::-1]))
    (ladder,) = info.ladders
    assert [rung.precision for rung in ladder.rungs] == ["float32", "float16", "dynamic", "int8"]
    assert [rung.flagged for rung in ladder.rungs] == [False, False, False, True]
    assert ladder.rungs[3].drop == 0.08
    assert "1 files whose accuracy fell" in info.caption


def test_files_of_several_calibrations_have_a_rung_each():
    row = trial()
    *others, int8 = artifacts(row)
    calibrated = [
        int8 | {"artifact": f"{images:064}", "quantizer": "tensorflow", "calibration_images": images, "calibration_seed": 0}
        for images in (1000, 50)
    ]
    info = precision_ladder.info(only(row, artifacts=[*others, *calibrated]))
    assert [rung.name for rung in info.ladders[0].rungs] == [
        "float32",
        "float16",
        "dynamic",
        "int8, 50 images",
        "int8, 1000 images",
    ]
    axis = precision_ladder.draw(info)["hconcat"][0]["encoding"]["x"]
    assert axis["sort"] == [rung.name for rung in info.ladders[0].rungs]


def test_conversions_that_failed_are_counted():
    row = trial()
    lost = {
        "trial": row["trial"],
        "artifact": None,
        "precision": "int8",
        "format": "tflite",
        "size_bytes": None,
        "reason": "no",
    }
    info = precision_ladder.info(only(row, artifacts=[*artifacts(row)[:3], lost]))
    assert len(info.ladders[0].rungs) == 3
    assert "1 files could not be made." in info.caption


def test_ladders_of_winners_come_first():
    rows = [trial(val_accuracy=0.5), trial(seed=1, val_accuracy=0.9)]
    info = precision_ladder.info(only(*rows, artifacts=[its for row in rows for its in artifacts(row)]))
    assert [ladder.trial for ladder in info.ladders] == [rows[1]["trial"], rows[0]["trial"]]


def test_devices_stand_apart_and_emulated_ones_say_so():
    info = latency.info(SMALL)
    assert [its.setting.emulated for its in info.devices] == [False, True]
    assert "EMULATED, not the time of real hardware: board0." in info.caption
    for its in info.devices:
        times = [timing.latency_ms for timing in its.timings]
        assert times == sorted(times)
        assert all(timing.low_ms < timing.latency_ms < timing.high_ms for timing in its.timings)
    real, emulated = latency.draw(info)["vconcat"]
    assert emulated["title"]["text"].endswith("EMULATED")
    assert emulated["layer"][0]["encoding"]["x"]["title"] == "Latency (ms), EMULATED"
    assert all(value["tip"]["Latency"].endswith("(emulated)") for value in emulated["data"]["values"])
    assert "EMULATED" not in json.dumps(real)


def test_a_latency_without_interval_is_a_point():
    row = trial()
    measured = measurement(row, artifacts(row)[0], REAL) | {"latency_ci_low": None, "latency_ci_high": None}
    (device,) = latency.info(only(row, measurements=[measured])).devices
    assert device.timings[0].low_ms == device.timings[0].high_ms == device.timings[0].latency_ms


# Learning curves, confusion, failures


def test_few_trials_have_a_line_each():
    rows = [trial(seed=seed) for seed in range(3)]
    info = learning_curves.info(only(*rows, epochs=[its for row in rows for its in epochs(row, 4)]))
    assert [curve.trials for curve in info.curves] == [1] * 6
    assert info.curves[0].epochs == (1, 2, 3, 4)
    assert info.curves[0].low == info.curves[0].middle == info.curves[0].high


def test_many_trials_have_a_band_an_architecture():
    info = learning_curves.info(SMALL)
    assert [(curve.name, curve.group) for curve in info.curves[:5]] == [
        ("val_accuracy", f"simplenet_v{n}") for n in range(1, 6)
    ]
    assert sum(curve.trials for curve in info.curves[:5]) == 30
    for curve in info.curves:
        assert all(low <= middle <= high for low, middle, high in zip(curve.low, curve.middle, curve.high, strict=True))


def test_many_trials_of_one_architecture_show_the_best():
    rows = [trial(seed=seed) for seed in range(30)]
    info = learning_curves.info(only(*rows, epochs=[its for row in rows for its in epochs(row, 3)]))
    assert info.drawn == 20
    assert "The best 20 of 30 trials" in info.caption


def test_a_diverged_loss_breaks_no_picture():
    row = trial()
    its = epochs(row, 3)
    its[1]["train_loss"], its[2]["train_loss"] = float("nan"), float("inf")
    info = learning_curves.info(only(row, epochs=its))
    assert [curve.epochs for curve in info.curves] == [(1, 2, 3), (1, 3)]
    loss = learning_curves.draw(info)["hconcat"][1]["data"]["values"]
    assert [value["middle"] is None for value in loss] == [False, True]


def test_the_confusion_matrix_is_the_best_winners():
    info = confusion.info(SMALL)
    assert info.trial == winners.info(SMALL).rows[0]["trial"]
    assert info.matrix[0][0] + info.matrix[0][5] == 1000
    assert info.mistakes(1)[0][0] == info.matrix[0][5]
    values = confusion.draw(info)["data"]["values"]
    assert len(values) == 100
    assert sum(value["count"] for value in values) == 10_000


def test_rows_are_true_classes():
    row = trial(confusion_matrix=[[5, 3], [0, 8]])
    info = confusion.info(only(row))
    assert info.mistakes(3) == [(3, 0, 1)]
    assert "0 taken for 1 (3)" in info.caption


def test_failures_come_latest_first():
    info = failures.info(SMALL)
    assert [its.at for its in info.failures] == ["2026-01-02 03:02:05", "2026-01-02 03:01:05", "2026-01-02 03:00:05"]
    assert info.failures[0].status == "failed"
    assert info.caption == "3 failed attempts: 1 out of memory, 1 error, 1 lost."
    assert failures.draw(info).rows[0][-1].kind == "long"


def test_failures_of_unknown_trials_and_moments_are_shown():
    info = failures.info(only(failures=[{"trial": "x", "attempt": 1, "kind": "lost", "error": None, "at": 0.0}]))
    assert info.failures[0].at == "1970-01-01 00:00:00 UTC"
    assert info.failures[0].label == "x"
