"""The pool file: which devices there are and how they are reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flaxcomp.devices import transports
from flaxcomp.devices.transports import DeviceOptions
from flaxcomp.errors import UserError, suggest


@dataclass(frozen=True)
class Pool:
    """The devices of a pool file, in the file's order, each name once."""

    devices: tuple[DeviceOptions, ...]


def transport_of(device: DeviceOptions) -> str:
    """The name of the transport that a device is reached by."""
    return type(device).__module__.rpartition(".")[2]


def local_pool() -> Pool:
    """The pool that is used where none is given: this machine alone."""
    return Pool((transports.load("local").Options(name="local"),))


def load_pool(path: Path) -> Pool:
    """Read `{devices: [{name, transport, ...}, ...]}`; the other keys are those of the transport's `Options`.

    Raises:
        UserError: the file cannot be read or says something that no transport knows; names file and device.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no device pool {path}; see launch/devices/ for examples") from None
    except OSError as error:
        raise UserError(f"{path}: not a readable device pool: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        line = f":{error.problem_mark.line + 1}" if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{line}: not a readable device pool: {problem}") from None
    entries = content.get("devices") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or set(content) != {"devices"}:
        raise UserError(f"{path}: a device pool is one key, `devices`, with a list of at least one device")
    devices = tuple(_device(entry, f"{path}: device {number}") for number, entry in enumerate(entries, start=1))
    names = [device.name for device in devices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: every device needs a name of its own; used twice: {', '.join(twice)}")
    return Pool(devices)


def _device(entry: Any, place: str) -> DeviceOptions:
    if not isinstance(entry, dict) or not isinstance(entry.get("transport"), str):
        raise UserError(f"{place}: must be a mapping with `name` and `transport` ({', '.join(transports.names())})")
    place += f" ({entry['name']})" if "name" in entry else ""
    settings = {key: value for key, value in entry.items() if key != "transport"}
    try:
        options = transports.load(entry["transport"]).Options
        known = [field.name for field in msgspec.structs.fields(options)]
        for key in settings:
            if key not in known:
                raise UserError(f"transport {entry['transport']!r} has no option {key!r}.{suggest(str(key), known)}")
        device = msgspec.convert(settings, options)
    except (UserError, msgspec.ValidationError) as error:
        raise UserError(f"{place}: {error}") from error
    assert isinstance(device, DeviceOptions)
    return device
