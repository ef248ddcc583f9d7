"""Whether a run folder can be used."""

import contextlib
import os
import tempfile

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths


def check_writable(paths: RunPaths) -> None:
    """Refuse a run folder that cannot be made or written, before anything is trained. One that is not there is not made.

    Raises:
        UserError: with the reason.
    """
    made = [folder for folder in (paths.root, *paths.root.parents) if not os.path.lexists(folder)]
    try:
        try:
            paths.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=paths.root) as probe:
                probe.write(b"\0" * 4096)
        finally:
            for folder in made:
                with contextlib.suppress(OSError):  # not made, or in use by another program already
                    folder.rmdir()
    except OSError as error:
        raise UserError(f"the run folder {paths.root} must be writable: {error.strerror}. Choose another with --out.") from None
