"""A folder of class folders of images; beside them or above them may stand `train` and `test`."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxcomp.data.progress import Report, silent
from flaxcomp.data.splits import Decoded, Images, make_splits
from flaxcomp.errors import MissingPackageError, UserError

try:
    import PIL.Image
    import PIL.ImageOps
except ImportError as error:
    raise MissingPackageError("folders of images are read by Pillow. Run: pip install 'flaxcomp[full]'") from error

_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_GRAY = frozenset(("1", "L", "LA"))
_TEST_SHARE = 10  # where there is no test folder, one image in ten of each class becomes the test set
_REPORT_EVERY = 100


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with folders in it."""
    return path.is_dir() and bool(_folders(path))


def read(path: Path, report: Report = silent, image_size: int | None = None) -> Decoded:
    """Decode the images; the sorted names of the class folders are the labels.

    With `train` and `test` (or `val`) in `path` these are the splits. Without, of each class one image in ten makes the test
    set: those whose relative path has the smallest SHA-256, so that the choice is the same everywhere.

    Args:
        path: the folder.
        report: is told the images done.
        image_size: side in pixels; each image is cropped to its central square and scaled to it. None: all have one size.

    Raises:
        UserError: no images, different sizes without `image_size`, a file that is truncated or no image.
    """
    parts = {folder.name: folder for folder in _folders(path)}
    test_folder = parts.get("test") or parts.get("val")
    if "train" in parts and test_folder:
        train, labels = _classes(parts["train"])
        test, test_labels = _classes(test_folder)
        if test_labels != labels:
            raise UserError(f"{parts['train']} and {test_folder} must have the same classes; found {labels} and {test_labels}.")
    else:
        everything, labels = _classes(path)
        train, test = _hold_out(path, everything)
    form = _form([file for file, _ in train + test], image_size)
    images = form.decode([file for file, _ in train + test], report)
    numbers = np.array([label for _, label in train + test], np.int32)
    held = len(train)
    return Decoded(make_splits(images[:held], numbers[:held], images[held:], numbers[held:], origin=str(path)), labels)


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _classes(path: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Each image with its label, in the order of labels and file names; the names of the classes."""
    folders = _folders(path)
    images = []
    for label, folder in enumerate(folders):
        files = sorted(file for file in folder.rglob("[!.]*") if file.suffix.lower() in _SUFFIXES and file.is_file())
        if not files:
            raise UserError(f"{folder} must hold images of its class ({', '.join(sorted(_SUFFIXES))}); there are none.")
        images += [(file, label) for file in files]
    return images, tuple(folder.name for folder in folders)


def _hold_out(path: Path, images: list[tuple[Path, int]]) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    by_class: dict[int, list[Path]] = {}
    for file, label in images:
        by_class.setdefault(label, []).append(file)
    chosen: set[Path] = set()
    for files in by_class.values():
        if len(files) < 2:
            raise UserError(f"{files[0].parent} must hold two images or more, to train and to test; it holds one.")
        files.sort(key=lambda file: hashlib.sha256(file.relative_to(path).as_posix().encode()).digest())
        chosen.update(files[: max(1, len(files) // _TEST_SHARE)])
    return [entry for entry in images if entry[0] not in chosen], [entry for entry in images if entry[0] in chosen]


@dataclass(frozen=True)
class _Form:
    """What every image is brought to."""

    size: tuple[int, int]  # width, height
    mode: str  # Pillow's: L or RGB
    crop: bool

    def decode(self, files: list[Path], report: Report) -> Images:
        width, height = self.size
        images = np.empty((len(files), height, width, len(self.mode)), np.uint8)
        for index, file in enumerate(files):
            with _opened(file) as image:
                upright = PIL.ImageOps.exif_transpose(image).convert(self.mode)
                fitted = PIL.ImageOps.fit(upright, self.size) if self.crop else upright
                images[index] = np.asarray(fitted).reshape(images.shape[1:])
            if (index + 1) % _REPORT_EVERY == 0 or index + 1 == len(files):
                report("decode images", index + 1, len(files))
        return images


def _form(files: list[Path], image_size: int | None) -> _Form:
    """Gray where all images are; their one size, or the wanted one. Reads only the heads."""
    mode, first = "L", None
    for file in files:
        with _opened(file) as image:
            if image.mode not in _GRAY:
                mode = "RGB"
            size = PIL.ImageOps.exif_transpose(image).size if image_size is None else (image_size, image_size)
        if first is None:
            first = size
        elif size != first:
            raise UserError(
                f"all images must have one size; {files[0]} is {first[0]}x{first[1]} and {file} is {size[0]}x{size[1]}. "
                f"Give --size N to crop and scale them all to N x N."
            )
    assert first is not None, "every class folder has images"
    return _Form(first, mode, image_size is not None)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[PIL.Image.Image]:
    try:
        with PIL.Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise UserError(f"{file} is truncated or no image that Pillow reads ({error}). Replace or remove it.") from error
