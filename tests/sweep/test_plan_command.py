import json
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flaxcomp.cli.main import cli
from flaxcomp.sweep.schema import sweep_schema
from flaxcomp.sweep.spec import TrialConfig
from sweep_samples import HEAD

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"


def flaxcomp(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_schema_prints_the_schema() -> None:
    result = flaxcomp("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == sweep_schema()


def test_the_json_document() -> None:
    result = flaxcomp("plan", QUICKSTART, "--json", "--set", "seed=0,1", "--set", "resources.pack=4")
    document: dict[str, Any] = json.loads(result.stdout)
    signatures = document.pop("signatures")
    assert document == {
        "name": "quickstart",
        "file": str(QUICKSTART),
        "method": "grid",
        "points": 32,
        "excluded": 0,
        "repeated": 0,
        "trials": 32,
        "dependencies": 0,
        "unshared": 62,
        "packs": 11,
        "pack_size": 4,
        "workers": 1,
        "chains": [{"chain": ["simplenet_lm", f"simplenet_v{i}"], "trials": 6} for i in range(1, 6)],
    }
    assert [(one["trials"], one["packs"]) for one in signatures] == [(2, 1)] + [(6, 2)] * 5
    assert signatures[1]["differs"] == {"model.name": "simplenet_v1", "train.epochs": 10, "distill.loss": "soft_mse"}


def test_the_table_names_what_differs() -> None:
    lines = flaxcomp("plan", QUICKSTART).stdout.splitlines()
    assert lines[0].startswith("quickstart")
    assert ["trials", "16"] in [line.split() for line in lines]
    assert any("simplenet_v5" in line and "soft_mse" in line for line in lines)


CHAIN = """\
  distill: {loss: hinton, teacher: middle}
teachers:
  large: {model: {name: simplenet_lm}}
  middle: {model: {name: simplenet_v1, widths: [8, 8]}, distill: {loss: hinton, teacher: large}}
parameters:
  - {seed: {range: [0, 3]}}
  - {distill.teacher: {value: large}}
  - {distill.teacher: {value: [large, middle]}}
  - {distill: {value: null}}
"""


def test_a_plan_shows_chains_of_teachers_and_assistants(tmp_path: Path) -> None:
    sweep = tmp_path / "chain.yaml"
    sweep.write_text(HEAD.replace("{name: mnist}", "{name: mnist_sample}").replace("wide", "simplenet_v5") + CHAIN)
    result = flaxcomp("plan", sweep)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    large, middle, small = "simplenet_lm", "simplenet_v1 widths=[8,8]", "simplenet_v5"
    assert [line.split(maxsplit=1) for line in lines[lines.index("trained one after the other") + 1 :]] == [
        ["1", f"{large} > {small}"],
        ["3", f"{large} > {middle} > {small}"],
        ["1", f"({large} > {middle}) + {large} > {small}"],
    ]
    document = json.loads(flaxcomp("plan", sweep, "--json").stdout)
    assert (document["trials"], document["dependencies"]) == (6, 2), "shared ancestors are trained once"
    assert document["unshared"] == 15
    assert any(line.split()[:3] == ["trainings", "8", "15"] for line in lines)
    assert {"chain": [large, middle, small], "trials": 3} in document["chains"]


def test_cost_is_one_estimate_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def estimate(config: TrialConfig) -> Any:
        asked.append(config.model["name"])
        return types.SimpleNamespace(params=10, trainable_params=9, macs=100, step_flops=1000, seconds=90.0, disk_bytes=2048)

    module = types.ModuleType("flaxcomp.train.cost")
    module.estimate = estimate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flaxcomp.train.cost", module)
    document = json.loads(flaxcomp("plan", QUICKSTART, "--json", "--cost").stdout)
    assert sorted(asked) == ["simplenet_lm", *(f"simplenet_v{i}" for i in range(1, 6))]
    assert document["cost"] == {"seconds": 16 * 90.0, "disk_bytes": 16 * 2048}
    assert document["signatures"][0]["trainable_params"] == 9
    text = flaxcomp("plan", QUICKSTART, "--cost").stdout
    assert "24.0 min" in text
    assert "32.0 KiB" in text
    assert any("simplenet_v5" in line and "soft_mse" in line and "1.5 min" in line for line in text.splitlines())


def test_a_large_sweep_needs_yes(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD.replace("wide", "simplenet_v1") + "parameters: {seed: {range: [0, 100001]}}\n")
    result = flaxcomp("plan", path)
    assert "100,001 points" in str(result.exception)
    assert json.loads(flaxcomp("plan", path, "--yes", "--json").stdout)["trials"] == 100_001


def test_a_users_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD.replace("wide", "simplenet_v9"))
    done = subprocess.run(
        [sys.executable, "-m", "flaxcomp.cli.main", "plan", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {path}:5: ")
    assert done.stderr.count("\n") == 1
    assert "simplenet_v9" in done.stderr


@pytest.mark.parametrize("name", ["simplenet", "simplenet_short", "quickstart"])
def test_plan_is_quick_and_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys\n"
        "from flaxcomp.cli.main import cli\n"
        f"cli(['plan', {str(ROOT / 'sweeps' / f'{name}.yaml')!r}], standalone_mode=False)\n"
        "heavy = {'jax', 'flax', 'tensorflow', 'ray', 'orbax', 'pandas', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import resource\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 0.5
    assert time.monotonic() - started < 5  # the machine may be busy; processor time is what the line above measures
