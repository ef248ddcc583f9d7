"""Canonical form, ids and compile signatures of trials.

The canonical form is JSON with keys in the order of `SECTIONS`, sorted inside each, in which every value equal to its default
is left out, so that writing a default out keeps a trial's id, and so does a new option in a later release.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from flaxcomp import distill
from flaxcomp.sweep.compression import METHODS
from flaxcomp.sweep.spec import Distill, Hint, Optimizer, Schedule, Train, TrialConfig

RECIPE_VERSION = 1  # raised when the same configuration no longer trains to the same result
DENSE_SECTIONS = ("dataset", "distill", "model", "seed", "train")  # of a configuration
SECTIONS = (*DENSE_SECTIONS, *METHODS, "source")

# A compiled program takes these as inputs, so trials that differ in them alone can train in one pack.
OPTIMIZER_INPUTS = ("learning_rate", "weight_decay", "momentum", "beta1", "beta2", "decay", "epsilon")
DISTILL_INPUTS = (*distill.options(), "weights")
# The columns of those, as a file has them, and of what changes no result.
DISTILL_INPUT_COLUMNS = frozenset(
    {f"distill.{field.encode_name}" for field in msgspec.structs.fields(Distill) if field.name in (*DISTILL_INPUTS, "memoise")}
    | {"distill.hint.weight"}
)

_ID_LENGTH = 16
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(TrialConfig)}
_OPTIMIZER_DEFAULTS = {name: getattr(Optimizer(), name) for name in OPTIMIZER_INPUTS}
_DISTILL_DEFAULTS = {name: getattr(Distill(teacher=""), name) for name in DISTILL_INPUTS}
_HOW = {"memoise": Distill(teacher="").memoise}  # how a student is served, not what it learns: of no trial's id


def canonical(config: TrialConfig) -> bytes:
    """The canonical form of a configuration; `msgspec.json.decode(_, type=TrialConfig)` reads it back.

    1 and 1.0 are one value where the field is a float, also in structs made without validation.
    """
    config = msgspec.convert(plain(config), TrialConfig)
    return join(fragment(name, getattr(config, name)) for name in SECTIONS)


def trial_id(config: TrialConfig, fingerprint: str) -> str:
    """The id of a trial: 16 hexadecimal digits over its canonical form, the data's fingerprint and `RECIPE_VERSION`."""
    return id_of(canonical(config), fingerprint)


def signature(config: TrialConfig) -> str:
    """The compile signature: equal for trials that one compiled program can train.

    Left out are the seed, the initial weights, the optimizers' and the distillation's numbers, and the teacher when its logits
    over the training set are an input as well: nothing is augmented at random, and it gives no hints. Trials with a method of
    compression find their programs one by one: equal signatures say only that they are of one kind.
    """
    config = msgspec.convert(plain(config), TrialConfig)
    augmented = config.train.augment.is_random
    return signature_of(join(signature_fragment(name, getattr(config, name), augmented=augmented) for name in SECTIONS))


