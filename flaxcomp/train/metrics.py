"""Figures of a classifier from its confusion matrix, as the SimpLeNet study defines them (section 2.3.4)."""

from typing import Any

import numpy as np
import numpy.typing as npt


def classification_metrics(confusion: npt.ArrayLike) -> dict[str, float]:
    """Return accuracy and the macro means of precision and recall, with their F.

    Args:
        confusion: counts a[i, j] of images that are truly j and were predicted i, [m, m].

    Returns:
        `accuracy` sum_i a_ii / sum a; `precision` mean over i of a_ii / sum_j a_ij; `recall` mean over i of a_ii / sum_j a_ji;
        `f1` 2 precision recall / (precision + recall). A class that was never predicted, or never occurs, counts as 0.
    """
    a = np.asarray(confusion, np.float64)
    hits = np.diag(a)
    precision = float(_ratio(hits, a.sum(1)).mean())
    recall = float(_ratio(hits, a.sum(0)).mean())
    total = precision + recall
    return {
        "accuracy": float(hits.sum() / max(a.sum(), 1)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / total if total else 0.0,
    }


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
    quotient: npt.NDArray[Any] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return quotient
