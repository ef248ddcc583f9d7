"""The README and the documents say what is true: commands, targets, keys, links."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from flaxcomp.cli.main import cli
from flaxcomp.sweep import spec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme_and_every_one_there_exists() -> None:
    mentioned = set(re.findall(r"`flaxcomp ([a-z]+)", README)) | {
        m
        for line in README.splitlines()
        if line.startswith("| `flaxcomp")
        for m in re.findall(r"`([a-z]+) (?:RUN|SWEEP|NAME)", line)
    }
    import click

    known = set(cli.list_commands(click.Context(cli)))
    assert known <= mentioned
    assert set(re.findall(r"`flaxcomp ([a-z]+)", README)) <= known


def test_commands_answer_help() -> None:
    import click

    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.get_short_help_str(), f"{name} does not say what it does"


def test_make_targets_in_the_readme_exist() -> None:
    targets = {a or b for a, b in re.findall(r"\$ make ([a-z-]+)|`make ([a-z-]+)", README)}
    assert {"demo", "test"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readmes_sweep_file_plans(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(version: 1.*?)```", README, re.S)
    assert block
    (tmp_path / "sweep.yaml").write_text(block[1])
    done = subprocess.run(
        [sys.executable, "-m", "flaxcomp.cli.main", "plan", "sweep.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "trials" in done.stdout


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda f: f.name)
def test_shipped_sweeps_plan_and_say_command_cost_and_result(file: Path) -> None:
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any(f"flaxcomp run sweeps/{file.name}" in line for line in head)
    assert any(line.startswith("# Cost:") for line in head)
    assert any(line.startswith("# Expected") for line in head)
    done = subprocess.run(
        [sys.executable, "-m", "flaxcomp.cli.main", "plan", str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    named = yaml.safe_load(file.read_text()).get("benchmark")
    assert named is None or (ROOT / named["pool"]).is_file()


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "RESULTS.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_every_key_of_a_sweep_file_is_documented() -> None:
    text = (ROOT / "docs" / "sweep-files.md").read_text()
    structs = [spec.Sweep, spec.Dataset, spec.Validation, spec.Train, spec.Optimizer, spec.Schedule, spec.Augment, spec.Distill,
               spec.Export, spec.Benchmark, spec.Resources, spec.Retry, spec.Metric, spec.EarlyStop, spec.Sampler]  # fmt: skip
    for struct in structs:
        for field in msgspec.structs.fields(struct):
            assert f"`{field.encode_name}`" in text, f"{struct.__name__}.{field.encode_name} is not in docs/sweep-files.md"


def test_nothing_names_a_registry_or_a_machine() -> None:
    """No host of a package registry and no absolute path of a machine, in any file that git would keep."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    hosts = re.compile(r"//(pypi|files\.pythonhosted|deb\.debian|registry\.npmjs)[./]|(?<![\w.])/(root|home|work)/")
    for name in files.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".png", ".tflite", ".gz", ".npz"} or not path.is_file() or path == Path(__file__):
            continue
        found = hosts.search(path.read_text(errors="replace"))
        assert not found, f"{name}: {found and found[0]}"
