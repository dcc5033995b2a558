"""What dependence of features on a centre or scanner is: float64, row by row."""

from __future__ import annotations

import numpy as np


def nearest_first(x, groups, i):
    """Rows of other groups than row i's, by their cosine distance from it; of equally far the first."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    others = [(1 - x[i] @ x[j], j) for j in range(len(x)) if groups[j] != groups[i]]
    return sorted(others)


def robustness_index(x, classes, confounder, groups, k):
    """PathoROB (Koemen et al. 2025): neighbours of one's class from elsewhere, of those and the reverse."""
    same_class = same_place = 0
    for i in range(len(x)):
        for _, j in nearest_first(x, groups, i)[:k]:
            same_class += classes[j] == classes[i] and confounder[j] != confounder[i]
            same_place += classes[j] != classes[i] and confounder[j] == confounder[i]
    return same_class / (same_class + same_place)


def margins(x, classes, confounder, groups, m):
    """CRoMa (Grisi et al. 2026): (d_other - d_own) / (d_other + d_own), NaN where there are not m of both."""
    found = []
    for i in range(len(x)):
        near = nearest_first(x, groups, i)
        own = [d for d, j in near if classes[j] == classes[i] and confounder[j] != confounder[i]]
        other = [d for d, j in near if classes[j] != classes[i] and confounder[j] == confounder[i]]
        if min(len(own), len(other)) < m:
            found.append(np.nan)
            continue
        d_own, d_other = np.mean(own[:m]), np.mean(other[:m])
        found.append((d_other - d_own) / (d_other + d_own))
    return np.array(found)


def lower_tail(values, alpha=0.1):
    values = values[~np.isnan(values)]
    return values[values <= np.percentile(values, 100 * alpha)].mean()


def explained_share(x, classes, of):
    """Eta squared of rows of length 1 within classes: squares between the levels of `of` over all."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    between = total = 0.0
    for c in np.unique(classes):
        rows = x[classes == c]
        total += ((rows - rows.mean(axis=0)) ** 2).sum()
        for level in np.unique(of[classes == c]):
            part = x[(classes == c) & (of == level)]
            between += len(part) * ((part.mean(axis=0) - rows.mean(axis=0)) ** 2).sum()
    return between / total


def adjusted_share(x, classes, of):
    """Epsilon squared: what is left of the share when the mean squares within are taken off."""
    n, c = len(x), len(np.unique(classes))
    cells = len({(a, b) for a, b in zip(classes, of, strict=True)})
    return 1 - (1 - explained_share(x, classes, of)) * (n - c) / (n - cells)
