"""The benchmarks' command lines: what they accept, and what they say where they cannot measure."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import cifar, export_speed, gpu, sides, steps, throughput
from benchmarks.gpu_parts import Packs, TimeTo94
from benchmarks.harness import UnequalError
from benchmarks.sides import LackingError, python_of
from flaxcomp.sweep.load import load_sweep

EVERY = (throughput, cifar, export_speed, gpu)


@pytest.mark.parametrize("module", EVERY)
def test_all_take_pairs_trials_and_epochs(module: Any) -> None:
    found = module.parse(["--pairs", "2", "--trials", "3", "--epochs", "4"])
    assert (found.pairs, found.trials, found.epochs) == (2, 3, 4)
    assert module.parse([]).pairs >= 5


@pytest.mark.parametrize("module", EVERY)
@pytest.mark.parametrize("option", ["--pairs", "--trials", "--epochs"])
def test_numbers_begin_at_one(module: Any, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.parse([option, "0"])
    assert ended.value.code == 2
    assert "must be 1 at least, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "trials"), [(throughput, 64), (cifar, 32), (export_speed, 20)])
def test_what_is_measured_by_default(module: Any, trials: int) -> None:
    assert module.parse([]).trials == trials


def test_peers_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.parse(["--peers", "optuna_torch,keras_fit"]).peers == ["optuna_torch", "keras_fit"]
    with pytest.raises(SystemExit):
        cifar.parse(["--peers", "keras_fit"])
    assert "no peer is called 'keras_fit'; there are ray_tune_flax, ray_tune_torch" in capsys.readouterr().err


def test_the_gpu_dry_run_says_what_it_would_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run", "--sizes", "1", "64", "--pairs", "7"])
    monkeypatch.setattr(gpu, "gpu", lambda: pytest.fail("a dry run must not look for a GPU"))
    gpu.main()
    said = capsys.readouterr().out
    for expected in ("simplenet_v1: 7 rounds", "packs of 1, 64:", "wanted: 12 times serial JAX at the best pack, 5 times",
                     "mobilenet_v1", "resnet20", "wrn_40_2", "resnet18, images of 224", "time to 94 %", "torch_compiled.py",
                     "sweeps/simplenet.yaml", "nvidia-cuda-mps-control"):  # fmt: skip
        assert expected in said


def test_the_dry_run_of_a_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run", "--parts", "sweep"])
    gpu.main()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_without_a_gpu_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--results", str(tmp_path)])
    monkeypatch.setattr(gpu, "gpu", lambda: None)
    with pytest.raises(SystemExit, match="JAX sees no GPU here: nothing was run"):
        gpu.main()
    assert list(tmp_path.iterdir()) == []


def test_packs_compare_with_the_serial_side_round_by_round() -> None:
    (part, *_) = gpu.make_parts(gpu.parse(["--models", "resnet20", "--sizes", "8"]))
    assert isinstance(part, Packs)
    assert len(part.task(8).points) == 8
    seconds = {"serial": [{"training": 6.0, "all": 8.0}, {"training": 4.0, "all": 9.0}],
               "pack 8": [{"training": 2.0, "all": 4.0}, {"training": 1.0, "all": 3.0}], "pack 64": []}  # fmt: skip
    assert part.ratios(seconds) == {"pack 8": {"training": [3.0, 4.0], "all": [2.0, 3.0]}}


def test_the_sweeps_of_benchmarks_are_sweep_files(tmp_path: Path) -> None:
    for text in (TimeTo94(1, 20).sweep(), export_speed.make_sweep(20, 1)):
        (tmp_path / "sweep.yaml").write_text(text)
        load_sweep(tmp_path / "sweep.yaml")
    names = json.loads(export_speed.make_sweep(20, 1))["parameters"]
    assert len(names["model.name"]["values"]) == 5
    assert names["seed"] == {"range": [0, 4]}


def artifacts(networks: int, **of_the_first: Any) -> list[dict[str, Any]]:
    rows = [{"artifact": "a", "flagged": False, "reason": None} for _ in range(4 * networks)]
    rows[0] |= of_the_first
    return rows


def test_exports_count_only_if_every_file_is_there_and_right() -> None:
    export_speed.check(artifacts(20), 20, ["tflite"])
    with pytest.raises(UnequalError, match="79 of 80 files were made"):
        export_speed.check(artifacts(20, artifact=None), 20, ["tflite"])
    with pytest.raises(UnequalError, match=r"1 of 80 files are flagged, one for: drop of 0\.2"):
        export_speed.check(artifacts(20, flagged=True, reason="drop of 0.2"), 20, ["tflite"])
    with pytest.raises(UnequalError, match="80 of 160 files were made"):
        export_speed.check(artifacts(20), 20, ["tflite", "onnx"])


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    monkeypatch.setattr(sides, "ROOT", tmp_path)
    monkeypatch.delenv("FLAXCOMP_BENCH_PYTHON", raising=False)
    monkeypatch.setitem(sides.NAMES, "lacking_own", ("Lacking", ("no_such_package_1", "torch")))
    monkeypatch.setitem(sides.NAMES, "lacking", ("Lacking", ("numpy", "no_such_package_2")))
    return python_of


def test_what_a_peer_lacks_is_said(nothing_installed: Callable[[str], str]) -> None:
    with pytest.raises(
        LackingError, match=r"Lacking needs numpy, no_such_package_2; .* does not find no_such_package_2: pip install"
    ):
        nothing_installed("lacking")
    with pytest.raises(LackingError, match=r"make \.venv-bench/\.installed"):
        nothing_installed("lacking_own")


def test_a_peer_without_packages_of_its_own_runs_with_this_interpreter() -> None:
    assert python_of("serial_flax") == sys.executable


def test_steps_of_a_network_are_measured_and_recorded(tmp_path: Path) -> None:
    done = CliRunner().invoke(steps.main, ["--networks", "simplenet_v1", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rate = json.loads((tmp_path / "steps.json").read_text())["simplenet_v1"]["images_per_second"]
    assert rate > 100
    assert f"| simplenet_v1 | {rate:,.0f} |" in done.output


def test_steps_of_an_unknown_network_are_refused() -> None:
    refused = CliRunner().invoke(steps.main, ["--networks", "simplenet_v1,resnet"])
    assert refused.exit_code == 2
    assert "no network 'resnet'; there are simplenet_v1" in refused.output
