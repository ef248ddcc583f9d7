"""Fixtures of the tests of commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cli_runs import Done, fill
from flaxcomp.cli.main import main


@pytest.fixture
def flaxcomp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Calls the program with these arguments, in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr("sys.argv", ["flaxcomp", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run of mine"
    fill(folder)
    return folder
