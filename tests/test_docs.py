"""The README and the documents say what is true: commands, targets, keys, links."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from flaxcomp.cli.main import cli
from flaxcomp.models import registry
from flaxcomp.sweep import spec
from flaxcomp.sweep.check import struct_of
from flaxcomp.sweep.columns import RESULT_COLUMNS, TOP5_COLUMNS
from flaxcomp.sweep.compression import METHODS, figures_of
from flaxcomp.sweep.compression.cramnet import SubProblems

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


def _commands(document: Path) -> Iterator[str]:
    """The calls of `flaxcomp` that a document shows on lines of their own, without what explains them."""
    text = document.read_text()
    if document.suffix == ".yaml":
        text = re.sub("^# ?", "", "".join(line for line in text.splitlines(keepends=True) if line.startswith("#")), flags=re.M)
    text = re.sub(r"\\\n\s*", "", text)
    for line in re.findall(r"^(?:\$|  ) *(flaxcomp [a-z].*)", text, re.M):
        yield from re.split(r" && |; ", re.split(r"  |\s#", line)[0])


def _told() -> list[tuple[str, str]]:
    documents = [ROOT / "README.md", ROOT / "RESULTS.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "launch").rglob("*.yaml"),
                 *(ROOT / "sweeps").glob("*.yaml")]  # fmt: skip
    return sorted({(str(document.relative_to(ROOT)), call) for document in documents for call in _commands(document)})


def test_commands_are_told_of() -> None:
    assert len(_told()) > 40


@pytest.mark.parametrize(("document", "call"), _told())
def test_every_command_that_is_told_takes_its_arguments(document: str, call: str) -> None:
    import click

    program, *words = shlex.split(call)
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, f"{document}: {call}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context(program, words)  # raises for what it does not take


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "RESULTS.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_every_key_of_a_sweep_file_is_documented() -> None:
    text = (ROOT / "docs" / "sweep-files.md").read_text()
    structs = [spec.Sweep, spec.Dataset, spec.Validation, spec.TrainForm, spec.Optimizer, spec.Schedule, spec.Augment,
               spec.Phase, spec.InitForm, spec.DistillForm, spec.Hint, spec.Compression, spec.Export, spec.Benchmark,
               spec.Resources, spec.Retry, spec.Retention, spec.Metric, spec.EarlyStop, spec.Sampler,
               SubProblems]  # fmt: skip
    for struct in structs:
        for field in msgspec.structs.fields(struct):
            assert f"`{field.encode_name}`" in text, f"{struct.__name__}.{field.encode_name} is not in docs/sweep-files.md"


@pytest.mark.parametrize("method", METHODS)
def test_every_key_and_figure_of_a_method_is_in_its_section(method: str) -> None:
    text = (ROOT / "docs" / "sweep-files.md").read_text()
    common = re.findall(r"### Methods .*?(?=\n####)", text, re.S)[0]
    section = re.findall(rf"\n#### {method}\n.*?(?=\n###)", text, re.S)[0]
    kind = next(field.type for field in msgspec.structs.fields(spec.Compression) if field.name == method)
    struct = struct_of(kind)
    assert struct is not None
    for field in msgspec.structs.fields(struct):
        assert f"`{field.encode_name}`" in section + common, f"{method}.{field.encode_name} is not in docs/sweep-files.md"
    for figure in figures_of(method):
        assert figure in section, f"{figure} is not in docs/sweep-files.md"


def test_every_architecture_and_column_is_documented() -> None:
    text = (ROOT / "docs" / "sweep-files.md").read_text()
    for name in (*registry.names(), *RESULT_COLUMNS, *TOP5_COLUMNS):
        assert f"`{name}`" in text, f"{name} is not in docs/sweep-files.md"


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
