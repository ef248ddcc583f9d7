"""What reads a run answers at once, without the packages that train, and on a machine that has none of them."""

import os
import resource
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Dataset, Distill, Metric, Sweep, Train, TrialConfig
from flaxcomp.sweep.trial import Trial
from runs import PROGRAM

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TRIALS, EPOCHS, MEASURED = 500, 20, 100
HEAVY = {"jax", "jaxlib", "flax", "tensorflow", "ray", "orbax"}
QUICK_S = 0.5
TRIES = 5
READING = (
    ("status",),
    ("status", "--json"),
    ("results",),
    ("results", "--format", "csv"),
    ("results", "--format", "json"),
    ("results", "--measurements"),
    ("front",),
    ("front", "--metrics", "val_accuracy:max,latency_ms:min,size_bytes:min"),
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 500 finished trials of 20 epochs; 100 of them exported at four precisions and measured."""
    paths = RunPaths.at(tmp_path_factory.mktemp("light") / "run")
    metrics = (Metric(name="val_accuracy", goal="maximize"), Metric(name="params", goal="minimize"))
    sweep = msgspec.json.encode(Sweep(version=1, name="light", base={}, metrics=metrics))
    with Store.create(paths, name="light", sweep_text="", sweep_json=sweep) as store:
        lease = store.acquire(host="elsewhere", pid=1)
        with store.batch(lease):
            trials = [trial(number) for number in range(TRIALS)]
            store.add_trials(lease, trials)
            for first in range(0, TRIALS, 25):
                members = trials[first : first + 25]
                pack = Pack(f"pack{first}", tuple(t.id for t in members), "same")
                store.form_packs(lease, [pack])
                attempt = store.start_pack(lease, pack.id, "worker")
                store.progress(lease, pack.id, attempt, [epoch(t, e) for t in members for e in range(1, EPOCHS + 1)])
                store.finish_pack(lease, pack.id, attempt, {t.id: result(int(t.id, 16)) for t in members})
            for number in range(MEASURED):
                for precision in ("float32", "float16", "dynamic", "int8"):
                    file = {"trial": trials[number].id, "artifact": f"{number:032x}{precision:0>32}", "precision": precision,
                            "size_bytes": 2000 + 7 * number, "accuracy": 0.9, "accuracy_drop": 0.001}  # fmt: skip
                    store.add_artifact(lease, {**file, "format": "tflite", "flagged": False})
                    latency = 1 + number / 100
                    store.add_measurement(lease, {**file, "device": "board", "device_model": "a board", "emulated": False,
                                                  "latency_ms": latency, "latency_ci_low": 0.9 * latency,
                                                  "latency_ci_high": 1.1 * latency, "peak_memory_bytes": 1 << 22,
                                                  "protocol": "standard", "threads": 1, "runtime": "tflite",
                                                  "samples_ms": [[latency] * 50] * 10})  # fmt: skip
        store.release(lease)
    return paths.root


def trial(number: int) -> Trial:
    model = {"name": f"simplenet_v{1 + number % 5}"}
    distill = Distill(teacher="teacher", temperature=float(1 + number % 10))
    config = TrialConfig(dataset=Dataset(name="mnist"), model=model, train=Train(epochs=EPOCHS), distill=distill, seed=number)
    return Trial(f"{number:016x}", config, (), "trial", "same")


def epoch(trial: Trial, number: int) -> dict[str, object]:
    return {"trial": trial.id, "epoch": number, "train_loss": 1 / number, "val_loss": 1.1 / number,
            "val_accuracy": 1 - 0.5 / number, "learning_rate": 1e-3, "images_per_second": 5e4}  # fmt: skip


def result(number: int) -> dict[str, object]:
    accuracy = 0.9 + number % 97 / 1000
    return {"params": 3000 + number % 7 * 500, "trainable_params": 3000, "macs": 10**6, "test_accuracy": accuracy,
            "test_precision": accuracy, "test_recall": accuracy, "test_f1": accuracy, "val_accuracy": accuracy,
            "train_seconds": 2.5, "confusion_matrix": [[10 * (i == j) for j in range(10)] for i in range(10)]}  # fmt: skip


class Took(NamedTuple):
    """Seconds on the clock, and of the processor."""

    wall: float
    cpu: float


def took(command: Sequence[str | Path]) -> Took:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def assert_quick(command: Sequence[str | Path], limit_s: float = QUICK_S) -> None:
    """The best of some tries is quick; on a machine that others keep busy, what it needs of the processor is little."""
    tries: list[Took] = []
    while len(tries) < TRIES:
        tries.append(took(command))
        if tries[-1].wall < limit_s:
            return
    assert min(t.cpu for t in tries) < limit_s, tries


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("plan", "sweeps/simplenet.yaml"), ("report", "--help"), ("run", "--help"), ("data", "list")],
    ids=" ".join,
)
def test_answers_at_once(arguments: Sequence[str]) -> None:
    assert_quick([*PROGRAM, *arguments])


@pytest.mark.parametrize("arguments", [*READING, ("results", "--format", "parquet", "--output", os.devnull)], ids=" ".join)
def test_reads_a_large_run_at_once(run: Path, arguments: Sequence[str], tmp_path: Path) -> None:
    limit_s = QUICK_S
    if os.devnull in arguments:
        arguments = [*arguments[:-1], str(tmp_path / "results.parquet")]
        limit_s = 2.0  # pyarrow, which imports pandas where that is installed
    command, *options = arguments
    assert_quick([*PROGRAM, command, run, *options], limit_s)


def test_a_report_is_imported_at_once_and_written_in_seconds(run: Path, tmp_path: Path) -> None:
    assert_quick([sys.executable, "-c", "import flaxcomp.cli.commands.report, flaxcomp.report.write"])
    assert took([*PROGRAM, "report", run, "--out", tmp_path / "report"]).cpu < 5
    assert (tmp_path / "report" / "index.html").stat().st_size > 100_000


# Without the packages that train.


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every Python that is started from now on leaves the names of the modules that it has imported."""
    (tmp_path / "recorder").mkdir()
    (tmp_path / "recorder" / "sitecustomize.py").write_text(
        "import atexit, os, sys\natexit.register(lambda: open(os.environ['IMPORTED'], 'w').write('\\n'.join(sys.modules)))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "recorder"))
    monkeypatch.setenv("IMPORTED", str(tmp_path / "imported"))
    return tmp_path / "imported"


def test_imports_nothing_heavy(run: Path, imported: Path, tmp_path: Path) -> None:
    reading = [(command, str(run), *options) for command, *options in READING]
    for arguments in [("--help",), ("plan", "sweeps/simplenet.yaml"), ("run", "--help"), ("data", "list"), *reading,
                      ("results", str(run), "--format", "parquet", "--output", str(tmp_path / "results.parquet")),
                      ("report", str(run), "--out", str(tmp_path / "report"))]:  # fmt: skip
        subprocess.run([*PROGRAM, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        modules = {line.split(".")[0] for line in imported.read_text().splitlines()}
        imported.unlink()
        assert "flaxcomp" in modules
        assert not modules & HEAVY, f"{arguments} imports {sorted(modules & HEAVY)}"


IMPORT_NAMES = {"ai-edge-litert": "ai_edge_litert", "orbax-checkpoint": "orbax", "pillow": "PIL",
                "tensorflow-cpu": "tensorflow", "tensorflow-datasets": "tensorflow_datasets"}  # fmt: skip


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python that is started from now on lacks what the extra `full` installs, and what that brings along."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["full"]
    names = [requirement.split(">=")[0].split("[")[0] for requirement in extra]
    missing = {IMPORT_NAMES.get(name, name) for name in names} | HEAVY | {"tensorstore", "pandas", "scipy"}
    assert missing > {"jax", "optax", "pyarrow", "PIL", "onnx"}
    (tmp_path / "laptop").mkdir()
    (tmp_path / "laptop" / "sitecustomize.py").write_text(
        f"import sys\nMISSING = {missing!r}\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in MISSING:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "laptop"))


def said(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("laptop")
def test_a_laptop_without_jax_reads_everything(run: Path, tmp_path: Path) -> None:
    for command, *options in READING:
        done = said(command, run, *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert said("report", run, "--format", "html", "--out", tmp_path / "report").returncode == 0
    assert (tmp_path / "report" / "index.html").exists()
    assert said("plan", "sweeps/simplenet.yaml").returncode == 0
    assert said("data", "show", "mnist_sample").returncode == 0
    assert said("schema").returncode == 0
    assert said("stop", run).stdout == "No controller is at work on this run.\n"
    assert said("retry", run).stdout == "No trial has failed.\n"


@pytest.mark.usefixtures("laptop")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "sweeps/quickstart.yaml", "--out"), "training needs the package jax: pip install 'flaxcomp[full]'"),
        (("run", "sweeps/quickstart.yaml", "--executor", "inline", "--out"), "training needs the package jax"),
        (("submit", "sweeps/simplenet.yaml", "--to", "launch/ray.yaml", "--out"), "submit needs the package ray"),
    ],
)
def test_a_laptop_without_jax_says_what_training_needs(tmp_path: Path, arguments: Sequence[str], words: str) -> None:
    done = said(*arguments, tmp_path / "run")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("laptop")
def test_a_laptop_without_jax_says_what_else_needs_it(run: Path) -> None:
    for arguments, words in (
        (("plan", "sweeps/simplenet.yaml", "--cost"), "--cost needs jax; install flaxcomp[full]"),
        (("export", run), "export needs the package jax: pip install 'flaxcomp[full]'"),
        (("results", run, "--format", "parquet", "--output", "nowhere"), "install flaxcomp[full] or pyarrow"),
        (("bench", run), "full"),
    ):
        done = said(*arguments)
        assert done.returncode == 2, (arguments, done)
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
