"""Scale of batch norms (Liu, Li, Shen, Huang, Yan, Zhang 2017, "Learning Efficient Convolutional Networks through Network
Slimming", section 3); `prune.penalty` trains with the paper's penalty (equation 1) before."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs, unknown

NEEDS: Needs = "scales"
NORMALIZE = "none"  # one threshold for the whole network


def score(evidence: Evidence) -> Floats:
    """|gamma_k|; where several batch norms scale tied channels their largest, as MorphNet's group LASSO has it (Gordon et al.
    2018, section 4.2): a channel is off when it is off everywhere."""
    if not evidence.scales:
        return unknown(evidence)
    scores: Floats = np.max(np.abs(evidence.scales), 0)
    return scores
