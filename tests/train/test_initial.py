"""Initial weights: from a trial, a model folder, a file in either layout; the last layer anew; what does not fit."""

from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from flaxcomp.checkpoint.models import load_model, save_models
from flaxcomp.checkpoint.weights import fingerprint, keep
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import InitFrom, TrialConfig
from flaxcomp.train.initial import initial_state
from flaxcomp.train.job import Finished, Note, Stopped
from flaxcomp.train.names import by_name
from flaxcomp.train.pack import Trainer
from transfers import assert_equal, config, make_job, network, small_trainer

MOBILE = {"name": "mobilenet_v1", "layout": "embedded", "width": 2, "blocks": 3, "se": 2}
Named = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return small_trainer()


@pytest.fixture(scope="module")
def teacher(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the finished trial `t`."""
    root = tmp_path_factory.mktemp("teacher")
    list(trainer.train(make_job(root, {"t": config(5)}), lambda: False))
    return root


def weights_of(model: dict[str, Any], classes: int = 10, seed: int = 9, shape: tuple[int, int, int] = (28, 28, 1)) -> Named:
    """The parameters and statistics of a new network, no two of them alike."""
    module = registry.build(model, shape, classes, nnx.Rngs(params=jax.random.key(seed)))
    _, params, stats = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    named = by_name(nnx.to_pure_dict(params)) | by_name(nnx.to_pure_dict(stats))
    random = np.random.default_rng(seed)
    return {name: random.normal(size=leaf.shape).astype(np.float32) for name, leaf in named.items()}


def in_torch(named: Named) -> Named:
    """As PyTorch would have them."""
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    orders = {2: (1, 0), 4: (3, 2, 0, 1)}
    renamed = {}
    for name, array in named.items():
        parent, _, leaf = name.rpartition(".")
        order = orders.get(array.ndim, tuple(range(array.ndim)))
        renamed[f"{parent}.{leaves.get(leaf, leaf)}"] = np.ascontiguousarray(array.transpose(order))
        if leaf == "mean":
            renamed[f"{parent}.num_batches_tracked"] = np.asarray(3, np.int64)
    return renamed


def kept(root: Path, named: Named, kind: str = "npz") -> str:
    """Put weights into a run folder; their content's hash."""
    file = root / f"given.{kind}"
    if kind == "npz":
        np.savez(file, **named)  # type: ignore[arg-type]
    else:
        save_file(named, file)
    content = fingerprint(file)
    keep(file, content, RunPaths.at(root).weights(content))
    return content


def step_zero(trainer: Trainer, root: Path, configs: dict[str, TrialConfig]) -> tuple[list[Named], list[str]]:
    """What each trial begins with, and the notes."""
    job = make_job(root, configs)
    program = trainer.program(job)
    hyper = program.hyper(list(configs.values()), [0] * len(configs))
    large = "mobilenet" in str(next(iter(configs.values())).model)  # the random weights of which take long to compile
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(program.init, hyper))
    state, notes = initial_state(job, program, zeros if large else program.init(hyper))
    named = by_name(jax.device_get(state["params"])) | by_name(jax.device_get(state["stats"]))
    return [{name: leaf[i] for name, leaf in named.items()} for i in range(len(configs))], notes


def test_a_trial_begins_where_another_ended(trainer: Trainer, teacher: Path) -> None:
    configs = {"s": config(0, init_from=InitFrom(trial="t")), "p": config(0)}
    (started, plain), notes = step_zero(trainer, teacher, configs)
    assert notes == []
    assert_equal(started, network(teacher, "t"))
    (alone,), _ = step_zero(trainer, teacher, {"p": config(0)})
    assert_equal(plain, alone)  # its neighbour's weights are not its own


