"""Stored configurations in dotted columns."""

from flaxcomp.store.frames import flat_config
from flaxcomp.store.rows import to_json
from flaxcomp.sweep.compression.prune import Prune
from flaxcomp.sweep.ids import columns_of
from flaxcomp.sweep.spec import Augment, Dataset, Distill, Optimizer, Train, TrialConfig

CONFIGS = (
    TrialConfig(dataset=Dataset(name="mnist"), model={"name": "wide", "widths": [1, 2], "head": {"bias": True}}),
    TrialConfig(dataset=Dataset(name="mnist", train_limit=5), model={"name": "wide"}, seed=7,
                train=Train(epochs=3, optimizer=Optimizer(learning_rate=0.5), augment=Augment(contrast=(0.5, 2.0))),
                distill=Distill(teacher=("a", "b"), temperature=3.0)),
    TrialConfig(dataset=Dataset(name="mnist"), model={"name": "wide"}, prune=Prune(ratio=0.5), source="a"),
)  # fmt: skip


def test_sections_flattened_one_by_one_make_the_whole_in_its_order() -> None:
    for config in CONFIGS:
        found = flat_config(to_json(config))
        assert list(found.items()) == list(columns_of(config, lists=True).items())
        assert found == flat_config(to_json(config)), "also when they are remembered"
