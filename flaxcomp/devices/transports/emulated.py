"""An aarch64 board emulated by qemu-user on this machine: real ARM code, but the times are the emulator's."""

import re
import subprocess

from flaxcomp.devices import counting, provision
from flaxcomp.devices.process import HostTransport
from flaxcomp.devices.transports import DeviceOptions, Note, Transport


class Options(DeviceOptions, frozen=True):
    cpu: str = provision.DEFAULT_CPU  # one of provision.CPUS
    cache: str | None = None  # folder of the provisioned board; default: flaxcomp's cache
    count_instructions: bool = False  # of one inference with one thread, beside the latency and in processes of its own

    def __post_init__(self) -> None:
        if fault := provision.cpu_fault(self.cpu):
            raise ValueError(fault)


def connect(options: Options, note: Note) -> Transport:
    """Provision the board where it is missing, and make a folder for the agent."""
    board = provision.provision(options.cache, options.cpu, note)
    qemu = provision.qemu()
    assert qemu is not None  # provision() would have raised
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\S+)", said)
    counter = counting.plugin_options(board.folder.parent, note) if options.count_instructions else None
    return HostTransport(
        board.command(qemu, options.cpu),
        board.environment(),
        threads=options.threads,
        device_model=f"{options.cpu} (qemu)",
        emulator=f"qemu {version[1] if version else 'unknown'}",
        counting=board.command(counter[0], options.cpu, counter[1]) if counter else None,
    )
