"""Sizes in bytes, as sweep files write them."""

import re

UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
SIZE_PATTERN = rf"^[0-9]{{1,15}}(\.[0-9]{{1,15}})? ?({'|'.join(UNITS)})$"


def size_bytes(size: int | str) -> int:
    """Bytes of a size: a whole number of them, or text that matches `SIZE_PATTERN`; ValueError for other text.

    >>> size_bytes("1.5 GiB")
    1610612736
    """
    if isinstance(size, int):
        return size
    if re.fullmatch(SIZE_PATTERN, size) is None:
        raise ValueError(f"not a size: {size!r}")
    number = size.rstrip("BKMGTi ")
    return int(float(number) * UNITS[size.removeprefix(number).strip()])


def show_size(size: float) -> str:
    """A size for people: the largest power of 1024 that leaves at least 1.

    >>> show_size(1610612736)
    '1.5 GiB'
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.1f} {unit}"
    return f"{size:.0f} B"
