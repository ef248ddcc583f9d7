"""`flaxcomp schema`: the JSON Schema of sweep files."""

import json

import click


@click.command()
def command() -> None:
    """Print the JSON Schema of sweep files, for editors that complete and check while one types.

    With the YAML language server, save it and put `# yaml-language-server: $schema=FILE` into a sweep file.
    """
    from flaxcomp.sweep.schema import sweep_schema

    click.echo(json.dumps(sweep_schema(), indent=2))
