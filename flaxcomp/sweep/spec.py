"""What a sweep file and a trial may say, as frozen structs: checked once, when they are read.

Field names are the keys of the file. Defaults are left out of a trial's canonical form, so that a new option does not
change the id of old trials.
"""

from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from flaxcomp import distill
from flaxcomp.sweep.compression.cramnet import Cramnet
from flaxcomp.sweep.compression.morphnet import Morphnet
from flaxcomp.sweep.compression.netadapt import Netadapt
from flaxcomp.sweep.compression.prune import Prune
from flaxcomp.sweep.compression.quantize import Quantize
from flaxcomp.sweep.compression.subset import Subset
from flaxcomp.sweep.kinds import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Spec, Unit
from flaxcomp.sweep.sizes import SIZE_PATTERN, size_bytes
from flaxcomp.sweep.stopping import EarlyStop

Precision = Literal["float32", "float16", "weight_only", "dynamic", "int16", "int8"]
Quantizer = Literal["tensorflow", "ai_edge"]
Size = int | Annotated[str, Meta(extra_json_schema={"pattern": SIZE_PATTERN})]  # bytes, or text such as 200 GiB
if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(distill.losses())]


class Validation(Spec, frozen=True):
    """The held-out part of the training images; it chooses, the test set only reports."""

    fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.1  # share of the training images
    seed: NonNegativeInt = 0  # of the split; not the trial's seed, so that all trials hold out the same images


class Dataset(Spec, frozen=True):
    name: str
    validation: Validation = Validation()
    train_limit: PositiveInt | None = None  # use the first n training images only, before the split
    size: Annotated[int, Meta(ge=1, le=1024)] | None = None  # pixels: images are resized to size x size
    normalize: Literal["unit", "channel", "image"] = "unit"  # x/255; per channel; zero mean and unit norm per image


class Optimizer(Spec, frozen=True):
    name: Literal["adam", "rmsprop", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.0  # L2: added to the gradient before the optimizer's own update
    momentum: Fraction = 0.0  # sgd, rmsprop
    nesterov: bool = False  # sgd
    beta1: Fraction = 0.9  # adam
    beta2: Fraction = 0.999  # adam
    decay: Fraction = 0.9  # rmsprop: of the mean square
    epsilon: Positive = 1e-8


class Schedule(Spec, frozen=True):
    name: Literal["constant", "cosine", "multi_step", "exponential"] = "constant"
    milestones: tuple[PositiveInt, ...] = ()  # multi_step: epochs at which the rate is multiplied by `factor`
    factor: Annotated[float, Meta(gt=0, le=1)] = 0.1  # multi_step, exponential
    every_epochs: Positive = 1.0  # exponential: rate * factor ** floor(epoch / every_epochs)
    final: Unit = 0.0  # cosine: the last rate as a share of the first


class Augment(Spec, frozen=True):
    pad: NonNegativeInt = 0  # pad by so many pixels on each side, then crop at random to the original size
    pad_mode: Literal["constant", "reflect"] = "reflect"
    flip: bool = False  # left to right, half of the images
    brightness: NonNegative = 0.0  # add uniform +-x, in units of [0, 255]
    contrast: tuple[Positive, Positive] | None = None  # factor around the channel's mean, uniform in this range

    def __post_init__(self) -> None:
        if self.contrast is not None and self.contrast[0] > self.contrast[1]:
            raise ValueError(f"contrast must be [low, high] with low <= high, got {list(self.contrast)}")

    @property
    def is_random(self) -> bool:
        """Whether the images differ from epoch to epoch, so that a teacher's logits cannot be computed once."""
        return self.pad > 0 or self.flip or self.brightness > 0 or self.contrast is not None

    @property
    def variants(self) -> int | None:
        """In how many ways an image can be changed; None: endless ones."""
        if self.brightness > 0 or self.contrast is not None:
            return None
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)


class Phase(Spec, frozen=True):
    """A part of a training with an optimizer of its own; its schedule counts from its first step."""

    train: Literal["all", "last"] | Annotated[tuple[str, ...], Meta(min_length=1)] = "all"  # or patterns of parameter names
    epochs: PositiveInt | None = None  # how long: one of these two
    steps: PositiveInt | None = None
    optimizer: Optimizer = Optimizer()  # in a file: what differs from train.optimizer
    schedule: Schedule = Schedule()  # likewise
    freeze_statistics: bool = False  # batch norms use their running statistics and leave them as they are

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("a phase lasts so many `epochs` or so many `steps`: give one of them")


class InitFrom(Spec, frozen=True):
    """Initial weights in a resolved trial, by what they are and not by where they lie; one of the first three is given."""

    trial: str | None = None  # id of the trial whose final network it is
    checkpoint: str | None = None  # SHA-256 of a model folder
    file: str | None = None  # SHA-256 of a .safetensors or .npz file
    names: dict[str, str] = {}  # of `file`: from parameters here to the names there, see flaxcomp.checkpoint.weights
    layout: Literal["flax", "torch"] = "flax"  # of `file`


