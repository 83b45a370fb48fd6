"""Figures of merit; higher is better in each."""

from __future__ import annotations

import numpy as np


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of `scores` `(n, classes)` whose largest entry is at `labels` `(n,)`."""
    return float((scores.argmax(1) == labels).mean())


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties by half.

    Args:
        scores: `(n,)`, any monotone confidence.
        labels: `(n,)`, true where positive; both kinds must occur.
    """
    labels = labels.astype(bool)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # of equal scores each gets the mean rank
    positives = int(labels.sum())
    negatives = len(labels) - positives
    above = float(ranks[labels].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)
