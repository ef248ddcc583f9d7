"""CramNet (Hoffman 2018, chapter 3): sub-problem after sub-problem, each taught by the original network and the labels.

The source says nothing of how a sub-problem's weights begin, what its rate is, and how long it lasts; these are options. What
stands behind a sub-problem does not train with it, for "only a few layers are trained at any one time". The final fine-tuning
is the ordinary training that follows every method.
"""

from collections.abc import Generator
from typing import Any

from flaxcomp.compress.cramnet.problems import SubProblem, find
from flaxcomp.compress.cramnet.solving import Solving, is_small, with_dropout
from flaxcomp.compress.method import Found, Shape, Workshop
from flaxcomp.models import registry
from flaxcomp.sweep.compression.cramnet import Cramnet
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.job import Event


def check(config: TrialConfig, shape: Shape, classes: int) -> None:
    """Refuse what no sub-problems can be found for.

    Raises:
        UserError: see `flaxcomp.compress.cramnet.problems.find`; or the model has no dropout to change.
    """
    block = _block(config)
    find(with_dropout(config.model, block.dropout), shape, classes, block.widths, block.ratio, block.replace)


def outlook(config: TrialConfig, shape: Shape, classes: int) -> dict[str, Any]:
    """The model once all sub-problems are solved."""
    block = _block(config)
    model = registry.canonical(registry.shipped(config.model))
    for problem in find(model, shape, classes, block.widths, block.ratio, block.replace):
        model = problem.solved(model)
    return with_dropout(model, block.dropout)


def search(workshop: Workshop) -> Generator[Event, None, Found]:
    """Solve the sub-problems one after the other.

    Raises:
        Stop: asked to; an attempt goes on from the last whole epoch.
        UserError: as `check`, for the network that is really there.
    """
    block, model = _block(workshop.config), registry.canonical(workshop.source.model)
    problems = find(model, workshop.shape, workshop.classes, block.widths, block.ratio, block.replace)
    if block.direction == "output_first":
        problems.reverse()
    if not block.solves:
        return _unsolved(workshop, problems, model)
    solving = Solving(workshop, block, model)
    yield from solving.run(problems)
    return solving.found()


def _unsolved(workshop: Workshop, problems: list[SubProblem], model: dict[str, Any]) -> Found:
    """The network that is wanted, where no weights are and no accuracy decides."""
    block, shape, classes = _block(workshop.config), workshop.shape, workshop.classes
    solved = 0
    for problem in problems:
        if is_small(model, shape, classes, block.target_params):
            break
        model, solved = problem.solved(model), solved + 1
    ended = "done" if solved == len(problems) else "target_params"
    return Found(with_dropout(model, block.dropout), None, {"cramnet_sub_problems": solved, "cramnet_ended": ended})


def _block(config: TrialConfig) -> Cramnet:
    assert config.cramnet is not None
    return config.cramnet
