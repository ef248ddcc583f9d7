"""L2 norm of filters (as NetAdapt has it: Yang et al. 2018, section 3.3; Greffe 2019, section 4.2.1)."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs, unknown

NEEDS: Needs = "filters"
NORMALIZE = "mean"  # the paper chooses within a layer


def score(evidence: Evidence) -> Floats:
    """s_j = sqrt(sum F_j^2), over the weights that make channel j: of all layers that a sum ties, biases left out."""
    if not evidence.filters:
        return unknown(evidence)
    scores: Floats = np.sqrt(np.sum([np.square(weights).sum(1) for weights in evidence.filters], 0))
    return scores
