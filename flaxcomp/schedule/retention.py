"""Keeps a run folder below the size that the sweep's `retention` allows."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.sizes import show_size, size_bytes
from flaxcomp.sweep.spec import Retention


class Trimmer:
    """Removes networks of finished trials, the oldest first, when the run folder has grown too large.

    The folder is measured once; after that only what changes is.

    Args:
        spec: the sweep's.
        paths: of the run folder.
        kept: the trials that are never touched now: those that the sweep's export will want, and the front where `keep` names
            it. Asked only when something may have to go: it reads the whole run.
    """

    def __init__(self, spec: Retention, paths: RunPaths, kept: Callable[[], Collection[str]]) -> None:
        self._limit = size_bytes(spec.total)
        self._keep, self._paths, self._kept = spec.keep, paths, kept
        self._trials = {folder.name: _size(folder) for folder in sorted(paths.trials.glob("*"), key=_age)}
        self._total = sum(self._trials.values())
        self._needed: set[str] = set()
        self._told = self._exhausted = False

    def trim(self, finished: Collection[str], needed: Collection[str]) -> str | None:
        """Take note of trials that have just finished, and remove what must go.

        Args:
            needed: trials whose networks others still wait for.

        Returns:
            what there is to tell, if anything.
        """
        for trial in finished:
            self._total -= self._trials.pop(trial, 0)  # to the end: it is the newest now
            self._trials[trial] = _size(self._paths.trial(trial))
            self._total += self._trials[trial]
        # Trials are counted from the ledger: there may be a hundred thousand. The other folders hold few files.
        new = [trial for trial in {*finished, *self._needed.difference(needed)} if any(self._may_go(trial))]
        self._needed = set(needed)
        others = sum(_size(path) for path in self._paths.root.iterdir() if path != self._paths.trials)
        used = before = others + self._total
        removed = 0
        look = used > self._limit and (new or not self._exhausted)
        for path in self._candidates() if look else ():
            used -= self._remove(path)
            removed += 1
            if used <= self._limit:
                break
        self._exhausted = used > self._limit
        state = f"the run folder holds {show_size(used)}, `total` is {show_size(self._limit)}"
        if removed:
            return f"retention: {state}, after {removed} files and networks of {show_size(before - used)} were removed"
        if used > self._limit and not self._told:
            self._told = True
            return f"retention: {state}, and nothing is left that may be removed"
        return None

    def _candidates(self) -> Iterator[Path]:
        """What may go, what is missed least first."""
        kept = self._needed.union(self._kept())
        free = [trial for trial in self._trials if trial not in kept]
        for kind in self._kinds():
            yield from filter(Path.exists, map(kind, free))

    def _may_go(self, trial: str) -> Iterator[bool]:
        return (kind(trial).exists() for kind in self._kinds())

    def _kinds(self) -> list[Callable[[str], Path]]:
        """The parts of a trial that `keep` does not name, what is missed least first."""
        paths = self._paths  # first what can be computed again
        kinds: list[Callable[[str], Path]] = [paths.heat_maps, paths.teacher_memos, paths.teacher_logits]
        if "best" not in self._keep:
            kinds.append(paths.best_model)
        if "latest" not in self._keep:
            kinds.append(paths.model)
        return kinds

    def _remove(self, path: Path) -> int:
        """Remove a network or a file of a trial; returns how many bytes that freed."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        trial = path.parent
        before = self._trials[trial.name]
        self._trials[trial.name] = _size(trial)
        freed = before - self._trials[trial.name]
        self._total -= freed
        return freed


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    found = [Path(folder, file) for folder, _, files in os.walk(path) for file in files] if path.is_dir() else [path]
    total = 0
    for file in found:
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def _age(path: Path) -> float:
    return path.stat().st_mtime
