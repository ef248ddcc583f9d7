"""The program `flaxcomp`: finds its commands in `commands/`, prints users' errors without a traceback."""

import importlib
import pkgutil
import sys

import click

import flaxcomp
import flaxcomp.cli.commands as commands
from flaxcomp.errors import UserError


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


if __name__ == "__main__":
    main()
