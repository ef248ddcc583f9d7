"""`flaxcomp report` on a real run folder, while its controller is writing."""

import subprocess
import sys
import webbrowser

import msgspec
import pytest
from click.testing import CliRunner

from flaxcomp.cli.main import cli
from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.ids import signature, trial_id
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Dataset, Sweep, TrialConfig
from flaxcomp.sweep.trial import Trial

RESULTS = {
    "test_accuracy": 0.95,
    "test_f1": 0.949,
    "train_seconds": 2.0,
    "params": 3_484,
    "confusion_matrix": [[9, 1], [0, 10]],
}


@pytest.fixture
def paths(tmp_path):
    """A run with a finished trial of two, whose controller still holds its lease."""
    paths = RunPaths.at(tmp_path / "run of two")
    sweep = Sweep(version=1, name="two", base={})
    configs = [TrialConfig(dataset=Dataset(name="mnist"), model={"name": "simplenet_v1"}, seed=seed) for seed in (0, 1)]
    trials = [Trial(trial_id(its, "f" * 64), its, (), "trial", signature(its)) for its in configs]
    with Store.create(paths, name="two", sweep_text="version: 1", sweep_json=msgspec.json.encode(sweep)) as store:
        lease = store.acquire(host="here", pid=1)
        store.add_trials(lease, trials)
        store.form_packs(lease, [Pack("p", tuple(trial.id for trial in trials), trials[0].signature)])
        attempt = store.start_pack(lease, "p", "w")
        rows = [
            {"trial": trial.id, "epoch": n, "val_accuracy": 0.9 + n / 100, "train_loss": 1 / n}
            for trial in trials
            for n in (1, 2)
        ]
        store.progress(lease, "p", attempt, rows)
        store.finish_pack(
            lease, "p", attempt, {trial.id: RESULTS | {"val_accuracy": 0.95 + n / 100} for n, trial in enumerate(trials)}
        )
        yield paths


def test_report_prints_where_it_wrote(paths):
    done = CliRunner().invoke(cli, ["report", str(paths.root), "--format", "html,md"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.strip() == str(paths.report / "index.html")
    text = (paths.report / "report.md").read_text(encoding="utf-8")
    assert "# two" in text
    assert "![" in text
    assert (paths.report / "front.png").exists()


def test_report_writes_elsewhere_and_opens(paths, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    arguments = [
        "report",
        str(paths.root),
        "--format",
        "html",
        "--out",
        str(tmp_path / "out"),
        "--metrics",
        "test_f1:max,params:min",
        "--open",
    ]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    assert opened == [(tmp_path / "out" / "index.html").as_uri()]
    assert not paths.report.exists()
    assert "The front of test F (high) and parameters (low)" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_refused(paths, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = CliRunner().invoke(cli, ["report", str(paths.root), "--out", str(tmp_path / "file" / "out")])
    assert isinstance(done.exception, UserError)
    assert "see --out" in str(done.exception)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    done = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert isinstance(done.exception, UserError)


def test_report_needs_nothing_heavy(paths):
    code = f"""
import sys
from flaxcomp.cli.main import cli
cli(["report", {str(paths.root)!r}, "--format", "html"], standalone_mode=False)
print([name for name in ("jax", "ray", "tensorflow", "pandas", "sqlalchemy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(paths.report / "index.html"), "[]"]
