"""From a section of the file to its share of a trial, once for each combination of the parameters that it depends on.

A grid is a product and a section depends on its own parameters only, so the points of a grid are put together from few
resolved sections. That makes a point cost microseconds, not a validation.
"""

import importlib
import re
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from flaxcomp.errors import SweepFileError, UserError
from flaxcomp.sweep import distilling, ids
from flaxcomp.sweep.check import check
from flaxcomp.sweep.columns import with_teachers_own
from flaxcomp.sweep.combinations import check_dataset, check_train, effective_train
from flaxcomp.sweep.compression import METHODS
from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.document import Node
from flaxcomp.sweep.kinds import NonNegativeInt
from flaxcomp.sweep.load import LoadedSweep
from flaxcomp.sweep.parts import Part, Parts
from flaxcomp.sweep.spec import (
    Dataset,
    Distill,
    DistillForm,
    DistillOptions,
    InitForm,
    InitFrom,
    Phase,
    TeacherForm,
    Train,
    TrainForm,
    TrainOptions,
    TrialConfig,
    TrialForm,
)
from flaxcomp.sweep.trial import Catalog, Trial

MEMO_LIMIT = 1 << 16  # resolved combinations that are kept of one section

_WILDCARD = re.compile(r"\*\*?")
_TRIALS_OWN = ("init_from", "phases")  # of `base.train`: a teacher has other parameters

_METHOD_KINDS = {field.name: field.type for field in msgspec.structs.fields(TrialForm) if field.name in METHODS}

# What a section is when the file does not say.
ABSENT: dict[str, Any] = {"dataset": {}, "distill": None, "model": {}, "seed": 0, "train": {}} | dict.fromkeys(METHODS)


@dataclass(frozen=True, slots=True)
class _Needed:
    """A training that others need: itself after its ancestors, `Part.depth` of what needs it, and its own columns."""

    chain: tuple[Trial, ...]
    depth: int
    columns: dict[str, Any]

    @property
    def id(self) -> str:
        return self.chain[-1].id


