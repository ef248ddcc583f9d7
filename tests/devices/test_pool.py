"""Pool files and protocols: what they say, and what is refused."""

from pathlib import Path

import pytest

from flaxcomp.devices.pool import load_pool, local_pool, transport_of
from flaxcomp.devices.protocol import PRESETS, preset
from flaxcomp.errors import UserError

LAUNCH = Path(__file__).parents[2] / "launch" / "devices"


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_pools_load(path: Path) -> None:
    assert load_pool(path).devices


def test_the_demo_can_do_without_the_emulated_board() -> None:
    local, emulated = load_pool(LAUNCH / "demo.yaml").devices
    assert (transport_of(local), local.optional) == ("local", False)
    assert (transport_of(emulated), emulated.optional) == ("emulated", True)


def test_the_default_pool_is_this_machine() -> None:
    (device,) = local_pool().devices
    assert transport_of(device) == "local"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "one key, `devices`"),
        ("devices: []", "at least one device"),
        ("devices: [{name: a, transport: local}]\ncolour: red", "one key, `devices`"),
        ("devices: [{name: a}]", "device 1: must be a mapping with `name` and `transport` (emulated, local)"),
        ("devices: [{name: a, transport: locale}]", "device 1 (a): unknown transport 'locale'. Did you mean 'local'?"),
        ("devices: [{name: a, transport: local, thread: 2}]", "no option 'thread'. Did you mean 'threads'?"),
        ("devices: [{name: a, transport: local, cpu: cortex-a53}]", "transport 'local' has no option 'cpu'"),
        ("devices: [{name: a, transport: local, threads: 0}]", "Expected `int` >= 1 - at `$.threads`"),
        ("devices: [{name: a b, transport: local}]", "at `$.name`"),
        ("devices: [{transport: local}]", "missing required field `name`"),
        ("devices: [{name: a, transport: emulated, cpu: max}]", "wrong int8 results with `max`"),
        ("devices: [{name: a, transport: emulated, cpu: cortex-a54}]", "cortex-a53, cortex-a57"),
        ("devices: [{name: a, transport: local}, {name: a, transport: emulated}]", "used twice: a"),
        ("\ndevices: [", ":2: not a readable device pool: expected the node content"),
    ],
)
def test_refuses(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_pool(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_a_missing_pool_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no device pool .*nothing\.yaml"):
        load_pool(tmp_path / "nothing.yaml")


def test_presets() -> None:
    assert all(name == protocol.name for name, protocol in PRESETS.items())
    standard, seed = preset("standard"), preset("seed")
    assert standard.rounds >= 5
    assert standard.warmup_s >= 1
    assert standard.runs >= 50
    assert (seed.rounds, seed.warmup_s, seed.runs, seed.sleep_s, seed.statistic) == (3, 1.0, 50, 10.0, "mean")
    with pytest.raises(UserError, match="Did you mean 'standard'"):
        preset("standart")
