"""The same share of every group, the baseline: a width multiplier (Greffe 2019, sections 4.3 and 4.8)."""

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs, l2

NEEDS: Needs = "filters"
NORMALIZE = "none"
SCOPE = "layer"  # whatever the sweep file says


def score(evidence: Evidence) -> Floats:
    """The L2 norm: which channels of a group go, how many being the same share of each."""
    return l2.score(evidence)
