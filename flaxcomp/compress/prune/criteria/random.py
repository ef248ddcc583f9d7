"""Chance: every channel is as likely to go (Greffe 2019, section 4.3: close to `uniform`)."""

from flaxcomp.compress.prune.criteria import Evidence, Floats, Needs

NEEDS: Needs = "nothing"
NORMALIZE = "none"


def score(evidence: Evidence) -> Floats:
    """Uniform in [0, 1)."""
    return evidence.random.random(evidence.size)
