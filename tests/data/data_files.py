"""Small data sets of every form that a path may hold."""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from flaxcomp.data.sources import cifar_archive, idx, image_folder, npz
from flaxcomp.data.splits import Decoded, Splits, make_splits


def random_splits(train: int, test: int, shape: tuple[int, int, int], classes: int, seed: int = 0) -> Splits:
    """Random images; every class occurs when there are at least `classes` of them."""
    generator = np.random.default_rng(seed)
    parts = []
    for count in (train, test):
        parts += [
            generator.integers(0, 256, (count, *shape), dtype=np.uint8),
            generator.permutation(np.arange(count) % classes),
        ]
    return make_splits(*parts, origin="random")


def write_idx(folder: Path, splits: Splits, *, compressed: bool) -> Path:
    folder.mkdir(parents=True)
    for part, array in zip(idx.PARTS, splits.named().values(), strict=True):
        data = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
        raw = struct.pack(f">HBB{data.ndim}I", 0, 8, data.ndim, *data.shape) + data.astype(np.uint8).tobytes()
        name = f"{part}-idx{data.ndim}-ubyte"
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / name).write_bytes(raw)
    return folder


def write_npz(path: Path, splits: Splits, names: tuple[str, ...] = ("x_train", "y_train", "x_test", "y_test")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **dict(zip(names, splits.named().values(), strict=True)))
    return path


def cifar_files(splits: Splits, *, classes: int, binary: bool, batches: int = 2) -> dict[str, bytes]:
    """The files of one of CIFAR's four published versions, by name."""
    names = [f"class{index}" for index in range(classes)]
    parts = [(splits.test_images, splits.test_labels)]
    if classes == 10:
        cuts = np.array_split(np.arange(len(splits.train_labels)), batches)
        parts += [(splits.train_images[cut], splits.train_labels[cut]) for cut in cuts]
        files = ["test_batch", *(f"data_batch_{number + 1}" for number in range(batches))]
        meta = "batches.meta.txt" if binary else "batches.meta"
    else:
        parts.append((splits.train_images, splits.train_labels))
        files = ["test", "train"]
        meta = "fine_label_names.txt" if binary else "meta"
    encode = _binary_batch if binary else _pickled_batch
    written = {f"{file}.bin" if binary else file: encode(*part, classes) for file, part in zip(files, parts, strict=True)}
    key = b"label_names" if classes == 10 else b"fine_label_names"
    written[meta] = "\n".join([*names, ""]).encode() if binary else pickle.dumps({key: [name.encode() for name in names]}, 2)
    return written


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_tar_gz(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """One PNG an image in `classN/`, named so that sorting keeps their order."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = folder / f"class{label}" / f"{index:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file)
    return folder


def _pickled_batch(images: np.ndarray, labels: np.ndarray, classes: int) -> bytes:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    content = {b"data": rows, (b"labels" if classes == 10 else b"fine_labels"): labels.tolist()}
    if classes == 100:
        content[b"coarse_labels"] = (labels // 5).tolist()
    return pickle.dumps(content, 2)


def _binary_batch(images: np.ndarray, labels: np.ndarray, classes: int) -> bytes:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    columns = [labels[:, None]] if classes == 10 else [labels[:, None] // 5, labels[:, None]]
    return np.concatenate([*columns, rows], axis=1).astype(np.uint8).tobytes()


def _sorted_by_class(splits: Splits) -> Splits:
    train, test = (np.argsort(labels, kind="stable") for labels in (splits.train_labels, splits.test_labels))
    arrays = (splits.train_images[train], splits.train_labels[train], splits.test_images[test], splits.test_labels[test])
    return make_splits(*arrays, origin="sorted")


GRAY = random_splits(24, 12, (6, 5, 1), 3)
CIFAR10 = random_splits(20, 10, (32, 32, 3), 10)
CIFAR100 = random_splits(100, 100, (32, 32, 3), 100)
IMAGES = _sorted_by_class(random_splits(12, 6, (7, 6, 3), 3))


@dataclass(frozen=True)
class Form:
    """A form of source: `write` makes one below a folder and returns the path to give, `read` must bring back `splits`."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Decoded]
    splits: Splits


def _write_train_and_test(to: Path) -> Path:
    write_images(to / "set" / "train", IMAGES.train_images, IMAGES.train_labels)
    return write_images(to / "set" / "test", IMAGES.test_images, IMAGES.test_labels).parent


def _cifar(classes: int, *, binary: bool, tar: bool) -> Form:
    splits = CIFAR10 if classes == 10 else CIFAR100

    def write(to: Path) -> Path:
        files = cifar_files(splits, classes=classes, binary=binary)
        return write_tar_gz(to / "set.tar.gz", files) if tar else write_folder(to / "set", files)

    return Form(write, cifar_archive.read, splits)


FORMS = {
    "idx": Form(lambda to: write_idx(to / "set", GRAY, compressed=False), idx.read, GRAY),
    "idx_gz": Form(lambda to: write_idx(to / "set", GRAY, compressed=True), idx.read, GRAY),
    "npz": Form(lambda to: write_npz(to / "set.npz", GRAY), npz.read, GRAY),
    "image_folder": Form(_write_train_and_test, image_folder.read, IMAGES),
    "cifar10_python_tar": _cifar(10, binary=False, tar=True),
    "cifar10_python_folder": _cifar(10, binary=False, tar=False),
    "cifar10_binary_tar": _cifar(10, binary=True, tar=True),
    "cifar10_binary_folder": _cifar(10, binary=True, tar=False),
    "cifar100_python_tar": _cifar(100, binary=False, tar=True),
    "cifar100_python_folder": _cifar(100, binary=False, tar=False),
    "cifar100_binary_tar": _cifar(100, binary=True, tar=True),
    "cifar100_binary_folder": _cifar(100, binary=True, tar=False),
}
