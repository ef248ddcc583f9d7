"""How a measurement is taken. Figures of different protocols are never pooled."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flaxcomp.errors import UserError, suggest


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh process for every network and round; the order of the networks is shuffled anew in every round."""

    name: str  # recorded with every figure
    rounds: Annotated[int, Meta(ge=1)]  # processes a network
    warmup_s: Annotated[float, Meta(ge=0)]  # at least so long, and at least one run
    runs: Annotated[int, Meta(ge=5)]  # timed single-image runs a process
    limit_s: Annotated[float, Meta(gt=0)] | None = None  # ends the timed runs early, after 5 at least
    sleep_s: Annotated[float, Meta(ge=0)] = 0.0  # between processes
    statistic: Literal["median", "mean"] = "median"  # of a process's runs, and of the processes


PRESETS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        # For a first look, about a second a network: one process cannot tell how much processes differ (`ci_unit`).
        Protocol(name="quick", rounds=1, warmup_s=0.1, runs=50, limit_s=0.2),
        Protocol(name="standard", rounds=5, warmup_s=1.0, runs=50),
        # The embedded study: the mean of 3 calls in random order over all nets, each call 1 s of warm-up, then the mean of
        # 50 single-image runs, 10 s of sleep between calls.
        Protocol(name="seed", rounds=3, warmup_s=1.0, runs=50, sleep_s=10.0, statistic="mean"),
    )
}


def preset(name: str) -> Protocol:
    """Return the protocol called `name`.

    Raises:
        UserError: there is none; the nearest name or all names are given.
    """
    if name not in PRESETS:
        raise UserError(f"unknown measurement protocol {name!r}.{suggest(name, PRESETS)}")
    return PRESETS[name]
