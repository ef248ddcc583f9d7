"""The same share of every group, the baseline: a width multiplier (Greffe 2019, sections 4.3 and 4.8)."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs, l2

NEEDS: Needs = "filters"
NORMALIZE = "none"


def score(evidence: Evidence) -> Floats:
    """(r_j + 1/2) / K, r_j the rank by L2 norm of channel j of K, 0 for the smallest: a bound on it cuts all groups alike."""
    order = np.argsort(l2.score(evidence), kind="stable")
    scores = np.empty(evidence.size)
    scores[order] = (np.arange(evidence.size) + 0.5) / evidence.size
    return scores
