"""The program `flaxcomp`: finds its commands in `commands/`, prints users' errors without a traceback."""

import ast
import errno
import importlib
import pkgutil
import sys
from pathlib import Path

import click

import flaxcomp
import flaxcomp.cli.commands as commands
from flaxcomp.errors import UserError, suggest

# What a disk or its permissions refuse. Other errors of the system are faults of the program, which a traceback helps to find.
_DISK = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC,
         errno.ENOTDIR, errno.EPERM, errno.EROFS}  # fmt: skip


class Commands(click.Group):
    """A group whose commands are the files of `commands/`, imported when they are wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{commands.__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands as click does, but without importing them all."""
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, _outline(name).get_short_help_str(limit)) for name in names])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{suggest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def _outline(name: str) -> click.Command:
    """A command with nothing but its help, read from its file."""
    (folder,) = commands.__path__
    module = ast.parse((Path(folder) / f"{name}.py").read_text(encoding="utf-8"))
    functions = (node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "command")
    return click.Command(name, help=next((ast.get_docstring(function) for function in functions), None))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(flaxcomp.__version__, prog_name="flaxcomp")
def cli() -> None:
    """Sweep hundreds of small Flax networks, compress the winners, measure them on ARM, draw the Pareto front."""


def main() -> None:
    """Run the command line; a user's own mistake ends with one line on standard error and exit code 2."""
    try:
        cli(prog_name="flaxcomp")
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        click.echo(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror}", err=True)
        sys.exit(UserError.exit_code)


if __name__ == "__main__":
    main()
