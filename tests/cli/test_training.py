"""`flaxcomp run` from the sweep file to the run folder; only the place where packs train is played by the test."""

import json
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

from cli_runs import Done
from flaxcomp.cli import training
from flaxcomp.cli.commands import export
from flaxcomp.cli.work import Work
from flaxcomp.errors import UserError
from flaxcomp.schedule import controller
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.sweep.trial import Trial
from flaxcomp.train.job import Event, Finished, PackJob

pytest_plugins = ("calling",)
Program = Callable[..., Done]

SWEEP = """\
version: 1
name: study
base:
  dataset: {name: mnist_sample}
  model: {name: simplenet_v5}
parameters:
  seed: {range: [0, 4]}
"""
EXPORT = "export: {select: 'best:1', onnx: false}\n"


class Quick:
    """Trains in no time: the higher the seed, the better."""

    slots = 1

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self._events: deque[Event] = deque()

    @property
    def free(self) -> list[str]:
        return [] if self._events else ["worker"]

    def start(self, job: PackJob) -> None:
        for trial, config in job.configs.items():
            self.seeds.append(config.seed)
            for folder in (RunPaths.at(job.root).model(trial), RunPaths.at(job.root).best_model(trial)):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "weights").write_bytes(b"w" * 500_000)
        results = {t: {"params": 5, "macs": 7, "val_accuracy": c.seed / 10} for t, c in job.configs.items()}
        self._events.append(Finished(job.pack_id, job.attempt, results))

    def events(self, timeout_s: float) -> list[Event]:
        return [self._events.popleft()] if self._events else []

    def request_stop(self) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(flaxcomp: Program, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[int], Done]]:
    """Write the sweep file, give `flaxcomp run`, return the seeds that were trained and how it ended."""

    def call(
        text: str = SWEEP, *options: str, what: str = "sweep.yaml", start: Callable[..., Quick] | None = None
    ) -> tuple[list[int], Done]:
        executor = Quick()
        monkeypatch.setattr(training, "make_executor", start or (lambda *_: executor))
        (folder / "sweep.yaml").write_text(text)
        done = flaxcomp("run", what, "--executor", "inline", *options)
        return sorted(executor.seeds), done

    return call


Train = Callable[..., tuple[list[int], Done]]


def networks(folder: Path) -> dict[int, set[str]]:
    """What is left of each trial's networks, by its seed."""
    paths = RunPaths.at(folder / "runs" / "study")
    with Store.open(paths) as store:
        seeds = {row["trial"]: row["seed"] for row in store.frame().trials}
    return {seed: {path.name for path in paths.trial(trial).glob("*")} for trial, seed in seeds.items()}


def remove_networks(folder: Path) -> None:
    for network in (folder / "runs" / "study" / "trials").glob("*/*"):
        shutil.rmtree(network)


def test_a_second_controller_is_refused_while_the_first_starts_up(
    train: Train, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "LEASE_TTL_S", 0.4)
    refusals: list[UserError] = []

    def start(*_: object) -> Quick:
        time.sleep(1.0)
        with Store.open(RunPaths.at(folder / "runs" / "study")) as store, pytest.raises(UserError) as refused:
            store.acquire(host="elsewhere", pid=1)
        refusals.append(refused.value)
        return Quick()

    train(SWEEP, "--train-only", start=start)
    assert "A controller is at work on this run" in str(refusals[0])


def test_the_best_so_far_may_be_of_an_earlier_start(train: Train) -> None:
    train(SWEEP.replace("[0, 4]", "[1, 4]"), "--train-only")
    seeds, done = train(SWEEP, "--train-only")
    assert seeds == [0]
    assert done.err.splitlines()[-1].endswith("finished; 4/4 trials, best val_accuracy 0.3000 (simplenet_v5 seed=3)")


def test_what_a_changed_export_selects_is_trained_again_if_it_is_gone(train: Train, folder: Path) -> None:
    assert train(SWEEP, "--train-only")[0] == [0, 1, 2, 3]
    remove_networks(folder)
    seeds, done = train(SWEEP, "--train-only")
    assert seeds == [], "nobody needs them"
    assert "nothing is left to train" in done.err
    seeds, done = train(SWEEP + EXPORT, "--train-only")
    assert seeds == [3], "the best one"
    assert "1 networks that are to be exported are gone and are trained again" in done.err
    assert train(SWEEP + EXPORT.replace("'best:1'", "all"), "--train-only")[0] == [0, 1, 2]
    assert all("model" in left for left in networks(folder).values())


def test_a_gone_network_that_has_been_exported_is_not_missed(train: Train, folder: Path) -> None:
    train(SWEEP, "--train-only")
    remove_networks(folder)
    paths = RunPaths.at(folder / "runs" / "study")
    with Store.open(paths) as store:
        lease = store.acquire(host="here", pid=1)
        best = store.best("val_accuracy", largest=True)
        assert best is not None
        for precision in ("float32", "float16", "dynamic", "int8"):
            images = 200 if precision == "int8" else None
            store.add_artifact(lease, {"trial": best["trial"], "artifact": "a" * 64, "precision": precision, "format": "tflite",
                                       "calibration_images": images})  # fmt: skip
        store.release(lease)
    paths.artifacts.mkdir()
    paths.artifact("a" * 64, "tflite").touch()
    assert train(SWEEP + EXPORT, "--train-only")[0] == []
    paths.artifact("a" * 64, "tflite").unlink()
    assert train(SWEEP + EXPORT, "--train-only")[0] == [3]