class Resolver:
    """Resolves the sections of one sweep."""

    def __init__(self, loaded: LoadedSweep, catalog: Catalog) -> None:
        self._loaded, self._catalog = loaded, catalog
        self._names = {name for expression in loaded.exclude for name in with_teachers_own(expression.names)}
        self._others: dict[tuple[str, bytes], _Needed] = {}
        self._checked: set[tuple[Part, Part, Part, Any]] = set()

    def dataset(self, node: Node) -> Part:
        value = _convert(node, Dataset, "dataset")
        try:
            fingerprint = self._catalog.fingerprint(value.name)
        except UserError as error:
            raise _placed(error, node, "name") from None
        try:
            images = self._catalog.images(value)
        except UserError as error:
            raise _placed(error, node, "train_limit") from None
        check_dataset(value, images, node)
        return self._part("dataset", value, fingerprint=fingerprint, images=images)

    def model(self, node: Node) -> Part:
        _convert(node, dict[str, Any], "model")
        if not isinstance(node.value.get("name"), str):
            raise node.place.at(("name",)).error("model needs a `name`, the architecture's")
        try:
            value = self._catalog.canonical_model(node.value)
        except UserError as error:
            faulty = next((option for option in node.value if str(error).startswith(f"model.{option}")), "name")
            raise _placed(error, node, faulty) from None
        return self._part("model", value, columns=ids.flatten({"model": node.value}))

    def train(self, node: Node, dataset: Part) -> Part:
        form: TrainForm = _convert(node, TrainForm, "train")
        phases = _phases(node) if form.phases else ()
        initial, needed = None, None
        columns: dict[str, Any] = {}
        if form.init_from is not None:
            initial, columns, needed = self._initial(form.init_from, _inside(node, "init_from"), dataset)
        common = {name: getattr(form, name) for name in TrainOptions.__struct_fields__}
        value = Train(**common | {"phases": phases}, init_from=initial)
        check_train(value, dataset.value, dataset.images, node)
        columns = self._columns("train", value) | columns
        more = {} if needed is None else {"chain": needed.chain, "needs": (needed.id,), "depth": needed.depth}
        return self._part("train", effective_train(value), columns=columns, **more)

    def _initial(self, form: InitForm, node: Node, dataset: Part) -> tuple[InitFrom, dict[str, Any], _Needed | None]:
        """Initial weights, their columns as the file names them, and the training that they come from."""
        given = [name for name in ("trial", "checkpoint", "file") if getattr(form, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise node.place.error(f"train.init_from must have one of trial, checkpoint and file, got {found}")
        if given != ["file"] and (form.names or form.layout != "flax"):
            raise node.place.error(f"train.init_from: names and layout describe a `file`; a {given[0]} needs neither")
        if form.trial is not None:
            needed = self._needed(Node(node.value["trial"], node.place.at(("trial",))), dataset)
            columns = _prefixed("train.init_from.trial", form.trial, needed)
            return InitFrom(trial=needed.id), columns, needed
        (key,) = given
        path: str = getattr(form, key)
        try:
            content = self._catalog.weights(path)
        except UserError as error:
            raise _placed(error, node, key) from None
        names = form.names
        if isinstance(names, str):
            try:
                names = self._catalog.weight_names(names)
            except UserError as error:
                raise _placed(error, node, "names") from None
        for ours, theirs in names.items():
            if len(_WILDCARD.findall(ours)) != len(_WILDCARD.findall(theirs)):
                raise node.place.at(("names", ours)).error(
                    f"train.init_from.names: {theirs!r} must have as many wildcards as {ours!r}, whose meaning they take"
                )
        initial = InitFrom(file=content, names=names, layout=form.layout) if key == "file" else InitFrom(checkpoint=content)
        return initial, {f"train.init_from.{key}": path}, None

    def seed(self, node: Node) -> Part:
        return self._part("seed", _convert(node, NonNegativeInt, "seed"))

    def distill(self, node: Node, dataset: Part) -> Part:
        form: DistillForm | None = _convert(node, DistillForm | None, "distill")
        if form is None:
            return self._part("distill", None)
        needed = [self._teacher(teacher, dataset) for teacher in _teachers(node)]
        value = Distill(teacher="", **{name: getattr(form, name) for name in DistillOptions.__struct_fields__})
        given = self._columns("distill", value)
        try:
            value = distilling.effective(distilling.of_teachers(value, tuple(each.id for each in needed)))
            distilling.check_options(value)
        except UserError as error:
            raise _placed(error, node, _key_of(error, "distill")) from None
        if isinstance(form.teacher, tuple):
            names = [name if isinstance(name, str) else each.id for name, each in zip(form.teacher, needed, strict=True)]
            columns = given | {"distill.teacher": names[0] if len(names) == 1 else msgspec.json.encode(names).decode()}
        else:
            columns = given | _prefixed("distill.teacher", form.teacher, needed[0])
        chain = tuple({trial.id: trial for each in needed for trial in each.chain}.values())
        return self._part("distill", value, columns=columns, chain=chain,
                          needs=value.teachers, depth=max(each.depth for each in needed), place=node.place)  # fmt: skip

    def _teacher(self, node: Node, dataset: Part) -> _Needed:
        needed = self._needed(node, dataset)
        if needed.chain[-1].config.dataset != dataset.value:
            raise node.place.error(
                "distill.teacher: a teacher sees its students' images, so its `dataset` must be theirs; "
                "another one fits train.init_from.trial only"
            )
        return needed

    def check(self, parts: Parts) -> None:
        """Refuse sections that do not go together.

        Raises:
            SweepFileError: with the line.
        """
        distill = parts.distill
        if distill.value is None or distill.place is None:
            return
        key = (parts.dataset, parts.train, distill, parts.model.value.get("num_classes"))  # all that it depends on
        if key in self._checked:
            return
        sections = {name: getattr(parts, name).value for name in ("dataset", "model", "train", "distill")}
        sections |= {name: part.value for name, part in parts.methods}
        teachers = {trial.id: trial.config for trial in distill.chain}
        try:
            distilling.check_training(TrialConfig(**sections), parts.dataset.images.classes, teachers)
        except UserError as error:
            raise distill.place.at((_key_of(error, "distill"),)).error(str(error)) from None
        if len(self._checked) >= MEMO_LIMIT:
            self._checked.clear()
        self._checked.add(key)

    def method(self, name: str, node: Node, dataset: Part, model: Part) -> Part:
        """The block of a method of compression; its value is None where it changes nothing."""
        block = _convert(node, _METHOD_KINDS[name], name)
        if block is None:
            return self._part(name, None)
        module = importlib.import_module(f"flaxcomp.sweep.compression.{name}")
        try:
            module.check(block, Facts(self._catalog.labels(dataset.value.name), model.value, dataset.images.training))
        except UserError as error:
            raise _placed(error, node, _key_of(error, name)) from None
        value = module.effective(block)
        if (table := getattr(value, "costs", None)) is not None:  # a trial is what the table says, not where it lies
            try:
                value = replace(value, costs=self._catalog.table(table))
            except UserError as error:
                raise _placed(error, node, "costs") from None
        return self._part(name, value, columns=self._columns(name, block))

    def _needed(self, node: Node, dataset: Part) -> _Needed:
        """A teacher, or what initial weights come from: the name of an entry of `teachers`, or the training itself."""
        if isinstance(node.value, str):
            node = Node(self._loaded.sweep.teachers[node.value], self._loaded.document.place.at(("teachers", node.value)))
        key = (dataset.fingerprint, dataset.form + msgspec.json.encode(node.value))
        if key not in self._others:
            data = self.dataset(_inside(node, "dataset")) if node.value.get("dataset") else dataset
            train = Node(self._train_of_other(node.value.get("train", {})), node.place.at(("train",)))
            parts = Parts(
                dataset=data,
                distill=self.distill(_inside(node, "distill"), data),
                model=self.model(_inside(node, "model")),
                seed=self.seed(_inside(node, "seed")),
                train=self.train(train, data),
            )
            self.check(parts)
            trial = parts.trial(parts.id(), "dependency")
            columns = {name: value for part in parts if part is not dataset for name, value in part.columns.items()}
            if len(self._others) >= MEMO_LIMIT:
                self._others.clear()
            self._others[key] = _Needed((*parts.ancestors, trial), parts.depth + 1, columns)
        return self._others[key]

    def _train_of_other(self, own: dict[str, Any]) -> dict[str, Any]:
        """`base.train` with a training's own on top, but for what is about the trials' own networks."""
        base = {key: value for key, value in self._loaded.sweep.base.get("train", {}).items() if key not in _TRIALS_OWN}
        if own.get("phases"):
            base.pop("epochs", None)
        return merge(base, own)

    def _part(self, section: str, value: Any, columns: dict[str, Any] | None = None, **more: Any) -> Part:
        """Put a part together; its columns, where they are not given, are those of its value."""
        columns = self._columns(section, value) if columns is None else columns
        plain = ids.signature_fragment(section, value, augmented=False)
        augmented = ids.signature_fragment(section, value, augmented=True) if section == "distill" else plain
        return Part(
            value=value,
            form=ids.fragment(section, value),
            signature=(plain, augmented),
            columns={name: item for name, item in columns.items() if name in self._names},
            **more,
        )

    def _columns(self, section: str, value: Any) -> dict[str, Any]:
        """The columns of a value, made only where `exclude` reads any."""
        return ids.flatten({section: ids.plain(value)}) if self._names else {}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mapping by mapping."""
    merged = base | changes
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = merge(base[key], value)
    return merged


def _phases(node: Node) -> tuple[Phase, ...]:
    """The phases of a `train`, each with the common optimizer and schedule where it says nothing else."""
    place = node.place.at(("phases",))
    if "epochs" in node.value:
        raise place.error("train.phases replaces train.epochs: each phase says how long it lasts. Leave one of the two out")
    phases = []
    for index, phase in enumerate(node.value["phases"]):
        common = {key: node.value[key] for key in ("optimizer", "schedule") if key in node.value}
        phases.append(_convert(Node(merge(common, phase), place.at((index,))), Phase, "phase"))
    return tuple(phases)


def _prefixed(key: str, form: str | TeacherForm, needed: _Needed) -> dict[str, Any]:
    """The columns of a training that a trial needs: at `key` its name in the file, or its id where it has none."""
    own = {f"{key}.{name}": value for name, value in needed.columns.items()}
    return own | {key: form if isinstance(form, str) else needed.id}


def _convert(node: Node, kind: Any, section: str) -> Any:
    try:
        return msgspec.convert(node.value, kind)
    except msgspec.ValidationError as error:
        check(node.value, kind, lambda route: node.place.at(route[1:]), (section,))
        raise node.place.error(f"{section}: {error}") from None


def _teachers(node: Node) -> list[Node]:
    """The teachers of a `distill`, one or several."""
    value, place = node.value["teacher"], node.place.at(("teacher",))
    return [Node(each, place.at((i,))) for i, each in enumerate(value)] if isinstance(value, list) else [Node(value, place)]


def _inside(node: Node, section: str) -> Node:
    return Node(node.value.get(section, ABSENT.get(section)), node.place.at((section,)))


def _key_of(error: UserError, section: str) -> str:
    """The key that a message begins with, as `section.key`."""
    found = re.match(rf"{section}\.(\w+)", str(error))
    return found[1] if found else ""


def _placed(error: UserError, node: Node, key: str) -> SweepFileError:
    return node.place.at((key,)).error(str(error))
