"""First-order Taylor expansion (Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning Convolutional Neural Networks for Resource
Efficient Inference", equation 7)."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs

NEEDS: Needs = "gradients"
NORMALIZE = "l2"  # equation 8


def score(evidence: Evidence) -> Floats:
    """1/N sum_n |g_nk|, where g_nk = sum_ij a_nkij dL_n/da_nkij is the derivative by the gate of channel k.

    The paper divides each image's term by the number of positions, which is the same for all channels of a group that one
    layer reads: there the two are equal once normalised.
    """
    assert evidence.gradients is not None
    scores: Floats = np.mean(np.abs(evidence.gradients), 0)
    return scores
