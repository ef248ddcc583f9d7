"""`flaxcomp model NAME`: its options as they are given, and `--groups`."""

import json

import pytest
from click.testing import CliRunner

from flaxcomp.cli.main import cli
from flaxcomp.errors import UserError


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["model", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_groups_with_members_and_widths() -> None:
    text = run("resnet", "layout=cifar", "depth=8", "se=4", "--groups")
    assert "stem/conv input: 3 channels, frozen: channels of the input\n  stem/conv/kernel.2\n" in text
    assert "\nstem/conv: 16 channels, free, widths[0], widths[2], widths[4]\n  stem/conv/kernel.3\n" in text
    assert "\nblocks/0/se/squeeze: 4 channels, free, as many as follow from the others\n" in text
    assert "\nlogits: 1000 channels, frozen: the logits\n" in text
    assert text.endswith("9 of 11 groups free, 204 channels in them\n")


def test_places_and_what_is_not_followed() -> None:
    text = run("tf_cifar", "--groups")
    assert "\nconv2: 64 channels, frozen: reduce_window_sum mixes neighbouring channels\n" in text
    assert "\n  local3/kernel.0 x 36\n" in text
    assert text.endswith("not followed: reduce_window_sum mixes neighbouring channels\n")


def test_groups_as_json() -> None:
    document = json.loads(run("mobilenet_v1", "layout=embedded", "blocks=3", "width=8", "--groups", "--json"))
    assert document["name"] == "mobilenet_v1"
    assert document["widths"] == [16, 8, 16, 32]
    assert document["notes"] == []
    groups = {group["name"]: group for group in document["groups"]}
    stem = groups["stem/conv"]
    assert (stem["channels"], stem["frozen"], stem["derived"], stem["widths"]) == (16, None, False, [0])
    assert stem["members"]["blocks/0/depthwise/conv/kernel.3"] == 1
    assert groups["logits"]["frozen"] == "the logits"


@pytest.mark.parametrize("name", ["vgg16"])
def test_without_groups_nothing_changes(name: str) -> None:
    assert "trainable parameters" in run(name)


@pytest.mark.parametrize("widths", ["3,4", "[3,4]", "[3, 4]"])
def test_a_list_with_brackets_or_without(widths: str) -> None:
    assert json.loads(run("simplenet_v1", f"widths={widths}", "--json"))["config"]["widths"] == [3, 4]


@pytest.mark.parametrize("option", ["widths=[3,4", "widths={", "width_multiplier=*"])
def test_a_value_that_is_no_yaml_is_refused(option: str) -> None:
    done = CliRunner().invoke(cli, ["model", "simplenet_v1", option])
    assert isinstance(done.exception, UserError)
    assert f"must be YAML, got {option!r}" in str(done.exception)
