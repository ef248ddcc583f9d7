"""`flaxcomp bench` and `flaxcomp devices`, as a user calls them."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from boards import FLOAT32, INT8, MODELS, emulated_cache
from flaxcomp.cli.benchmarking import leased
from flaxcomp.cli.main import cli, main
from flaxcomp.devices.cache import locked
from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.spec import Benchmark, Sweep

SWEEP_JSON = msgspec.json.encode(Sweep(version=1, name="s", base={}))
LOCAL = "{name: here, transport: local}"
GONE = "{name: gone, transport: local, python: /no/such/python}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAXCOMP_CACHE", str(tmp_path / "cache"))


def pool(tmp_path: Path, *devices: str) -> str:
    path = tmp_path / "pool.yaml"
    path.write_text(f"devices: [{', '.join(devices)}]")
    return str(path)


def flaxcomp(*arguments: str) -> tuple[int, str, str]:
    """Return (exit code, standard output, standard error) as the program `flaxcomp` gives them."""
    result = CliRunner().invoke(cli, arguments)
    if isinstance(result.exception, UserError):
        return result.exception.exit_code, result.stdout, result.stderr + str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A run of two trials, each with a float32 and an int8 file; the sweep names no pool."""
    paths = RunPaths.at(tmp_path / "run")
    sweep = Sweep(version=1, name="study", base={})
    with (
        Store.create(paths, name="study", sweep_text="name: study\n", sweep_json=msgspec.json.encode(sweep)) as store,
        leased(store) as lease,
    ):
        for trial in ("aaaa", "bbbb"):
            for subject in (FLOAT32, INT8):
                row: dict[str, Any] = {"trial": trial, "artifact": subject.artifact, "precision": subject.precision}
                row |= {"format": "tflite", "size_bytes": subject.path.stat().st_size, "accuracy": 0.9, "accuracy_drop": 0.01}
                store.add_artifact(lease, row)
        store.add_artifact(lease, {"trial": "bbbb", "artifact": None, "precision": "float16", "format": "tflite"})
    paths.artifacts.mkdir(parents=True)
    for subject in (FLOAT32, INT8):
        shutil.copy(subject.path, paths.artifact(subject.artifact, "tflite"))
    return paths


def measurements(run: RunPaths) -> list[dict[str, Any]]:
    with Store.open(run) as store:
        return store.frame().measurements


def test_measures_a_run_once_and_records_it(run: RunPaths) -> None:
    code, out, err = flaxcomp("bench", str(run.root), "--protocol", "quick")
    assert (code, "4 figures measured, 0 were there before" in err) == (0, True)
    assert "protocol quick" in out
    assert "(1 process)" in out
    assert "EMULATED" not in out
    rows = measurements(run)
    assert {(row["trial"], row["precision"]) for row in rows} == {(t, p) for t in ("aaaa", "bbbb") for p in ("float32", "int8")}
    for row in rows:
        assert (row["accuracy"], row["emulated"], row["device"]) == (0.9, False, "local")  # accuracy is the file's
        assert len(row["samples_ms"]) == 1
    code, again, err = flaxcomp("bench", str(run.root), "--protocol", "quick")
    assert (code, "0 figures measured, 4 were there before" in err) == (0, True)
    assert again == out
    assert measurements(run) == rows


def test_a_selection_first_then_the_rest(run: RunPaths) -> None:
    assert flaxcomp("bench", str(run.root), "--protocol", "quick", "--trial", "aa", "--precision", "int8")[0] == 0
    assert [(row["trial"], row["precision"]) for row in measurements(run)] == [("aaaa", "int8")]
    assert "3 figures measured, 1 were there before" in flaxcomp("bench", str(run.root), "--protocol", "quick")[2]


def test_a_device_that_is_not_there_ends_with_2_and_loses_nothing(run: RunPaths, tmp_path: Path) -> None:
    code, out, err = flaxcomp("bench", str(run.root), "--protocol", "quick", "--pool", pool(tmp_path, GONE, LOCAL))
    assert code == 2
    assert "gone: device 'gone': python: '/no/such/python' is not a program" in err
    assert len(measurements(run)) == 4
    assert "here: " in out


def test_an_optional_device_may_be_missing(run: RunPaths, tmp_path: Path) -> None:
    gone = GONE.replace("}", ", optional: true}")
    code, _, err = flaxcomp("bench", str(run.root), "--protocol", "quick", "--pool", pool(tmp_path, gone, LOCAL))
    assert code == 0
    assert "left out: gone" in err


