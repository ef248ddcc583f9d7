"""Teachers' logits of all changed images: computed once where that costs less than asking at every step.

With crops and flips alone an image can be changed in finitely many ways: `(2 pad + 1)^2`, twice that with flips. That is 162
with a pad of 4; the embedded study (Greffe 2019, 5.2.2) counts 2 x 8 x 8 = 128, for its crops begin at 8 offsets of the 9.
Evaluating a teacher on 128 x 50,000 images is less than on the 200 x 50,000 that 200 epochs show.
"""

import hashlib
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flaxcomp import durable
from flaxcomp.sweep.spec import TrialConfig

Logits = npt.NDArray[np.float32]

LARGEST_BYTES = 1 << 30  # of a student's memo, all its teachers: it lies where the training computes


def is_worthwhile(configs: Sequence[TrialConfig], steps: int, images: int, classes: int) -> bool:
    """Whether the students of a pack have their teachers' logits memoised.

    It depends on the pack alone, and not on what is on disk already or on the machine: a pack that is resumed goes on as it
    began. The cost of both ways is counted in evaluations of a teacher: one for each image of each step, or one for each
    image in each way that it can be changed.

    Args:
        configs: of the pack's trials; `distill.memoise` of any of them may decide, `never` before `always`.
        steps: of a training. images: that are trained on. classes: of the data set.
    """
    config = configs[0]
    distill, ways = config.distill, config.train.augment.variants
    wishes = {each.distill.memoise for each in configs if each.distill}
    if distill is None or distill.asks_network or ways is None or "never" in wishes:
        return False
    if "always" in wishes:
        return True
    size = 4 * len(distill.teachers) * ways * images * classes
    return size <= LARGEST_BYTES and ways * images < len(configs) * steps * config.train.batch_size


def key_of(config: TrialConfig) -> str:
    """Names what a memo is of, besides its teacher: the images that are trained on and the ways in which they are changed."""
    augment, dataset = config.train.augment, config.dataset
    changes, split = (augment.pad, augment.pad_mode, augment.flip), dataset.validation
    return hashlib.sha256(repr((changes, dataset.train_limit, split.fraction, split.seed)).encode()).hexdigest()[:16]


def gather(folder: Path, ways: int, shape: tuple[int, int], compute: Callable[[int], Logits]) -> Logits:
    """The logits for each way, from files or computed into them.

    Args:
        folder: of the memo; a file for each way.
        ways: how many.
        shape: images, classes.
        compute: way -> float32 [images, classes].

    Returns:
        float32 [ways, images, classes].
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = np.empty((ways, *shape), np.float32)
    for way in range(ways):
        file = folder / f"{way}.f32"
        logits = read_logits(file, shape)
        if logits is None:
            logits = compute(way)
            write_logits(file, logits)
        table[way] = logits
    return table


def write_logits(file: Path, logits: Logits) -> None:
    content = logits.tobytes()
    durable.write_bytes(file, content + _check(content))


def read_logits(file: Path, shape: tuple[int, int]) -> Logits | None:
    """None where the file is missing or damaged, or was written for other images."""
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    content, check = stored[:-4], stored[-4:]
    if len(content) != 4 * math.prod(shape) or check != _check(content):
        return None
    return np.frombuffer(content, np.float32).reshape(shape)


def _check(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
