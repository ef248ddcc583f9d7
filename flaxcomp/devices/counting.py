"""The counter of executed instructions: a plugin of QEMU's, compiled once for the emulator that is here."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flaxcomp import durable
from flaxcomp.devices import agent
from flaxcomp.devices.transports import Note

SOURCE = Path(__file__).parent / "emulator" / "count.c"
INSTALL = "apt-get install -y qemu-user gcc libc6-dev"


def plugin_options(cache: Path, note: Note) -> tuple[str, list[str]] | None:
    """Return an emulator that takes plugins and its options that load the counter, which is compiled now if it is missing.

    Whatever stands in the way is told to `note`, with what to do, and gives None.

    Args:
        cache: folder to keep the compiled plugin in; its name there is that of its source and the emulator's version.
    """
    emulator, compiler = _emulator(), shutil.which("cc") or shutil.which("gcc")
    if emulator is None or compiler is None:
        missing = "no qemu-aarch64 that takes plugins (the static one does not)" if emulator is None else "no C compiler"
        note(f"instructions are not counted: there is {missing}; sudo {INSTALL}")
        return None
    key = SOURCE.read_bytes() + _said([emulator, "--version"]).encode()
    plugin = cache / f"count-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if not plugin.exists() and (fault := _make(compiler, emulator, plugin)):
        note(f"instructions are not counted: {fault}")
        return None
    return emulator, _load(plugin)


def _emulator() -> str | None:
    found = (shutil.which(name) for name in ("qemu-aarch64", "qemu-aarch64-static"))
    return next((path for path in found if path and "-plugin" in _said([path, "--help"])), None)


def _load(plugin: Path) -> list[str]:
    return ["-plugin", str(plugin).replace(",", ",,")]  # a single comma would end the file's name


def _make(compiler: str, emulator: str, plugin: Path) -> str | None:
    """Compile the plugin, let the emulator load it, and put it where it belongs; return what failed."""
    plugin.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".counter-", dir=plugin.parent) as work:
        made = Path(work) / "count.so"
        compiled = _run([compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)])
        if compiled.returncode:
            return f"{compiler} cannot compile the counter: {_last(compiled)}; sudo {INSTALL}"
        # The emulator loads plugins before it misses the program; this one opens its file when it is loaded.
        counts = Path(work) / "counts"
        tried = _run([emulator, *_load(made), str(counts.with_name("nothing"))], {agent.COUNTS: str(counts)})
        if not counts.exists():
            return f"{emulator} does not load the counter: {_last(tried)}"
        durable.write_bytes(plugin, made.read_bytes())
    return None


def _run(command: Sequence[str], more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C"} | (more or {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)


def _said(command: Sequence[str]) -> str:
    return _run(command).stdout


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return " | ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
