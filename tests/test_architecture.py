"""The walls between the rooms: who may import whom, and which packages have one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flaxcomp"

# What every room may look into. `sweep.spec` and `store.paths` are vocabulary: plain structs and file names.
EVERYBODY = {
    "flaxcomp.errors",
    "flaxcomp.durable",
    "flaxcomp.sweep.spec",
    "flaxcomp.sweep.kinds",
    "flaxcomp.sweep.compression",
    "flaxcomp.store.paths",
}
ARROWS = {
    "sweep": {"distill"},
    "store": {"sweep"},
    "data": set(),
    "models": set(),
    "distill": set(),
    "checkpoint": set(),
    "devices": set(),
    "train": {"data", "models", "distill", "checkpoint"},
    "compress": {"train", "models", "data", "checkpoint", "sweep"},
    "export": {"train", "models", "data", "store", "sweep", "compress"},  # how a training rounded is how its file rounds
    "schedule": {"sweep", "store", "data", "models", "train", "checkpoint", "compress"},
    "report": {"store", "sweep"},
}
ARROWS["cli"] = {*ARROWS}
HOMES = {  # a package and the only rooms that import it
    "ray": {"schedule"},
    "tensorflow": {"export"},
    "tf2onnx": {"export"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "ai_edge_quantizer": {"export"},
    "qwix": {"compress"},
    "orbax": {"checkpoint"},
    "tensorstore": {"checkpoint"},
    "sqlalchemy": {"store"},
    "tensorflow_datasets": {"data"},
    "vl_convert": {"report"},
    "click": {"cli"},
    "optuna": {"sweep"},
}
LIGHT = {"sweep", "store", "report", "devices"}  # no JAX, not even inside a function


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = _room(path)
    if not room:
        return
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "flaxcomp" or len(parts) < 2 or any(name == e or name.startswith(e + ".") for e in EVERYBODY):
            continue
        if not (PACKAGE / parts[1]).is_dir() or name in ("flaxcomp.sweep", "flaxcomp.store"):
            continue
        assert parts[1] == room or parts[1] in ARROWS[room], f"{room} may not import {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_have_one_home(path: Path) -> None:
    for name in _imports(path):
        package = name.split(".")[0]
        if package in HOMES:
            assert _room(path) in HOMES[package], f"{package} is imported in {_room(path) or path.name}"
        if package in ("jax", "flax"):
            assert _room(path) not in LIGHT, f"{_room(path)} imports {package}"


def test_every_room_is_on_the_map() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms == set(ARROWS)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 80, node.name