def test_a_lowered_total_counts_on_a_finished_sweep(train: Train, folder: Path) -> None:
    train(SWEEP, "--train-only")
    assert all(left == {"model", "best"} for left in networks(folder).values())
    seeds, done = train(SWEEP + EXPORT + "retention: {total: 1 KiB, keep: [latest]}\n", "--train-only")
    assert seeds == []
    assert "after 3 files and networks of 1.4 MiB were removed" in done.err
    assert networks(folder) == {0: {"model"}, 1: {"model"}, 2: {"model"}, 3: {"model", "best"}}


def test_a_failed_export_does_not_keep_the_rest_from_being_measured_and_reported(
    train: Train, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken(**_: object) -> None:
        raise UserError("one network cannot be read")

    monkeypatch.setattr(export, "command", broken)
    (folder / "pool.yaml").write_text("devices: [{name: here, transport: local}]")
    _, done = train(SWEEP + EXPORT + "benchmark: {pool: pool.yaml, protocol: quick}\n")
    assert done.code == 2
    assert "no TFLite files: run `flaxcomp export`" in done.err
    assert "0 figures measured" in done.err
    assert done.err.splitlines()[-1] == "error: one network cannot be read"
    assert (folder / "runs" / "study" / "report" / "index.html").is_file()


def test_a_run_folder_stands_for_its_sweep_overrides_and_pool(train: Train, flaxcomp: Program, folder: Path) -> None:
    (folder / "pools").mkdir()
    (folder / "pools" / "pool.yaml").write_text("devices: [{name: here, transport: local}]")
    text = SWEEP + EXPORT + "benchmark: {pool: pools/pool.yaml, protocol: quick}\n"
    assert train(text, "--train-only", "--set", "seed=1,2", "--set", "train.epochs=3")[0] == [1, 2]
    run = folder / "runs" / "study"
    assert (run / "sweep.yaml").read_text() == text
    assert json.loads((run / "overrides.json").read_text()) == ["seed=1,2", "train.epochs=3"]
    shutil.rmtree(folder / "pools")
    assert json.loads(flaxcomp("plan", "runs/study", "--json").out)["trials"] == 2
    assert train(text, "--train-only", what="runs/study")[0] == []
    assert train(text, "--train-only", "--set", "seed=1,2,3", what="runs/study")[0] == [3]
    assert json.loads((run / "overrides.json").read_text()) == ["train.epochs=3", "seed=1,2,3"]
    assert "there is no device pool pools/pool.yaml" in train(text, "--train-only")[1].err, "a sweep file is taken at its word"
    assert flaxcomp("bench", run, "--protocol", "quick").code == 0
    assert train(text.replace("benchmark", "# benchmark"), "--train-only")[0] == [0, 1, 2, 3]
    assert not (run / "overrides.json").exists()


def work_of(*models: str) -> dict[str, float | None]:
    trials = [Trial(name, TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": name}), (), "trial", name)
              for name in models]  # fmt: skip
    with Work(trials) as work:
        deadline = time.monotonic() + 400  # the process that counts is the last to be served on a busy machine
        while work(models[0]) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return {name: work(name) for name in models}


def test_a_run_folder_has_the_files_that_its_sweep_names(
    train: Train, flaxcomp: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed from anywhere, with the same trials, when those files are gone."""
    np.savez(folder / "given.npz", kernel=np.zeros(3, np.float32))
    (folder / "names.yaml").write_text("logits: fc\n")
    sweep = SWEEP.replace("simplenet_v5}", "simplenet_v5}\n  train: {init_from: {file: given.npz, names: names.yaml}}")
    assert train(sweep, "--train-only")[0] == [0, 1, 2, 3]
    for name in ("given.npz", "names.yaml", "sweep.yaml"):
        (folder / name).unlink()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    done = flaxcomp("run", folder / "runs" / "study", "--executor", "inline", "--train-only")
    assert (done.code, done.err) == (0, "4 trials; nothing is left to train\n")


def test_work_is_counted_by_a_process_of_its_own() -> None:
    found = work_of("simplenet_v5", "simplenet_lm")
    assert found["simplenet_lm"] > 10 * found["simplenet_v5"] > 0  # type: ignore[operator]


def test_where_work_cannot_be_counted_all_trials_count_alike() -> None:
    assert work_of("simplenet_v5", "no_such_network") == {"simplenet_v5": 1.0, "no_such_network": 1.0}
    assert work_of("one_kind_alone") == {"one_kind_alone": 1.0}


def test_counting_ends_with_the_run() -> None:
    trials = [Trial(n, TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": n}), (), "trial", n) for n in "ab"]
    with Work(trials) as work:
        process = work._process
        assert process is not None
    assert process.returncode is not None