class TrainOptions(Spec, frozen=True):
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 128
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations and products; parameters stay float32
    # the share of their old running statistics that batch norms keep at each step; None: as the architecture's authors have it
    batch_norm_momentum: Fraction | None = None
    checkpoint_every_epochs: PositiveInt = 1
    phases: tuple[Phase, ...] = ()  # one after the other, instead of `epochs`


class Train(TrainOptions, frozen=True, kw_only=True):
    init_from: InitFrom | None = None

    @property
    def total_epochs(self) -> int | None:
        """How many epochs the training has, all phases together; None where a phase is counted in steps."""
        if not self.phases:
            return self.epochs
        total = 0
        for phase in self.phases:
            if phase.epochs is None:
                return None
            total += phase.epochs
        return total


class Hint(Spec, frozen=True):
    """A layer of the teacher that a layer of the student learns to foretell (FitNets, Romero et al. 2015)."""

    teacher_layer: str = "middle"  # a name as `flaxcomp.train.hints` lists them; middle: of the blocks one after the other
    student_layer: str = "middle"
    weight: Positive = 1.0  # of half the mean squared error between them
    epochs: NonNegativeInt = 0  # of train.epochs, so many first ones learn hints alone; 0: hints beside the loss, all along


class DistillOptions(Spec, frozen=True):
    """How a student learns from its teacher; `flaxcomp.distill` has the losses and what each reads."""

    loss: LossName = "soft_mse"
    temperature: Positive = 1.0
    hard_weight: Unit = msgspec.field(default=0.2, name="lambda")  # hinton's lambda
    temperature_power: NonNegative = 2.0  # soft_ce: the loss is multiplied by T to this power
    weights: tuple[Positive, ...] = ()  # of several teachers, in their order; (): all alike
    combine: Literal["probabilities", "logits"] = "probabilities"  # of several teachers: which of theirs is averaged
    teacher_mode: Literal["eval", "train"] = "eval"  # what its batch norms use: their running statistics, or the batch's
    hint: Hint | None = None
    memoise: Literal["auto", "always", "never"] = "auto"  # its logits of all changed images; changes no result, nor an id


class Distill(DistillOptions, frozen=True, kw_only=True):
    """Distillation in a resolved trial."""

    teacher: str | tuple[str, ...]  # the teacher's trial id; of several, sorted

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    @property
    def asks_network(self) -> bool:
        """Whether the logits that the teacher has for an image once and for all do not do, augmentation aside."""
        return self.hint is not None or self.teacher_mode == "train"


class Compression(Spec, frozen=True):
    """The methods that make a trained network smaller, in the order in which they apply."""

    prune: Prune | None = None
    morphnet: Morphnet | None = None
    netadapt: Netadapt | None = None
    cramnet: Cramnet | None = None
    subset: Subset | None = None
    quantize: Quantize | None = None


class TrialConfig(Compression, frozen=True, kw_only=True, gc=False):
    """One fully resolved training. `model` has `name` and the architecture's own options, defaults left out.

    Of several methods the last one is this trial's own: it starts from the network of the trial `source`, which has the others.
    """

    dataset: Dataset
    model: dict[str, Any]
    train: Train = Train()
    distill: Distill | None = None
    seed: NonNegativeInt = 0  # initial weights, dropout, batch order and augmentation
    source: str | None = None  # the id of the trial whose network is made smaller


class TeacherForm(Spec, frozen=True):
    """A training that others need, as the file has it: `dataset` comes from the trial, `train` is merged into `base.train`."""

    model: dict[str, Any]
    train: "TrainForm" = msgspec.field(default_factory=lambda: TrainForm())
    distill: "DistillForm | None" = None  # the teacher's own teacher: a teacher assistant
    seed: NonNegativeInt = 0


class DistillForm(DistillOptions, frozen=True, kw_only=True):
    """Distillation as the file has it."""

    # the name of an entry of `teachers`, or the training itself; a list of these: an ensemble
    teacher: str | TeacherForm | Annotated[tuple[str | TeacherForm, ...], Meta(min_length=1)]


class SourceForm(TeacherForm, frozen=True, kw_only=True):
    """A training whose network others start from."""

    dataset: Dataset | None = None  # the trial's own if not given


class InitForm(Spec, frozen=True):
    """Initial weights as the file has them; paths are from the working directory or beside the sweep file."""

    trial: str | SourceForm | None = None  # the name of an entry of `teachers`, or the training itself
    checkpoint: str | None = None  # a model folder of any run
    file: str | None = None  # .safetensors or .npz
    names: str | dict[str, str] = {}  # of `file`: the map, or the path of a YAML file with it
    layout: Literal["flax", "torch"] = "flax"  # of `file`: torch has OIHW convolutions and [out, in] dense layers


class TrainForm(TrainOptions, frozen=True, kw_only=True):
    """`train` as the file has it."""

    init_from: InitForm | None = None


