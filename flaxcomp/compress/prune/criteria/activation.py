"""Norm of activations (Molchanov et al. 2017, section 2.2, "Activation"; Greffe 2019, section 4.2.2)."""

import numpy as np

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs

NEEDS: Needs = "activations"
NORMALIZE = "l2"  # Molchanov et al., equation 8


def score(evidence: Evidence) -> Floats:
    """1/N sum_n ||a_nk||_2: the norm over the positions of what layers read of channel k, its mean over N images."""
    assert evidence.activations is not None
    scores: Floats = np.mean(evidence.activations, 0)
    return scores
