"""The network that a trial ended with, where a method of compression found another than its configuration names."""

import json

from msgspec.structs import replace

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import TrialConfig


def as_trained(paths: RunPaths, trial_id: str, config: TrialConfig) -> TrialConfig:
    """The configuration of a finished trial with the model that its weights are of.

    Raises:
        UserError: the file that says so is missing or damaged.
    """
    if config.source is None:
        return config
    file = paths.network_file(trial_id)
    try:
        model = json.loads(file.read_text())["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: it must say which network the trial ended with, but cannot be read ({type(error).__name__}). Put it back "
            "from a copy, or train the trial again in another run folder."
        ) from None
    return replace(config, model=model)