def test_a_folder_of_another_run(trainer: Trainer, teacher: Path, tmp_path: Path) -> None:
    folder = RunPaths.at(teacher).model("t")
    content = fingerprint(folder)
    keep(folder, content, RunPaths.at(tmp_path).weights(content))
    (started,), _ = step_zero(trainer, tmp_path, {"s": config(0, init_from=InitFrom(checkpoint=content))})
    assert_equal(started, network(teacher, "t"))


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("layout", ["flax", "torch"])
def test_files_in_either_layout(trainer: Trainer, tmp_path: Path, kind: str, layout: Any) -> None:
    """Convolutions, depthwise ones, dense layers, batch norms with their statistics."""
    wanted = weights_of(MOBILE)
    content = kept(tmp_path, wanted if layout == "flax" else in_torch(wanted), kind)
    (started,), notes = step_zero(
        trainer, tmp_path, {"s": config(model=MOBILE, init_from=InitFrom(file=content, layout=layout))}
    )
    assert notes == []
    assert_equal(started, wanted)


def test_names_of_the_file_are_mapped(trainer: Trainer, tmp_path: Path) -> None:
    wanted = weights_of({"name": "simplenet_v5"})
    theirs = {"features.0.weight": wanted["convolutions.0.kernel"], "features.0.bias": wanted["convolutions.0.bias"],
              "down.0.weight": wanted["halvings.0.kernel"], "down.0.bias": wanted["halvings.0.bias"],
              "fc.w": wanted["logits.kernel"], "fc.bias": wanted["logits.bias"]}  # fmt: skip
    names = {"convolutions.*.kernel": "features.*.weight", "convolutions": "features", "halvings.*.kernel": "down.*.weight",
             "halvings": "down", "logits.kernel": "fc.w", "logits": "fc"}  # fmt: skip
    configs = {"s": config(init_from=InitFrom(file=kept(tmp_path, theirs), names=names))}
    assert_equal(step_zero(trainer, tmp_path, configs)[0][0], wanted)


def test_sources_of_a_pack_are_each_members_own(trainer: Trainer, tmp_path: Path) -> None:
    one, two = (weights_of({"name": "simplenet_v5"}, seed=seed) for seed in (1, 2))
    sources = [InitFrom(file=kept(tmp_path, named, kind)) for named, kind in ((one, "npz"), (two, "safetensors"))]
    configs = {"a": config(0, init_from=sources[0]), "b": config(1), "c": config(2, init_from=sources[1])}
    assert len({signature(each) for each in configs.values()}) == 1
    (a, _, c), _ = step_zero(trainer, tmp_path, configs)
    assert_equal(a, one)
    assert_equal(c, two)


