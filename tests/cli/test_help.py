"""`flaxcomp --help` reads what commands say of themselves without importing them."""

import subprocess
import sys

import click
from click.testing import CliRunner

from flaxcomp.cli.main import Commands, cli


def test_it_is_what_click_would_print() -> None:
    printed = CliRunner().invoke(cli, ["--help"], prog_name="flaxcomp", terminal_width=100)
    assert isinstance(cli, Commands)
    own, Commands.format_commands = Commands.format_commands, click.Group.format_commands  # type: ignore[method-assign]
    try:
        whole = CliRunner().invoke(cli, ["--help"], prog_name="flaxcomp", terminal_width=100)
    finally:
        Commands.format_commands = own  # type: ignore[method-assign]
    assert printed.exit_code == whole.exit_code == 0
    assert printed.output == whole.output
    assert "  plan " in printed.output


def test_it_imports_no_command() -> None:
    code = "import sys; from flaxcomp.cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    imported = printed.splitlines()[-1].split()
    assert "flaxcomp.cli.main" in imported
    assert [name for name in imported if name.startswith("flaxcomp.cli.commands.")] == []
    assert {"yaml", "msgspec", "sqlite3"}.isdisjoint(imported), "none of what they need"
