"""The emulated board: an aarch64 user land with a TFLite runtime, made of Debian packages and wheels, run by qemu-user.

Nothing of it is installed into the system and no root is needed, except to install qemu-user-static itself.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flaxcomp import durable
from flaxcomp.devices.cache import cache_folder, locked
from flaxcomp.devices.process import AGENT_FILE, run_agent
from flaxcomp.devices.transports import DeviceError, Note
from flaxcomp.errors import UserError, suggest

LAYOUT = 1  # raise it when the recipe below changes: boards made by another recipe are then made anew
# 2.2 and 2.3 of the runtime crash under Debian 12's QEMU 7.2.
WHEELS = {"ai-edge-litert": "2.1.6", "numpy": "2.4.6"}
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8")
CPUS = ("cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76")
DEFAULT_CPU = "cortex-a53"
INSTALL_QEMU = "apt-get install -y qemu-user-static"
SMOKE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Board:
    """A provisioned user land: `root` of Debian packages, `site` of wheels, `board.json` with what it was made of."""

    folder: Path

    def command(self, qemu: str, cpu: str, options: Sequence[str] = ()) -> list[str]:
        """What runs a Python file on the board; `options` are more of the emulator's."""
        root = self.folder / "root"
        return [qemu, *options, "-cpu", cpu, "-L", str(root), str(next((root / "usr" / "bin").glob("python3.*")))]

    def environment(self, write_bytecode: bool = False) -> dict[str, str]:
        """All of the environment of the board's processes."""
        environment = {"PYTHONHOME": str(self.folder / "root" / "usr"), "PYTHONPATH": str(self.folder / "site")}
        # NumPy's linear algebra is not used; without this it would start threads when it is imported.
        return environment | {"OPENBLAS_NUM_THREADS": "1"} | ({} if write_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"})


def cpu_fault(cpu: str) -> str | None:
    """Say why `cpu` cannot be emulated; None when it can."""
    if cpu in CPUS:
        return None
    reason = " QEMU 7.2 computes wrong int8 results with `max`." if cpu == "max" else ""
    return f"cpu must be one of {', '.join(CPUS)}, not {cpu!r}.{reason}{suggest(cpu, CPUS) if not reason else ''}"


def qemu() -> str | None:
    """The emulator's path, None where it is not installed."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def find(cache: str | Path | None = None) -> Board | None:
    """Return the board in the cache, None when it has not been provisioned or was made by another recipe."""
    folder = _folder(cache)
    return Board(folder) if (folder / "board.json").exists() else None


def provision(cache: str | Path | None, cpu: str, note: Note, *, renew: bool = False) -> Board:
    """Return the board, made now if it is missing. Two callers at once make it once.

    Args:
        cache: folder to keep it in; None: flaxcomp's cache.
        cpu: processor that the finished board is tried on.
        note: is told every step.
        renew: make it anew even if it is there.

    Raises:
        UserError: a program is missing or failed; says what to do.
    """
    if fault := cpu_fault(cpu):
        raise UserError(fault)
    emulator = qemu() or _install_qemu(note)
    board = find(cache)
    if board and not renew:
        return board
    final = _folder(cache)
    with locked(final.parent / "lock", lambda who, _: note(f"waiting for {who}, which makes the board")):
        board = find(cache)
        if board and not renew:
            return board
        for left in final.parent.glob("partial-*"):  # of a process that was killed
            shutil.rmtree(left)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=final.parent))
        try:
            _make(partial, emulator, cpu, note)
            durable.replace_folder(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    note(f"the emulated board is ready in {final}")
    return Board(final)


def _folder(cache: str | Path | None) -> Path:
    wheels = "-".join(f"{name}-{version}" for name, version in WHEELS.items())
    return cache_folder(cache) / "emulated" / f"layout-{LAYOUT}-{wheels}"


def _install_qemu(note: Note) -> str:
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        note(f"installing the emulator: {INSTALL_QEMU}")
        _call(["apt-get", "-o", "DPkg::Lock::Timeout=120", *INSTALL_QEMU.split()[1:]], f"`{INSTALL_QEMU}`")
        if found := qemu():
            return found
    raise UserError(
        "the emulated ARM board needs qemu-user-static, which is not installed. "
        f"To add the board: sudo {INSTALL_QEMU} && flaxcomp devices provision emulated"
    )


def _make(folder: Path, emulator: str, cpu: str, note: Note) -> None:
    """Fill `folder` with a board that has passed its smoke test."""
    for program in ("apt-get", "apt-cache", "dpkg"):
        if not shutil.which(program):
            raise UserError(f"the emulated board is made of Debian packages; there is no {program} here; use Debian or Ubuntu")
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder.parent) as work:
        packages, python = _packages(Path(work), note)
        for package in packages:
            _call(["dpkg", "-x", str(package), str(folder / "root")], f"unpacking {package.name}")
        if not (folder / "root" / "lib").exists():  # packages since Debian 13 leave this link to base-files
            (folder / "root" / "lib").symlink_to("usr/lib")
        wheels = _wheels(Path(work), python, note)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "site")
    note(f"trying the runtime on an emulated {cpu}")
    board = Board(folder)
    try:
        # It runs the agent as a measurement does, and so leaves the bytecode of all that the agent imports.
        command = [*board.command(emulator, cpu), str(AGENT_FILE)]
        facts = run_agent(command, {"task": "facts"}, SMOKE_TIMEOUT_S, environment=board.environment(write_bytecode=True))
    except DeviceError as error:
        raise UserError(f"the emulated board was made but does not work ({error.kind}): {error}") from error
    made_of = {"layout": LAYOUT, "packages": [p.name for p in packages], "wheels": [w.name for w in wheels], "tried": facts}
    (folder / "board.json").write_text(json.dumps(made_of, indent=1) + "\n")


def _packages(work: Path, note: Note) -> tuple[list[Path], str]:
    """Download the Debian packages of the board; return them and the version of its Python, such as "3.11".

    apt checks them against the signed lists of the machine's own sources, read for arm64 into lists of our own.
    """
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": work / "status",
        "Dir::Cache": work / "cache",
    }
    options = [f"-o{key}={value}" for key, value in settings.items()]
    note("reading the lists of Debian's arm64 packages")
    _call(["apt-get", *options, "-qq", "update"], "reading the lists of arm64 packages")
    shown = _call(["apt-cache", *options, "show", "python3-minimal"], "looking for Debian's python3-minimal for arm64")
    version = re.search(r"^(?:Pre-)?Depends:.*\bpython(3\.\d+)-minimal", shown, re.MULTILINE)
    if version is None:
        raise UserError("the package sources of this machine have no python3-minimal for arm64")
    python = version[1]
    wanted = [*LIBRARIES, f"python{python}-minimal", f"libpython{python}-minimal", f"libpython{python}-stdlib"]
    note(f"downloading {len(wanted)} Debian packages")
    _call(["apt-get", *options, "-qq", "download", *wanted], "downloading arm64 packages", work / "debs")
    return sorted((work / "debs").glob("*.deb")), python


def _wheels(work: Path, python: str, note: Note) -> list[Path]:
    """Download the aarch64 wheels of the board for its Python."""
    pins = [f"{name}=={version}" for name, version in WHEELS.items()]
    note(f"downloading {' and '.join(pins)} for aarch64")
    target = ["--python-version", python, "--implementation", "cp", *(f"--platform={tag}" for tag in PLATFORMS)]
    command = [*_pip(), "download", "-q", "--no-deps", "--only-binary=:all:", *target, "-d", str(work / "wheels"), *pins]
    _call(command, f"downloading {' and '.join(pins)} for aarch64")
    return sorted((work / "wheels").glob("*.whl"))


def _pip() -> list[str]:
    import importlib.util

    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            return [path]
    raise UserError(f"pip is needed to fetch wheels for the emulated board; install it into {sys.executable}'s environment")


def _call(command: Sequence[str], what: str, folder: Path | None = None) -> str:
    """Run a program and return what it printed; UserError with its last words when it fails."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = " | ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise UserError(f"the emulated board cannot be made: {what} failed with exit status {done.returncode}: {last}")
    return done.stdout
