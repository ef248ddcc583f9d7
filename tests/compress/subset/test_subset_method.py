"""What Distill-Net refuses before anything is trained."""

from typing import Any

import pytest
from msgspec.structs import replace
from subset_nets import DENSE

from flaxcomp.compress.subset.method import check
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.sweep.compression.subset import Subset

SHAPE = (64, 64, 3)


def refusal(model: dict[str, Any], **options: Any) -> str:
    try:
        check(replace(DENSE, model=model, subset=Subset(remove_fraction=0.5, **options), source="dense"), SHAPE, 10)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tf_cifar", {}, ""),
        ("tf_cifar", {"outputs": "kept"}, ""),
        ("condensenet", {}, "subset.partial must be false for condensenet: it leaves training in another form"),
        ("condensenet", {"partial": False}, ""),
        ("squeezenet-imagenet", {"outputs": "kept"}, "subset.outputs must be all for this network"),
    ],
)
def test_networks(name: str, options: dict[str, Any], words: str) -> None:
    model = {"name": "squeezenet"} if name == "squeezenet-imagenet" else registry.small(name)
    told = refusal(model, **options)
    assert told.startswith(words) if words else not told
