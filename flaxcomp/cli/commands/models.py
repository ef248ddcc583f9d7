"""`flaxcomp models`: the architectures that `model.name` may name."""

import click


@click.command()
def command() -> None:
    """List the architectures, with their options and published defaults."""
    import msgspec

    from flaxcomp.models import registry

    for name in registry.names():
        config = registry.config_of({"name": name})
        values = msgspec.to_builtins(msgspec.structs.asdict(config))
        options = ", ".join(f"{key}={_short(value)}" for key, value in values.items())
        click.echo(f"{name}: {options}")


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
