"""L1 norm of filters (Li, Kadav, Durdanovic, Samet, Graf 2017, "Pruning Filters for Efficient ConvNets", section 3.1)."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs, unknown

NEEDS: Needs = "filters"
NORMALIZE = "mean"  # the paper prunes layer by layer


def score(evidence: Evidence) -> Floats:
    """s_j = sum |F_j|, over the weights that make channel j: of all layers that a sum ties, biases left out."""
    if not evidence.filters:
        return unknown(evidence)
    scores: Floats = np.sum([np.abs(weights).sum(1) for weights in evidence.filters], 0)
    return scores
