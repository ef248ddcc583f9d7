"""The pruning criteria that there are, from the files of their folder: a new one is one file, and nothing here changes."""

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "compress" / "prune" / "criteria"


@dataclass(frozen=True)
class Criterion:
    """What a criterion's file says of it: see `flaxcomp.compress.prune.criteria`."""

    needs: str
    normalize: str
    by_layer: bool  # it compares channels of one group only

    @property
    def sees_images(self) -> bool:
        return self.needs in ("activations", "gradients")


@functools.cache
def criteria() -> dict[str, Criterion]:
    """By name, in alphabetical order; the files are read and not imported."""
    found = {}
    for path in sorted(_FOLDER.glob("*.py")):
        if path.stem != "__init__":
            constants = dict(_constants(ast.parse(path.read_text(), str(path))))
            found[path.stem] = Criterion(constants["NEEDS"], constants["NORMALIZE"], constants.get("SCOPE") == "layer")
    return found


def _constants(tree: ast.Module) -> list[tuple[str, str]]:
    """The names that the module binds to a text."""
    pairs = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            pairs += [(target.id, value.value) for target in targets if isinstance(target, ast.Name)]
    return pairs
