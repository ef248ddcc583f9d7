"""Fisher pruning (Theis, Korshunova, Tejani, Huszar 2018, "Faster gaze prediction with dense networks and Fisher pruning",
equation 9; Greffe 2019, equation 4.10)."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs

NEEDS: Needs = "gradients"
NORMALIZE = "none"  # it estimates by how much the loss rises, which compares over the whole network


def score(evidence: Evidence) -> Floats:
    """Delta_k = 1/(2N) sum_n (sum_ij a_nkij dL_n/da_nkij)^2, the inner sum being the derivative by the gate of channel k.

    It is the paper's equation where one layer reads the channel. Where several do (skip connections, concatenation) the inner
    sum runs over all of them before it is squared: one mask before all, as the channel goes from all at once.
    """
    assert evidence.gradients is not None
    scores: Floats = np.mean(np.square(evidence.gradients), 0) / 2
    return scores