class TrialForm(Compression, frozen=True, kw_only=True):
    """A trial as the file has it: what `base` and `parameters` together make."""

    dataset: Dataset
    model: dict[str, Any]
    train: TrainForm = TrainForm()
    distill: DistillForm | None = None
    seed: NonNegativeInt = 0


class Metric(Spec, frozen=True):
    name: str
    goal: Literal["maximize", "minimize"]


class Calibration(Spec, frozen=True):
    """How a file's ranges are found: the smallest and largest value of each activation on some of the training images."""

    images: PositiveInt = 200
    seed: NonNegativeInt = 0  # which images
    quantizer: Quantizer = "tensorflow"


class Export(Spec, frozen=True):
    """Of `quantizer`, `calibration_images` and `calibration_seed` several may be given: a file for each, of int16 and int8."""

    select: Annotated[str, Meta(pattern=r"^(front|all|best:[1-9][0-9]*)$")] = "front"  # best:N by the first metric
    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1)] = ("float32", "float16", "dynamic", "int8")
    onnx: bool = True
    quantizer: Quantizer | Annotated[tuple[Quantizer, ...], Meta(min_length=1)] = "tensorflow"  # what makes int16 and int8
    calibration_images: PositiveInt | Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] = 200
    calibration_seed: NonNegativeInt | Annotated[tuple[NonNegativeInt, ...], Meta(min_length=1)] = 0
    max_accuracy_drop: NonNegative = 0.01  # a larger drop against the Flax model marks the artifact

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """All that `quantizer`, `calibration_images` and `calibration_seed` ask for, each once."""
        quantizers: tuple[Quantizer, ...] = (self.quantizer,) if isinstance(self.quantizer, str) else self.quantizer
        images, seeds = (
            (value,) if isinstance(value, int) else value for value in (self.calibration_images, self.calibration_seed)
        )
        found = (Calibration(images=i, seed=s, quantizer=q) for q, i, s in product(quantizers, images, seeds))
        return tuple(dict.fromkeys(found))


class Benchmark(Spec, frozen=True):
    pool: str  # path of a device pool file, relative to the working directory or to the sweep file
    protocol: str = "standard"  # a preset of flaxcomp.devices.protocol


class Resources(Spec, frozen=True):
    workers: PositiveInt | Literal["auto"] = "auto"
    gpu: NonNegative = 0.0  # GPUs a worker; a fraction shares one
    cpu: Positive | Literal["auto"] = "auto"
    pack: PositiveInt | Literal["auto"] = "auto"  # trials trained together in one program


class Retry(Spec, frozen=True):
    error: NonNegativeInt = 0  # the configuration's own fault: trying again gives the same
    out_of_memory: NonNegativeInt = 2  # halve the pack, then alone
    lost: NonNegativeInt = 10  # worker or node lost


class Retention(Spec, frozen=True):
    """What may be removed when a run folder has grown to `total`: networks of finished trials, the oldest first.

    Always kept are records, reports, files made from winners, checkpoints of packs in training, networks that waiting trials
    need, and those that `export.select` chooses.
    """

    total: Size  # of the run folder
    # latest: the network after the last epoch; best: of the best epoch; front: both, of trials on the front
    keep: tuple[Literal["latest", "best", "front"], ...] = ("latest", "front")

    def __post_init__(self) -> None:
        try:
            size = size_bytes(self.total)
        except ValueError:
            size = 0
        if size < 1:
            raise ValueError(f"total must be bytes, or text such as 200 GiB, and at least 1 B; got {self.total!r:.80}")


class Sampler(Spec, frozen=True):
    """Which trials `method: optuna` tries next, from what the ones before have come to."""

    name: Literal["tpe", "nsga2"] = "tpe"
    batch: PositiveInt = 16  # trials asked for at once, the next when all of them have ended; the first at random. A generation


class Sweep(Spec, frozen=True):
    """A sweep file after its syntax was checked; `base` and `parameters` are checked against each trial."""

    version: Literal[1]
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    base: dict[str, Any]
    parameters: dict[str, Any] | list[dict[str, Any]] = {}  # a list: the union of several grids
    method: Literal["grid", "random", "optuna"] = "grid"
    trials: PositiveInt | None = None  # random, optuna: how many to draw
    sampling_seed: NonNegativeInt = 0  # random, optuna
    sampler: Sampler | None = None  # optuna; None: as if `{name: tpe}` were given
    teachers: dict[str, dict[str, Any]] = {}  # named trainings that distill.teacher may refer to
    exclude: tuple[str, ...] = ()
    metrics: Annotated[tuple[Metric, ...], Meta(min_length=1)] = (
        Metric(name="val_accuracy", goal="maximize"),
        Metric(name="params", goal="minimize"),
    )
    constraints: tuple[str, ...] = ()
    early_stop: EarlyStop | None = None
    export: Export | None = None
    benchmark: Benchmark | None = None
    resources: Resources = Resources()
    retry: Retry = Retry()
    retention: Retention | None = None  # None: everything is kept
