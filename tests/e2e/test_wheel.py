"""The wheel alone, without the source tree, holds all that the program needs."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

import flaxcomp
from parts import require

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
Call = Callable[..., str]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Calls a program of a fresh environment with the wheel in it, from a folder far from the source tree."""
    uv = Path(sys.executable).with_name("uv")
    require(uv.exists() and importlib.util.find_spec("hatchling"), "uv and hatchling: install flaxcomp[dev]")
    folder = tmp_path_factory.mktemp("wheel")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: object, where: Path = folder, given: str = "") -> str:
        done = subprocess.run(
            [*map(str, command)], cwd=where, env=environment, input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(uv, "build", "--quiet", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable,
        "--out-dir", folder / "dist", where=ROOT)  # fmt: skip
    (wheel,) = (folder / "dist").glob("*.whl")
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel)
    # What the wheel depends on is taken from here; a .pth file in that folder, such as an editable install's, is not read.
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return lambda program, *arguments, given="": run(folder / "venv" / "bin" / program, *arguments, given=given)


def test_it_is_the_wheel_that_answers(call: Call) -> None:
    assert (
        call("python", "-c", "import flaxcomp; print(flaxcomp.__file__)")
        .strip()
        .endswith("/venv/lib/" + f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages/flaxcomp/__init__.py")
    )
    assert call("flaxcomp", "--version").strip() == f"flaxcomp, version {flaxcomp.__version__}"


def test_the_embedded_images_are_inside(call: Call) -> None:
    assert "12000 to train, 2000 to test, 28x28x1" in call("flaxcomp", "data", "show", "mnist_sample")
    load = "from flaxcomp.data.arrays import load; print(load('mnist_sample').train_images.shape)"
    assert call("python", "-c", load).strip() == "(12000, 28, 28, 1)"


def test_every_file_of_the_package_is_inside(call: Call) -> None:
    listing = "import flaxcomp, pathlib; root = pathlib.Path(flaxcomp.__file__).parent\n"
    listing += "print(*(f.relative_to(root) for f in root.rglob('*') if f.is_file()), sep='\\n')"
    inside = {line for line in call("python", "-c", listing).splitlines() if "__pycache__" not in line}
    source = {str(file.relative_to(ROOT / "flaxcomp")) for file in (ROOT / "flaxcomp").rglob("*") if file.is_file()}
    assert inside == {line for line in source if "__pycache__" not in line}
    assert {"py.typed", "devices/agent.py", "report/assets/page.js"} <= inside


def test_the_agent_of_the_devices_runs_by_itself(call: Call) -> None:
    where = "import importlib.resources; print(importlib.resources.files('flaxcomp.devices') / 'agent.py')"
    agent = call("python", "-c", where).strip()
    facts = json.loads(call("python", "-I", agent, given='{"task": "facts"}'))
    assert facts["machine"] == platform.machine()


def test_it_plans_a_sweep(call: Call) -> None:
    plan = call("flaxcomp", "plan", ROOT / "sweeps" / "quickstart.yaml", "--json")
    assert '"trials": 16' in plan
