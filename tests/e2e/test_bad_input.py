"""Bad input and bad luck: a line or a few that say what is wrong, exit code 2, nothing lost, nothing half-made."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.spec import Metric, Sweep
from parts import require
from runs import assert_same_networks, figures, flaxcomp, frame, kill_group, start

pytestmark = pytest.mark.e2e

SWEEP = """\
version: 1
name: bad
base:
  dataset: {name: mnist_sample, train_limit: 1024}
  model: {name: simplenet_v5}
  train: {epochs: 8, batch_size: 64}
parameters:
  seed: {range: [0, 2]}
"""
TRAIN = ("--executor", "inline", "--train-only")
CYCLE = """\
teachers:
  ada: {model: {name: simplenet_v1}, distill: {teacher: bea}}
  bea: {model: {name: simplenet_v2}, distill: {teacher: ada}}
"""


def refused(*arguments: str | Path, cwd: Path, lines: int = 1, **environment: str) -> str:
    """Run `flaxcomp ARGUMENTS`, which must end with 2, say nothing but the fault, and leave every file in `cwd` as it was."""
    before = contents(cwd)
    done = flaxcomp(*arguments, cwd=cwd, check=False, **environment)
    said = done.stderr.strip()
    assert done.returncode == 2, f"{done.returncode}: {done.stdout}{said}"
    assert "Traceback" not in said
    assert len(said.splitlines()) <= lines, said
    assert done.stdout == ""
    assert contents(cwd) == before
    return said


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def write(folder: Path, text: str = SWEEP, old: str = "", new: str = "", name: str = "sweep.yaml") -> Path:
    assert old in text
    file = folder / name
    file.write_text(text.replace(old, new) if old else text)
    return file


# What a sweep file says.


@pytest.mark.parametrize("command", [("plan",), ("run", *TRAIN, "--out", "run")], ids=["plan", "run"])
@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        pytest.param("epochs", "epcohs", 6, "unknown key 'epcohs' in train. Did you mean 'epochs'?", id="unknown key"),
        pytest.param("epochs: 8", "epochs: many", 6, "train.epochs must be an integer >= 1", id="wrong type"),
        pytest.param("batch_size: 64", "batch_size: 923", 6, "train.batch_size must be at most 922, the images of mnist_sample",
                     id="batch beyond the images"),
        pytest.param("1024", "12001", 4, "dataset.train_limit must be at most 12000", id="limit beyond the images"),
        pytest.param("64}", "64, schedule: {name: multi_step}}", 6, "multi_step needs `milestones`", id="no milestones"),
        pytest.param("range: [0, 2]", "values: []", 8, "seed: values must be a list of one value or more", id="empty values"),
        pytest.param("range: [0, 2]", "range: [3, 3]", 8, "seed: the range [3, 3] is empty", id="empty range"),
        pytest.param("simplenet_v5", "simplnet_v5", 5, "'simplnet_v5'. Did you mean 'simplenet_v5'?", id="unknown model"),
        pytest.param("mnist_sample", "mnist_smple", 4, "'mnist_smple'. Did you mean 'mnist_sample'?", id="unknown data"),
        pytest.param("[0, 2]", "[0, 1000000000]", 7, "1,000,000,000 points, more than 100,000; if that is meant, say --yes",
                     id="billion points"),
        pytest.param("parameters:", CYCLE + "parameters:", 9, "in a circle: ada -> bea -> ada", id="teacher cycle"),
        pytest.param("seed:", "seed: [", 9, "not valid YAML", id="broken YAML"),
        pytest.param(SWEEP, "- one\n- two\n", 1, "must be a mapping that starts with `version: 1`, got ['one', 'two']",
                     id="no mapping"),
        pytest.param(SWEEP, "", 1, "must be a mapping that starts with `version: 1`, got null", id="nothing"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_file(tmp_path: Path, command: Sequence[str], old: str, new: str, line: int, words: str) -> None:
    write(tmp_path, old=old, new=new)
    said = refused(*command, "sweep.yaml", cwd=tmp_path)
    assert said.startswith(f"error: sweep.yaml:{line}: ")
    assert words in said


def test_no_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    assert refused("run", "nothing", cwd=tmp_path) == "error: nothing: cannot read the sweep file: No such file or directory"
    assert refused("run", "folder", cwd=tmp_path) == "error: folder: cannot read the sweep file: Is a directory"
    assert refused("run", "binary", cwd=tmp_path) == "error: binary:2: a sweep file must be UTF-8 text"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param("prune: {ratio: 0.99}", "prune.ratio must be at most 0.5 of the channels of simplenet_v5, got 0.99",
                     id="last channel"),
        pytest.param("prune: {criterion: batch_norm_scale}", "batch_norm_scale needs batch norm", id="no batch norm"),
        pytest.param("netadapt: {of: latency, costs: table.yaml}", "cost table table.yaml has no entry for layer",
                     id="no such layer"),
    ],
)  # fmt: skip
def test_a_method_that_the_network_makes_impossible(tmp_path: Path, block: str, words: str) -> None:
    (tmp_path / "table.yaml").write_text("layers: {dense 10 -> 10: 0.1}\n")
    write(tmp_path, old="parameters:", new=f"  {block}\nparameters:")
    assert words in refused("run", "sweep.yaml", *TRAIN, "--out", "run", cwd=tmp_path)


def test_a_sweep_file_of_five_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, SWEEP + "".join(f"# {n:01000d}\n" for n in range(5000)))
    assert file.stat().st_size > 5_000_000
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        assert "may have 1 MiB at most" in refused("run", file, cwd=tmp_path)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1


def test_a_large_grid_is_for_those_who_say_so(tmp_path: Path) -> None:
    write(tmp_path, old="[0, 2]", new="[0, 100001]")
    assert "100,001 points" in refused("plan", "sweep.yaml", cwd=tmp_path)
    assert '"trials": 100001' in flaxcomp("plan", "sweep.yaml", "--yes", "--json", cwd=tmp_path).stdout


# What the command line says.


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", "an override is PATH=VALUE"),
        ("=3", "an override is PATH=VALUE"),
        ("train..epochs=3", "an override is PATH=VALUE"),
        ("train.epochs=", "an override is PATH=VALUE"),
        ("train.epcohs=1", "unknown key 'epcohs' in train. Did you mean 'epochs'?"),
        ("train.epochs=few", "train.epochs must be an integer >= 1"),
        ("train.epochs=[1", "not valid YAML"),
        ("train.epochs={range: [0,", "not valid YAML"),
        ("name=../../elsewhere", "name must be text that matches"),
        ("resources.pack=0", "resources.pack must be an integer >= 1"),
        ("parameters=3", "name what is varied itself"),
    ],
)
def test_garbage_to_set(tmp_path: Path, override: str, words: str) -> None:
    write(tmp_path)
    said = refused("run", "sweep.yaml", *TRAIN, "--set", override, cwd=tmp_path)
    assert said.startswith(f"error: --set {override}: "), "no line number: the argument has none"
    assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "sweep.yaml", "--ouT", "x"), "No such option '--ouT'"),
        (("run",), "Missing argument 'SWEEP'"),
        (("run", "sweep.yaml", "--executor", "slurm"), "'slurm' is not one of 'ray', 'inline'"),
        (("rnu", "sweep.yaml"), "No such command 'rnu'. Did you mean 'run'?"),
        (("results", "run", "--format", "xml"), "'xml' is not one of 'table', 'csv', 'json', 'parquet'"),
        (("--verbos",), "No such option '--verbos'"),
    ],
)
def test_unknown_commands_and_options(tmp_path: Path, arguments: Sequence[str], words: str) -> None:
    write(tmp_path)
    assert words in refused(*arguments, cwd=tmp_path, lines=4)


def test_a_store_that_is_none(tmp_path: Path) -> None:
    write(tmp_path)
    said = refused("run", "sweep.yaml", *TRAIN, "--out", "a/run", "--store", "mysql://host/records", cwd=tmp_path)
    assert "must be a postgresql:// URL, got mysql://" in said
    said = refused("run", "sweep.yaml", *TRAIN, "--out", "a/run", "--store", "records", cwd=tmp_path)
    assert "must be a URL such as postgresql://" in said


# What is missing.


def test_data_that_is_not_prepared(tmp_path: Path) -> None:
    write(tmp_path, old="mnist_sample", new="mnist")
    (tmp_path / "data").mkdir()
    said = refused("run", "sweep.yaml", *TRAIN, "--out", "run", cwd=tmp_path, FLAXCOMP_DATA=str(tmp_path / "data"))
    assert said.endswith("Run: flaxcomp data prepare mnist")


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (None, "there is no device pool pool.yaml"),
        ("devices: [{name: board, transport: teleport}]", "unknown transport 'teleport'"),
        ("devices: [{name: board, transport: emulated, cpu: cortex-a99}]", "cortex-a53"),
        ("devices: [{name: board, transport: emulated, borad: pi}]", "has no option 'borad'"),
        ("devices: []", "at least one device"),
        ("devices: [", "pool.yaml:1: not a readable device pool"),
    ],
)
def test_a_device_that_is_not_there_is_missed_before_training(tmp_path: Path, pool: str | None, words: str) -> None:
    write(tmp_path, old="parameters:", new="export: {}\nbenchmark: {pool: pool.yaml, protocol: quick}\nparameters:")
    if pool is not None:
        write(tmp_path, pool, name="pool.yaml")
    assert words in refused("run", "sweep.yaml", "--executor", "inline", "--out", "run", cwd=tmp_path)


def test_an_unknown_protocol_is_missed_before_training(tmp_path: Path) -> None:
    write(tmp_path, old="parameters:", new="export: {}\nbenchmark: {pool: pool.yaml, protocol: quik}\nparameters:")
    write(tmp_path, "devices: [{name: here, transport: local}]", name="pool.yaml")
    said = refused("run", "sweep.yaml", "--executor", "inline", "--out", "run", cwd=tmp_path)
    assert "'quik'" in said
    assert "quick" in said.replace("'quik'", "")


@pytest.mark.parametrize("command", ["status", "results", "front", "report", "export", "bench", "stop", "retry"])
def test_a_run_that_is_not_there(tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    assert "is not a folder" in refused(command, "nothing", cwd=tmp_path)
    assert "is not a run folder: it has no run.json" in refused(command, "empty", cwd=tmp_path)


# Run folders.


def make_run(root: Path, name: str = "bad") -> RunPaths:
    """A run of which nothing is known yet."""
    paths = RunPaths.at(root)
    sweep = Sweep(version=1, name=name, base={}, metrics=(Metric(name="val_accuracy", goal="maximize"),))
    Store.create(paths, name=name, sweep_text=SWEEP, sweep_json=msgspec.json.encode(sweep)).close()
    return paths


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "a file", name="file")
    said = refused("run", "sweep.yaml", *TRAIN, "--out", "file/run", cwd=tmp_path)
    assert said == f"error: the run folder {tmp_path}/file/run must be writable: Not a directory. Choose another with --out."
    said = refused("run", "sweep.yaml", *TRAIN, "--out", "/proc/run", cwd=tmp_path)
    assert said.startswith("error: the run folder /proc/run must be writable: ")


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    write(tmp_path, "a file", name="file")
    assert refused("results", "run", "--output", "file/results.csv", cwd=tmp_path).startswith("error: ")
    assert "see --out" in refused("report", "run", "--out", "file/report", cwd=tmp_path)


def test_the_run_folder_of_another_sweep(tmp_path: Path) -> None:
    write(tmp_path)
    make_run(tmp_path / "run", "another")
    said = refused("run", "sweep.yaml", *TRAIN, "--out", "run", cwd=tmp_path)
    assert "holds a run of the sweep 'another', got 'bad': give each sweep a folder of its own" in said


def test_a_store_of_a_newer_flaxcomp(tmp_path: Path) -> None:
    write(tmp_path)
    paths = make_run(tmp_path / "run")
    records = sqlite3.connect(paths.sqlite_file)
    records.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    records.commit()
    records.close()
    for command in ("status", "results", "front", "report", "export", "bench", "stop", "retry"):
        said = refused(command, "run", cwd=tmp_path)
        assert "has schema version 99" in said
        assert "written by a newer flaxcomp; install that one" in said
    done = flaxcomp("run", "sweep.yaml", *TRAIN, "--out", "run", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "written by a newer flaxcomp; install that one" in done.stderr
    assert sqlite3.connect(paths.sqlite_file).execute("SELECT count(*) FROM trials").fetchall() == [(0,)]


def test_a_damaged_store(tmp_path: Path) -> None:
    write(tmp_path)
    paths = make_run(tmp_path / "run")
    paths.sqlite_file.write_bytes(b"no database" * 500)
    for command in (("status",), ("results",), ("run", "sweep.yaml", *TRAIN, "--out")):
        assert "store.sqlite is damaged or not a store of flaxcomp" in refused(*command, "run", cwd=tmp_path)
    paths.run_file.write_text("{")
    assert "run.json is damaged" in refused("status", "run", cwd=tmp_path)


# Bad luck while training.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's run if nothing goes wrong."""
    folder = tmp_path_factory.mktemp("whole")
    flaxcomp("run", write(folder), *TRAIN, "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    mounted = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode == 0
    require(mounted, "the right to mount a tmpfs: run as root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


@pytest.mark.parametrize("size", ["128k", "1m"], ids=["too small for the records", "too small for a checkpoint"])
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(disk: Path, tmp_path: Path, whole: Path, size: str) -> None:
    command = ("run", write(tmp_path), *TRAIN, "--out", disk / "run")
    remount(disk, f"size={size}")
    full = flaxcomp(*command, check=False)
    assert full.returncode == 2, full.stderr
    assert "No space left" in full.stderr.splitlines()[-1]
    assert "same command again" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    remount(disk, "size=64m")
    if size == "1m":
        assert [row["status"] for row in frame(disk / "run").trials] == ["pending"] * 2
    flaxcomp(*command)
    assert figures(disk / "run") == figures(whole)
    assert_same_networks(whole, disk / "run")


def test_a_read_only_disk_is_read_and_not_written(disk: Path, tmp_path: Path) -> None:
    write(tmp_path)
    make_run(disk / "run")
    remount(disk, "ro")
    said = refused("run", "sweep.yaml", *TRAIN, "--out", disk / "run", cwd=tmp_path)
    assert "must be writable: Read-only file system" in said
    assert "Read-only file system; see --out" in refused("report", disk / "run", cwd=tmp_path)
    assert flaxcomp("status", disk / "run").stdout.startswith("bad: 0 of 0 trials finished")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, whole: Path) -> None:
    command, run = ("run", write(tmp_path), *TRAIN, "--out", tmp_path / "run"), tmp_path / "run"
    process = start(*command, log=tmp_path / "log")
    deadline = time.monotonic() + 120
    while len(checkpoints(run)) < 2:
        time.sleep(0.01)
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
    kill_group(process)
    *_, newest = checkpoints(run)
    file = max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert all(row["status"] != "finished" for row in frame(run).trials), "the kill came too late"
    again = flaxcomp(*command)
    assert f"checkpoint {newest.name} is damaged" in again.stderr
    assert "going back to the one before" in again.stderr
    assert "Traceback" not in again.stderr
    assert figures(run) == figures(whole)
    assert_same_networks(whole, run)


def checkpoints(run: Path) -> list[Path]:
    """Those that are complete, oldest first."""
    return sorted((p for p in run.glob("packs/*/*/*") if p.name.isdigit()), key=lambda p: int(p.name))


def test_a_second_controller_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    command = ("run", write(tmp_path), *TRAIN, "--set", "train.epochs=100000", "--out", tmp_path / "run")
    process = start(*command, log=tmp_path / "log")
    try:
        epochs_past(tmp_path / "run", 0, process)
        second = flaxcomp(*command, check=False)
        assert second.returncode == 2
        assert f"A controller is at work on this run: process {process.pid} on " in second.stderr
        assert len(second.stderr.splitlines()) == 1
        epochs_past(tmp_path / "run", len(frame(tmp_path / "run").epochs), process)
        flaxcomp("stop", tmp_path / "run", "--wait")
        assert process.wait(timeout=60) == 130
    finally:
        if process.poll() is None:
            kill_group(process)
    log = (tmp_path / "log").read_text()
    assert "failed" not in log
    assert log.splitlines()[-1] == "Stopped with 0 of 2 trials finished. The same command goes on from here."
    assert [row["status"] for row in frame(tmp_path / "run").trials] == ["pending"] * 2


def epochs_past(run: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a run has recorded more than `count` epochs."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            if len(frame(run).epochs) > count:
                return
        except UserError:  # the run is being created
            pass
        time.sleep(0.1)
