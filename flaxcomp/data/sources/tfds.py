"""TensorFlow Datasets' own download, in a child process, so that one that hangs can be stopped.

TFDS itself tries a host that does not answer for minutes, and waits for a stalled transfer for ever.
"""

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from flaxcomp.data.progress import Report
from flaxcomp.data.splits import Decoded
from flaxcomp.errors import UserError

_STALL_S = 60.0  # without a new byte
_POLL_S = 0.2
_ANSWER_S = 5.0  # for the first answer of TFDS's host


def fetch(name: str, folder: Path, report: Report) -> Decoded:
    """Take the named set from TFDS's own data folder where it is prepared there, else let TFDS download it into `folder`.

    Raises:
        UserError: TFDS's host is out of reach, or the download failed or stalled.
    """
    from flaxcomp.data import tfds_store

    present = tfds_store.present_folder(name)
    if present is None:
        _download(name, folder, report)
        present = folder / name
    return Decoded(tfds_store.read(present, report))


def _download(name: str, folder: Path, report: Report) -> None:
    messages = folder / "messages.txt"
    with messages.open("wb") as file:
        child = subprocess.Popen([sys.executable, "-m", __name__, name, str(folder)], stdout=file, stderr=file)
    try:
        size, changed = -1, time.monotonic()
        while child.poll() is None:
            now = sum(part.stat().st_size for part in folder.rglob("*") if part.is_file())
            if now != size:
                size, changed = now, time.monotonic()
                report("download with TFDS", size, 0)
            if time.monotonic() - changed > _STALL_S:
                raise UserError(f"TFDS's download of {name} stood still for {_STALL_S:.0f} s and was stopped.")
            time.sleep(_POLL_S)
    finally:
        child.kill()
        child.wait()
    if child.returncode:
        lines = messages.read_text(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"TFDS's download of {name} failed: {lines[-1]}")


def _child(name: str, folder: str) -> None:
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(name, data_dir=folder)
    url = next(iter(builder.url_infos))
    with (
        contextlib.suppress(urllib.error.HTTPError),  # it did answer
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_ANSWER_S),
    ):
        pass
    builder.download_and_prepare()


if __name__ == "__main__":
    _child(*sys.argv[1:])