def test_the_demo_without_qemu_measures_here_and_says_how_to_add_the_board(
    run: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flaxcomp.devices import provision

    monkeypatch.setattr(provision, "qemu", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    demo = Path(__file__).parents[2] / "launch" / "devices" / "demo.yaml"
    code, _, err = flaxcomp("bench", str(run.root), "--protocol", "quick", "--pool", str(demo))
    assert code == 0
    assert "sudo apt-get install -y qemu-user-static && flaxcomp devices provision emulated" in err
    assert {row["device"] for row in measurements(run)} == {"this-machine"}


def test_a_name_that_meant_another_device_is_refused(run: RunPaths, tmp_path: Path) -> None:
    assert flaxcomp("bench", str(run.root), "--protocol", "quick", "--pool", pool(tmp_path, LOCAL))[0] == 0
    two = pool(tmp_path, LOCAL.replace("}", ", threads: 2}"))
    code, _, err = flaxcomp("bench", str(run.root), "--protocol", "quick", "--pool", two)
    assert code == 2
    assert "figures of 'here' with threads 1, which is 2 now; give the device another name" in err


def test_the_sweep_says_pool_and_protocol(tmp_path: Path, run: RunPaths) -> None:
    benchmark = Benchmark(pool=pool(tmp_path, LOCAL), protocol="quick")
    sweep = Sweep(version=1, name="study", base={}, benchmark=benchmark)
    with Store.open(run) as store, leased(store) as lease:
        store.update_sweep(lease, sweep_text="", sweep_json=msgspec.json.encode(sweep))
    assert flaxcomp("bench", str(run.root))[0] == 0
    assert {(row["device"], row["protocol"]) for row in measurements(run)} == {("here", "quick")}


def test_the_runs_own_copy_of_the_pool_is_found_from_anywhere(run: RunPaths) -> None:
    sweep = Sweep(version=1, name="study", base={}, benchmark=Benchmark(pool="pools/mine.yaml", protocol="quick"))
    with Store.open(run) as store, leased(store) as lease:
        store.update_sweep(lease, sweep_text="", sweep_json=msgspec.json.encode(sweep))
    assert "there is no device pool pools/mine.yaml" in flaxcomp("bench", str(run.root))[2]
    run.pool_file.write_text(f"devices: [{LOCAL}]")
    assert flaxcomp("bench", str(run.root), "--trial", "aa")[0] == 0
    assert {row["device"] for row in measurements(run)} == {"here"}


def test_nothing_to_measure_waits_for_no_device(run: RunPaths, tmp_path: Path) -> None:
    assert flaxcomp("bench", str(run.root), "--protocol", "quick", "--trial", "aa")[0] == 0
    with locked(tmp_path / "cache" / "locks" / "this-machine", lambda *_: None):
        code, _, err = flaxcomp("bench", str(run.root), "--protocol", "quick", "--trial", "aa")
        assert (code, "0 figures measured, 2 were there before" in err) == (0, True)
        with Store.create(RunPaths.at(tmp_path / "empty"), name="s", sweep_text="", sweep_json=SWEEP_JSON):
            pass
        code, _, err = flaxcomp("bench", str(tmp_path / "empty"), "--protocol", "quick")
        assert (code, "no TFLite files: run `flaxcomp export`" in err) == (0, True)
    assert (tmp_path / "cache" / "locks" / "this-machine").exists()


def test_a_controller_at_work_is_not_disturbed(run: RunPaths) -> None:
    with Store.open(run) as store, leased(store):
        code, _, err = flaxcomp("bench", str(run.root), "--protocol", "quick")
    assert code == 2
    assert "process" in err
    assert not measurements(run)


def test_loose_files() -> None:
    files = [str(MODELS / "float32.tflite"), str(MODELS / "int8.tflite")]
    code, out, _ = flaxcomp("bench", *files, "--protocol", "quick", "--format", "json")
    assert code == 0
    rows = json.loads(out)
    assert {row["trial"] for row in rows} == {"float32.tflite", "int8.tflite"}
    assert all(row["latency_ms"] > 0 and row["samples_ms"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "is not a folder"),
        (["missing.tflite"], "cannot read missing.tflite"),
        (["a.tflite", "run"], "either one run, or files"),
        (["one", "two"], "one run at a time"),
        (["RUN", "--protocol", "slow"], "unknown measurement protocol 'slow'"),
        (["RUN", "--pool", "missing.yaml"], "there is no device pool missing.yaml"),
        (["RUN", "--precision", "int4"], "no TFLite file of precision int4; it has: float32, int8"),
        (["RUN", "--trial", "cc"], "no trial whose id begins with 'cc'"),
    ],
)
def test_refuses(run: RunPaths, arguments: list[str], words: str) -> None:
    code, out, err = flaxcomp("bench", *(str(run.root) if word == "RUN" else word for word in arguments))
    assert (code, out) == (2, "")
    assert words in err


def test_a_file_that_is_no_model_ends_with_2_and_the_others_are_measured(tmp_path: Path) -> None:
    bad = tmp_path / "bad.tflite"
    bad.write_text("hello hello")
    code, out, err = flaxcomp("bench", str(bad), str(INT8.path), "--protocol", "quick")
    assert code == 2
    assert "int8.tflite" in out
    assert "bad.tflite is not a TFLite model" in err
    assert "this machine, for reference: 1 x bad_file" in err


def test_the_program_prints_one_error_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flaxcomp", "devices", "check", pool(tmp_path, GONE, LOCAL)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "gone: NOT READY" in said.out
    assert "here: ready: " in said.out
    assert said.err == "error: not ready: gone\n"


def test_lists_devices(tmp_path: Path) -> None:
    board = "{name: board, transport: emulated, cpu: cortex-a72, threads: 2}"
    code, out, _ = flaxcomp("devices", "list", pool(tmp_path, LOCAL, board))
    assert (code, out) == (0, "here local\nboard emulated cpu=cortex-a72 threads=2\n")


@pytest.mark.device
def test_emulated_figures_say_so_everywhere(run: RunPaths, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = emulated_cache(tmp_path_factory)
    board = f"{{name: board, transport: emulated, cpu: cortex-a72, cache: {json.dumps(str(cache))}}}"
    both = pool(tmp_path, board, LOCAL)
    assert "board: ready: EMULATED cortex-a72 (qemu), aarch64" in flaxcomp("devices", "check", both)[1]
    code, out, err = flaxcomp("bench", str(run.root), "--protocol", "quick", "--pool", both)
    assert (code, err.count("failed")) == (0, 0)
    real, emulated = out.split("board: ")
    assert "EMULATED" not in real  # a table of their own, so that nothing ranks them with real figures
    assert "EMULATED: the times are the emulator's" in emulated
    for row in measurements(run):
        assert row["emulated"] == (row["device"] == "board") == ("(qemu)" in row["device_model"])
        assert not row["output_flagged"]
