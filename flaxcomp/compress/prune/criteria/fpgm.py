"""Filter pruning via geometric median (He, Liu, Wang, Hu, Yang 2019, equations 4 to 6)."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs, unknown

NEEDS: Needs = "filters"
NORMALIZE = "mean"  # the paper prunes layer by layer


def score(evidence: Evidence) -> Floats:
    """s_j = sum_k ||F_j - F_k||_2 over the group: the filter nearest to the geometric median is the easiest to replace.

    A filter is all weights that make the channel, of all layers that a sum ties, as one vector.
    """
    if not evidence.filters:
        return unknown(evidence)
    filters = np.concatenate(evidence.filters, 1).astype(np.float64)
    return np.array([np.sqrt(np.square(filters - one).sum(1)).sum() for one in filters])
