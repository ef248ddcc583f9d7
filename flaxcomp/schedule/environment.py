"""What a run was made with: written once into its folder."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import flaxcomp
from flaxcomp import durable
from flaxcomp.store.paths import RunPaths

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ray", "tensorflow-cpu", "tensorflow", "tensorflow-datasets",
             "tf2onnx", "ai-edge-litert", "numpy")  # fmt: skip
_FLAGS = ("XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")


def describe_environment(paths: RunPaths) -> None:
    """Append to the run's environment file what this start runs with; starts with equal ones share an entry."""
    entry = {"flaxcomp": flaxcomp.__version__, "python": sys.version.split()[0], "platform": platform.platform(),
             "cpu": _cpu_model(), "cores": os.cpu_count(), "packages": _versions(), "git": _git(),
             "flags": {name: os.environ[name] for name in _FLAGS if name in os.environ}}  # fmt: skip
    file = paths.environment_file
    entries = json.loads(file.read_text()) if file.exists() else []
    if entry not in entries:
        durable.write_text(file, json.dumps([*entries, entry], indent=1))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _git() -> dict[str, Any] | None:
    """Commit and difference of the source tree, if flaxcomp runs from one."""
    folder = Path(flaxcomp.__file__).parents[1]
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=20
        ).stdout

    return {"commit": git("rev-parse", "HEAD").strip(), "diff": git("diff", "HEAD", "--", "flaxcomp")[:200_000]}
