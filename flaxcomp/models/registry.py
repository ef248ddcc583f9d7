"""Finds architectures by listing this folder, and checks their options without importing JAX.

An architecture is one file. Before its first import of JAX or Flax it defines its configuration (a `ModelConfig`) and
`NAMES`, from the names used in sweep files to default configurations; after it, `build(config, input_shape, num_classes,
rngs)`. `plan` and `status` execute the first part only, which is why the order matters.
"""

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flaxcomp.errors import UserError, suggest
from flaxcomp.models.config import ModelConfig, Shape, check_number_of_widths, refuse_unused

if TYPE_CHECKING:
    from flax import nnx

_NAMES = re.compile(r"^NAMES\b", re.MULTILINE)
_ALL = "`flaxcomp models` lists all"
_OF_DATA = ("input_shape", "num_classes")  # options that are the data's where a model does not give them
_HEAVY = {"jax", "flax", "optax", "flaxcomp.models.layers"}


def architecture_files() -> list[str]:
    """The modules of this folder that hold an architecture, which are those with NAMES, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if _NAMES.search(path.read_text()))


def names() -> list[str]:
    """All names that `model.name` may have, sorted."""
    return sorted(name for file in architecture_files() for name in _light(file)["NAMES"])


def config_of(model: dict[str, Any]) -> ModelConfig:
    """Return the full configuration that `model` (a name and options) stands for.

    Raises:
        UserError: the name or an option is unknown, or a value is impossible.
    """
    options = dict(model)
    name = options.pop("name", None)
    if name is None:
        raise UserError("model.name is missing: which architecture is it?" + suggest("", names(), _ALL))
    default = _default(str(name))
    if default is None:
        raise UserError(f"model.name: no architecture is called {name!r}.{suggest(str(name), names(), _ALL)}")
    known = default.__struct_fields__
    for option in options:
        if option not in known:
            raise UserError(f"model.{option}: {name} has no such option.{suggest(option, known)}")
    try:
        config = msgspec.convert({**msgspec.to_builtins(msgspec.structs.asdict(default)), **options}, type(default))
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise UserError(f"model{place.rstrip('`')} of {name}: {message}") from None
    refuse_unused(name, config, options)
    if free := _light(_file_of(name)).get("default_widths"):
        check_number_of_widths(name, getattr(config, "widths"), free(config))  # noqa: B009  of every Classifier
    return config


def canonical(model: dict[str, Any]) -> dict[str, Any]:
    """Return `model` checked, with values in canonical form and options equal to their default left out.

    But for those that otherwise come from the data: 1,000 classes are not what a data set of ten gives.
    """
    config = config_of(model)
    default = _default(model["name"])
    assert default is not None, "config_of has refused it"
    changed = {f: getattr(config, f) for f in config.__struct_fields__
               if getattr(config, f) != getattr(default, f) or (f in _OF_DATA and f in model)}  # fmt: skip
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(changed))  # lists, as in a file and in the store
    return {"name": model["name"], **plain}


def build(model: dict[str, Any], input_shape: tuple[int, int, int], num_classes: int, rngs: "nnx.Rngs") -> "nnx.Module":
    """Make the network that `model` describes.

    Args:
        model: name and options, as in a sweep file.
        input_shape: height, width, channels of the data; an option of the model with that name goes first.
        num_classes: how many logits come out; likewise.
        rngs: a stream `params` for the initial weights.

    Returns:
        A module from float [n, h, w, c] to logits float [n, num_classes]; call it with `rngs=` in training mode.
    """
    module, config = _module_and_config(model)
    input_shape, num_classes = _ends(model, input_shape, num_classes)
    network: nnx.Module = module.build(config, input_shape, num_classes, rngs)
    if masked := getattr(config, "masked"):  # noqa: B009  of every Classifier
        from flaxcomp.models.masked import Masked

        return Masked(network, masked, input_shape)
    return network


def shipped(model: dict[str, Any]) -> dict[str, Any]:
    """`model` as it leaves training; for most architectures as it was trained. See `flaxcomp.models.protocol`."""
    change = _light(_file_of(model["name"])).get("shipped")
    if change is None:
        return model
    before = config_of(model)
    after = change(before)
    return model | {f: getattr(after, f) for f in after.__struct_fields__ if getattr(after, f) != getattr(before, f)}


def ship(network: "nnx.Module", model: dict[str, Any], input_shape: Shape, num_classes: int) -> "nnx.Module":
    """Return a trained network in the form that `shipped` says.

    Args:
        network: as `build` made it from the other arguments, trained.

    Raises:
        UserError: its training is not far enough.
    """
    module, config = _module_and_config(model)
    if not hasattr(module, "ship"):
        return network
    result: nnx.Module = module.ship(network, config, *_ends(model, input_shape, num_classes))
    return result


def small(name: str) -> dict[str, Any]:
    """A reduced form of an architecture, as its file's SMALL says, for tests and trials; {} where it is small as it is."""
    return {"name": name, **_light(_file_of(name)).get("SMALL", {})}


def default_widths(model: dict[str, Any]) -> tuple[int, ...] | None:
    """Every free layer width of a model: its option `widths`, or what stands for it; None for an architecture without."""
    widths = _light(_file_of(model["name"])).get("default_widths")
    if widths is None:
        return None
    config: Any = config_of(model)
    return tuple(config.widths or widths(config))


def _ends(model: dict[str, Any], input_shape: Shape, num_classes: int) -> tuple[Shape, int]:
    return tuple(model.get("input_shape", input_shape)), model.get("num_classes", num_classes)


def _module_and_config(model: dict[str, Any]) -> tuple[Any, ModelConfig]:
    """The module of an architecture, and the configuration as an instance of its own class."""
    config = config_of(model)  # of the class from the light reading of the file
    module = importlib.import_module(f"flaxcomp.models.{_file_of(model['name'])}")
    kind: type[ModelConfig] = type(module.NAMES[model["name"]])
    return module, msgspec.convert(msgspec.to_builtins(msgspec.structs.asdict(config)), kind)


def _default(name: str) -> ModelConfig | None:
    """The configuration that a name stands for without options; None for an unknown name."""
    file = _file_of(name)
    config: ModelConfig | None = _light(file)["NAMES"][name] if file else None
    return config


@functools.cache
def _file_of(name: str) -> str:
    """The file that defines a name, "" if none does. Most bear the name or its beginning: the others need not be read."""
    files = architecture_files()
    likely = sorted(files, key=lambda file: not (name == file or name.startswith(f"{file}_")))
    return next((file for file in likely if name in _light(file)["NAMES"]), "")


@functools.cache
def _light(file: str) -> dict[str, Any]:
    """Execute the part of an architecture's file that comes before its first import of JAX; return its names."""
    path = Path(__file__).with_name(f"{file}.py")
    tree = ast.parse(path.read_text(), str(path))
    end = next((i for i, node in enumerate(tree.body) if _imports_jax(node)), len(tree.body))
    namespace: dict[str, Any] = {"__name__": f"flaxcomp.models.{file}"}
    exec(compile(ast.Module(tree.body[:end], []), str(path), "exec"), namespace)  # our own file, the one `build` imports
    return namespace


def _imports_jax(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in _HEAVY for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module in _HEAVY or (node.module or "").split(".")[0] in _HEAVY)
