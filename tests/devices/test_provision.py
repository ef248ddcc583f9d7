"""The emulated board: what is missing is named, what fails leaves nothing, two at once make one."""

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from boards import emulated_cache
from flaxcomp.devices import provision
from flaxcomp.devices.cache import cache_folder
from flaxcomp.errors import UserError


def program(folder: Path, name: str, text: str) -> None:
    """Put a shell script called `name` into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, for programs that stand in for the system's."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin", "qemu-aarch64-static", "exit 1")
    for name in ("apt-get", "apt-cache", "dpkg"):
        program(tmp_path / "bin", name, f"echo '{name} is broken' >&2; exit 100")
    return tmp_path / "bin"


def test_without_qemu_and_without_root_it_says_what_to_do(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "qemu-aarch64-static").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="sudo apt-get install -y qemu-user-static && flaxcomp devices provision emulated"):
        provision.provision(tmp_path / "cache", "cortex-a53", print)
    assert not (tmp_path / "cache").exists()


def test_without_qemu_root_installs_it(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "qemu-aarch64-static").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    called = tmp_path / "called"
    chmod = shutil.which("chmod", path="/usr/bin:/bin")
    install = f"echo '#!/bin/sh' > {programs}/qemu-aarch64-static && {chmod} +x {programs}/qemu-aarch64-static"
    program(programs, "apt-get", f'case "$*" in *"install -y"*) echo "$@" > {called}; {install};; *) exit 100;; esac')
    notes: list[str] = []
    with pytest.raises(UserError, match="reading the lists of arm64 packages failed"):  # it got past qemu
        provision.provision(tmp_path / "cache", "cortex-a53", notes.append)
    assert called.read_text().split()[-3:] == ["install", "-y", "qemu-user-static"]
    assert notes[0] == "installing the emulator: apt-get install -y qemu-user-static"


def test_a_program_that_fails_is_quoted_and_nothing_is_left(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        provision.provision(tmp_path / "cache", "cortex-a53", print)
    assert "failed with exit status 100: apt-get is broken" in str(caught.value)
    assert [path.name for path in (tmp_path / "cache" / "emulated").iterdir()] == ["lock"]
    assert provision.find(tmp_path / "cache") is None


def test_a_system_without_debian_packages_is_named(programs: Path, tmp_path: Path) -> None:
    (programs / "dpkg").unlink()
    with pytest.raises(UserError, match="there is no dpkg here; use Debian or Ubuntu"):
        provision.provision(tmp_path / "cache", "cortex-a53", print)


@pytest.mark.parametrize(
    ("cpu", "words"), [("max", "wrong int8 results"), ("cortex-a5", "cortex-a5[37]"), ("pentium", "Known: ")]
)
def test_refuses_cpus(cpu: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        provision.provision(tmp_path, cpu, print)


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAXCOMP_CACHE", str(tmp_path / "env"))
    assert cache_folder() == tmp_path / "env"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("FLAXCOMP_CACHE")
    assert cache_folder().name == "flaxcomp"


@pytest.mark.device
def test_two_at_once_make_one_board(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    emulated_cache(tmp_path_factory)  # skips where a board cannot be made
    cache = tmp_path / "a cache #1 ü"
    left = cache / "emulated" / "partial-of-a-killed-process"
    left.mkdir(parents=True)
    notes: list[str] = []
    boards: list[provision.Board] = []
    threads = [
        threading.Thread(target=lambda: boards.append(provision.provision(cache, "cortex-a72", notes.append))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert boards == [provision.find(cache)] * 2
    assert notes.count("reading the lists of Debian's arm64 packages") == 1
    assert sum(note.startswith(f"waiting for process {os.getpid()}") for note in notes) == 1
    assert sorted(path.name for path in (cache / "emulated").iterdir()) == [boards[0].folder.name, "lock"]


@pytest.mark.device
def test_a_board_that_does_not_work_does_not_replace_one_that_does(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = emulated_cache(tmp_path_factory)
    board = provision.find(cache)
    assert board is not None
    made = (board.folder / "board.json").stat().st_mtime_ns
    monkeypatch.setattr(provision, "SMOKE_TIMEOUT_S", 0.01)
    with pytest.raises(UserError, match=r"made but does not work \(timeout\)"):
        provision.provision(cache, "cortex-a53", print, renew=True)
    assert (board.folder / "board.json").stat().st_mtime_ns == made
    monkeypatch.setattr(provision, "LAYOUT", provision.LAYOUT + 1)
    assert provision.find(cache) is None  # another recipe: to be made anew