def test_weights_of_half_precision_become_float32(trainer: Trainer, tmp_path: Path) -> None:
    wanted = {name: array.astype(np.float16) for name, array in weights_of({"name": "simplenet_v5"}).items()}
    (started,), _ = step_zero(trainer, tmp_path, {"s": config(init_from=InitFrom(file=kept(tmp_path, wanted)))})
    assert_equal(started, wanted)
    assert {array.dtype for array in started.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("source", ["file", "checkpoint"])
def test_the_last_layer_begins_anew_for_other_classes_and_only_it(trainer: Trainer, tmp_path: Path, source: str) -> None:
    theirs = weights_of({"name": "simplenet_v5"}, classes=7)
    if source == "file":
        init = InitFrom(file=kept(tmp_path, theirs))
    else:
        layers: dict[str, Any] = {"convolutions": {0: {}}, "halvings": {0: {}}, "logits": {}}
        for name, array in theirs.items():
            *route, leaf = (int(part) if part.isdigit() else part for part in name.split("."))
            node = layers
            for step in route:
                node = node[step]  # type: ignore[index]
            node[leaf] = array  # type: ignore[index]
        save_models({tmp_path / "m": {"params": layers, "stats": {}}})
        init = InitFrom(checkpoint=fingerprint(tmp_path / "m"))
        keep(tmp_path / "m", str(init.checkpoint), RunPaths.at(tmp_path).weights(str(init.checkpoint)))
    configs = {"a": config(0, init_from=init), "b": config(1, init_from=init), "c": config(0)}
    (a, b, fresh), notes = step_zero(trainer, tmp_path, configs)
    for name in a:
        if name.startswith("logits"):
            np.testing.assert_array_equal(a[name], fresh[name])
        else:
            np.testing.assert_array_equal(a[name], theirs[name])
            np.testing.assert_array_equal(b[name], theirs[name])
    assert (a["logits.kernel"] != b["logits.kernel"]).any(), "of each trial's own seed"
    content = str(init.file or init.checkpoint)[:12]
    assert notes == [f"2 trials of pack pack-a-b-c: the last layer (logits) begins anew: train.init_from: {source} {content} "
                     "has 7 classes, here are 10"]  # fmt: skip
    events = list(trainer.train(make_job(tmp_path, configs), lambda: True))
    assert [type(event) for event in events] == [Note, Stopped]
    events = list(trainer.train(make_job(tmp_path, configs, 2), lambda: False))
    assert not any(isinstance(event, Note) for event in events), "told once, not at every resume"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"convolutions.0.kernel": (3, 3, 1, 2)},
         r"layer convolutions.0: its kernel must have the shape \[5, 5, 1, 2\], but has \[3, 3, 1, 2\] there"),
        ({"logits.kernel": (100, 10)}, r"layer logits: its kernel must have the shape \[392, 10\], but has \[100, 10\] there"),
        ({"logits.kernel": (100, 7), "logits.bias": (7,)}, r"layer logits: its kernel must have the shape \[392, 10\]"),
        ({"logits.kernel": (392,)}, r"layer logits: its kernel must have the shape \[392, 10\], but has \[392\] there"),
        ({"halvings.0.bias": None}, r"weights of simplenet_v5, all and no others, but it lacks halvings.0.bias"),
        ({"halvings.1.bias": (2,)}, r"but it has halvings.1.bias, which nothing here takes"),
        ({"halvings.0.bias": None, "halving.bias": (2,)}, r"lacks halvings.0.bias and it has halving.bias, which"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    trainer: Trainer, tmp_path: Path, change: dict[str, tuple[int, ...] | None], words: str
) -> None:
    named = weights_of({"name": "simplenet_v5"})
    for name, shape in change.items():
        named.pop(name, None)
        if shape is not None:
            named[name] = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match=words):
        step_zero(trainer, tmp_path, {"s": config(init_from=InitFrom(file=kept(tmp_path, named)))})


def test_a_trial_of_another_architecture_does_not_fit(trainer: Trainer, teacher: Path) -> None:
    with pytest.raises(
        UserError, match=r"trial t must have the weights of simplenet_v2, all and no others, but it has halvings"
    ):
        step_zero(trainer, teacher, {"s": config(model={"name": "simplenet_v2"}, init_from=InitFrom(trial="t"))})


def test_missing_and_changed_copies_are_refused(trainer: Trainer, tmp_path: Path) -> None:
    content = kept(tmp_path, weights_of({"name": "simplenet_v5"}))
    configs = {"s": config(init_from=InitFrom(file=content))}
    copy = RunPaths.at(tmp_path).weights(content)
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-60] + b"x" + whole[-59:])
    with pytest.raises(UserError, match="the initial weights are damaged"):
        step_zero(trainer, tmp_path, configs)
    copy.unlink()
    with pytest.raises(UserError, match="there is nothing"):
        step_zero(trainer, tmp_path, configs)
    with pytest.raises(UserError, match="Has its trial finished"):
        step_zero(trainer, tmp_path, {"s": config(init_from=InitFrom(trial="t"))})


def test_training_goes_on_from_the_weights(trainer: Trainer, teacher: Path) -> None:
    begun = config(0, init_from=InitFrom(trial="t"))
    events = list(trainer.train(make_job(teacher, {"s": begun, "p": config(0)}), lambda: False))
    assert isinstance(events[-1], Finished)
    losses = {row["trial"]: row["train_loss"] for event in events for row in getattr(event, "rows", [])}
    assert losses["s"] < losses["p"] - 0.1
    without = msgspec.structs.replace(begun, train=msgspec.structs.replace(begun.train, init_from=None))
    assert signature(without) == signature(begun)
    assert set(load_model(RunPaths.at(teacher).model("s"))) == {"params", "stats"}
