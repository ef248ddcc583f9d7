"""This machine itself."""

import os
import shutil
import sys

from flaxcomp.devices.process import HostTransport
from flaxcomp.devices.transports import DeviceOptions, Note, Transport
from flaxcomp.errors import UserError


class Options(DeviceOptions, frozen=True):
    python: str | None = None  # the Python that runs the agent and has a TFLite runtime; default: the one that runs flaxcomp


def connect(options: Options, _note: Note) -> Transport:
    """Make a folder for the agent on this machine."""
    python = shutil.which(options.python or sys.executable)
    if python is None:
        raise UserError(f"device {options.name!r}: python: {options.python!r} is not a program on this machine")
    return HostTransport([python], os.environ, threads=options.threads)
