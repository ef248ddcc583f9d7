"""`flaxcomp devices`: list and check the devices of a pool, make the emulated board."""

import sys
from pathlib import Path

import click

from flaxcomp.errors import UserError

POOL = click.argument("pool", type=click.Path(dir_okay=False, path_type=Path))


@click.group()
def command() -> None:
    """List and check the devices of a pool; make the emulated ARM board."""


@command.command("list")
@POOL
def list_devices(pool: Path) -> None:
    """Print the devices of POOL without reaching for them."""
    import msgspec

    from flaxcomp.devices.pool import load_pool, transport_of

    for device in load_pool(pool).devices:
        options = {key: value for key, value in msgspec.to_builtins(device).items() if key != "name"}  # those that were given
        click.echo(" ".join([device.name, transport_of(device), *(f"{key}={value}" for key, value in options.items())]))


@command.command()
@POOL
def check(pool: Path) -> None:
    """Connect to every device of POOL, making the emulated board where it is missing, and ask it who it is."""
    from flaxcomp.devices import transports
    from flaxcomp.devices.pool import load_pool
    from flaxcomp.devices.transports import DeviceError

    missing = []
    for device in load_pool(pool).devices:
        try:
            transport = transports.connect(device, _note)
            try:
                facts = transport.facts()
            finally:
                transport.close()
        except (UserError, DeviceError) as error:
            click.echo(f"{device.name}: {'left out' if device.optional else 'NOT READY'}: {error}")
            missing += [] if device.optional else [device.name]
        else:
            mark = " EMULATED" if facts.emulated else ""
            click.echo(f"{device.name}: ready:{mark} {facts.device_model}, {facts.machine}, {facts.runtime}")
    if missing:
        raise UserError(f"not ready: {', '.join(missing)}")


@command.command()
@click.argument("transport", type=click.Choice(["emulated"]))
@click.option("--cpu", default="cortex-a53", show_default=True, help="The ARM core that the finished board is tried on.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep it.  [default: $FLAXCOMP_CACHE or the user's cache]",
)
@click.option("--renew", is_flag=True, help="Make it anew even if it is there.")
def provision(transport: str, cpu: str, cache: Path | None, renew: bool) -> None:
    """Make the emulated ARM board: Debian packages and wheels for aarch64, run by qemu-user. Takes a few minutes once."""
    from flaxcomp.devices import provision as provisioning

    board = provisioning.provision(cache, cpu, _note, renew=renew)
    click.echo(f"{transport}: ready in {board.folder}")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