def flatten(config_json: dict[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """Dotted columns with scalars: lists become their JSON text, unless they are wanted; nulls and empty mappings are left out.

    >>> flatten({"model": {"name": "wide", "widths": [16, 32]}, "distill": None})
    {'model.name': 'wide', 'model.widths': '[16,32]'}
    """
    columns: dict[str, Any] = {}
    for key, value in config_json.items():
        if isinstance(value, dict):
            columns.update({f"{key}.{inner}": item for inner, item in flatten(value, lists=lists).items()})
        elif isinstance(value, list | tuple):
            columns[key] = list(value) if lists else msgspec.json.encode(value).decode()
        elif value is not None:
            columns[key] = value
    return columns


# What is trained first, and its methods after it.
COLUMN_ORDER = ("dataset", "model", "train", "distill", *METHODS, "seed", "source")


def columns_of(config: TrialConfig, *, lists: bool = False) -> dict[str, Any]:
    """A configuration in dotted columns, defaults included, what is trained first and its methods after it; see `flatten`."""
    return flatten({name: plain(getattr(config, name)) for name in COLUMN_ORDER}, lists=lists)


def plain(value: Any, *, defaults: bool = True) -> Any:
    """A struct as mappings with the file's keys; with `defaults=False` without what equals its default.

    (msgspec's own `omit_defaults` compares most values by identity, so it leaves out 0.9 or not by chance.)
    """
    if isinstance(value, tuple):
        return tuple(plain(item, defaults=defaults) for item in value)
    if not isinstance(value, msgspec.Struct):
        return value
    items = ((key, getattr(value, name), default) for name, key, default in _fields(type(value)))
    return {key: plain(item, defaults=defaults) for key, item, default in items if defaults or item != default}


def fragment(section: str, value: Any) -> bytes:
    """One section's share of a canonical form, empty when it is the default."""
    if isinstance(value, Distill):
        value = replace(value, **_HOW)
    if value == _DEFAULTS[section]:
        return b""
    return b'"%b":%b' % (section.encode(), msgspec.json.encode(plain(value, defaults=False), order="sorted"))


def signature_fragment(section: str, value: Any, *, augmented: bool) -> bytes:
    """One section's share of a signature: the numbers that a program takes as inputs are at their defaults.

    Args:
        section: one of `SECTIONS`.
        value: that section of a resolved configuration.
        augmented: whether images are augmented at random, which makes the teacher a part of the program.
    """
    if section in ("seed", "source"):
        return b""
    if isinstance(value, Train):
        return _kept_fragment(section, program_of(value))
    if isinstance(value, Distill):
        return _kept_fragment(section, _lesson_of(value, by_network=augmented or value.asks_network))
    return fragment(section, value)


def program_of(train: Train) -> Train:
    """What a compiled program depends on: without the optimizers' numbers, initial weights, and what phases replace."""
    if train.phases:
        phases = tuple(replace(phase, optimizer=_without_numbers(phase.optimizer)) for phase in train.phases)
        return replace(train, init_from=None, optimizer=Optimizer(), schedule=Schedule(), phases=phases)
    return replace(train, init_from=None, optimizer=_without_numbers(train.optimizer))


def _lesson_of(value: Distill, *, by_network: bool) -> Distill:
    """What a compiled program depends on: without numbers, and without the teachers where their logits are an input."""
    hint = value.hint and replace(value.hint, weight=Hint().weight)
    nobody = "" if isinstance(value.teacher, str) else ("",) * len(value.teacher)
    return replace(value, **_DISTILL_DEFAULTS, hint=hint, teacher=value.teacher if by_network else nobody)


def _without_numbers(optimizer: Optimizer) -> Optimizer:
    return replace(optimizer, **_OPTIMIZER_DEFAULTS)


@functools.lru_cache(maxsize=1024)
def _kept_fragment(section: str, value: Any) -> bytes:
    """Many trials differ in what a program takes as inputs only, so this is asked for the same few values."""
    return fragment(section, value)


def join(fragments: Iterable[bytes]) -> bytes:
    """A canonical form of fragments in the order of `SECTIONS`."""
    return b"{%b}" % b",".join(filter(None, fragments))


def id_of(form: bytes, fingerprint: str) -> str:
    return hashlib.sha256(b"trial %d %b %b" % (RECIPE_VERSION, fingerprint.encode(), form)).hexdigest()[:_ID_LENGTH]


def signature_of(form: bytes) -> str:
    return hashlib.sha256(b"signature %d %b" % (RECIPE_VERSION, form)).hexdigest()[:_ID_LENGTH]


def pack_id(signature: str, trial_ids: tuple[str, ...]) -> str:
    return hashlib.sha256(f"pack {signature} {' '.join(trial_ids)}".encode()).hexdigest()[:_ID_LENGTH]


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> tuple[tuple[str, str, Any], ...]:
    """Name, key in the file and default of each field."""
    return tuple((field.name, field.encode_name, _default(field)) for field in msgspec.structs.fields(struct))


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
