"""Counting the emulated instructions of an inference: on the board, and what is said where it cannot be done."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from boards import FLOAT32, INT8, MODELS, emulated_cache, subject
from flaxcomp.devices import agent, counting, process
from flaxcomp.devices.measure import Observer, Subject, measure
from flaxcomp.devices.pool import Pool
from flaxcomp.devices.protocol import Protocol
from flaxcomp.devices.transports import DeviceError, emulated
from flaxcomp.store.frame import Row
from parts import require

ONCE = Protocol(name="once", rounds=1, warmup_s=0.0, runs=5)


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAXCOMP_CACHE", str(tmp_path / "locks"))


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH: an emulator that takes plugins but does not load ours, and a compiler."""
    folder = tmp_path / "bin"
    program(
        folder / "qemu-aarch64", 'case "$1" in --help) echo "-plugin";; --version) echo 1;; *) echo too old >&2; exit 1;; esac'
    )
    program(folder / "cc", 'while [ "$1" != -o ]; do shift; done; : > "$2"')
    monkeypatch.setenv("PATH", str(folder))
    return folder


def refusal(tmp_path: Path) -> str:
    """The one note of a counter that cannot be had, which leaves nothing behind."""
    notes: list[str] = []
    assert counting.plugin_options(tmp_path / "cache", notes.append) is None
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())
    (note,) = notes
    assert note.startswith("instructions are not counted: ")
    return note


def test_a_static_emulator_takes_no_plugins(programs: Path, tmp_path: Path) -> None:
    program(programs / "qemu-aarch64-static", "echo -cpu model")
    (programs / "qemu-aarch64").unlink()
    note = refusal(tmp_path)
    assert "no qemu-aarch64 that takes plugins (the static one does not); sudo apt-get install -y qemu-user" in note


def test_there_is_no_compiler(programs: Path, tmp_path: Path) -> None:
    (programs / "cc").unlink()
    assert "no C compiler; sudo apt-get install -y qemu-user gcc" in refusal(tmp_path)


def test_the_compiler_fails(programs: Path, tmp_path: Path) -> None:
    program(programs / "cc", "echo 'stdio.h: no such file' >&2; exit 1")
    assert "cannot compile the counter: stdio.h: no such file; sudo apt-get install -y qemu-user gcc libc6-dev" in refusal(
        tmp_path
    )


def test_the_emulator_does_not_load_it(programs: Path, tmp_path: Path) -> None:
    assert "qemu-aarch64 does not load the counter: too old" in refusal(tmp_path)


def test_the_source_has_no_warnings(tmp_path: Path) -> None:
    require(compiler := shutil.which("cc"), "a C compiler: apt-get install gcc libc6-dev")
    command = [str(compiler), "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC"]
    done = subprocess.run([*command, "-o", tmp_path / "count.so", counting.SOURCE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_counter_the_agent_refuses(tmp_path: Path) -> None:
    name = f"{FLOAT32.artifact}.tflite"
    for source, target in ((process.AGENT_FILE, "agent.py"), (FLOAT32.path, name)):
        shutil.copy(source, tmp_path / target)
    job = {"task": "count", "model": name, "sha256": FLOAT32.artifact, "runs": 3}
    for counts in ("", str(tmp_path / "nothing")):
        with pytest.raises(DeviceError, match="the emulator wrote 0 totals, expected 8") as caught:
            process.run_agent(
                [sys.executable, str(tmp_path / "agent.py")], job, 60, environment={**os.environ, agent.COUNTS: counts}
            )
        assert (caught.value.kind, caught.value.blames_device) == ("no_counter", False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = emulated_cache(tmp_path_factory)
    notes: list[str] = []
    require(counting.plugin_options(found / "emulated", notes.append), "; ".join(notes))
    return found


def counted(cache: Path, subjects: list[Subject], **options: object) -> dict[str, Row]:
    device = emulated.Options(name="board", cache=str(cache), count_instructions=True, **options)  # type: ignore[arg-type]
    observer = Observer(on_failure=lambda failure: pytest.fail(str(failure)), on_note=pytest.fail)
    return {row["trial"]: row for row in measure(Pool((device,)), subjects, ONCE, observer=observer)}


@pytest.mark.device
def test_counts_repeat_and_grow_with_the_work(cache: Path) -> None:
    small, large = subject(MODELS / "conv8.tflite"), subject(MODELS / "conv32.tflite")
    rows = counted(cache, [INT8, small, large])
    for row in rows.values():
        first, second = row["instructions_counted"]
        assert abs(first - second) <= 1e-3 * first
        assert min(first, second) <= row["instructions"] <= max(first, second)
        assert len(row["samples_ms"][0]) == ONCE.runs  # the latency is measured as ever
    macs = 16 * 16 * 9 * 4 * 8
    few, many = rows["conv8"]["instructions"], rows["conv32"]["instructions"]
    assert macs / 4 < few  # four products an instruction at most
    assert 3 < many / few < 4.5  # four times the products; the call is the same
    again = counted(cache, [small], threads=2)["conv8"]  # counted with one thread all the same
    assert abs(again["instructions"] - few) <= 1e-3 * few


@pytest.mark.device
def test_the_compiled_counter_is_kept(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a, b"  # the comma would end QEMU's option
    first = counting.plugin_options(folder, pytest.fail)
    assert first is not None
    (plugin,) = folder.iterdir()
    made = plugin.stat().st_mtime_ns
    assert counting.plugin_options(folder, pytest.fail) == first
    assert plugin.stat().st_mtime_ns == made
    assert plugin.name.startswith("count-")
