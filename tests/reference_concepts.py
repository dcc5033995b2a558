"""What concepts and their regression are, in float64 and without cleverness."""

from __future__ import annotations

import numpy as np

# --- Grey level co-occurrence matrix --------------------------------------------------------------


def grey(image):
    """(h, w) int64: 0.2125 R + 0.7154 G + 0.0721 B in units of 2^-16, rounded (halves up)."""
    red, green, blue = np.moveaxis(image.astype(np.int64), -1, 0)
    return (13926 * red + 46885 * green + 4725 * blue + 2**15) // 2**16


def glcm_counts(image, down, right, levels):
    """(levels, levels) int64, symmetric: pairs of levels at (i, j) and (i + down, j + right)."""
    level = grey(image) * levels // 256
    h, w = level.shape
    first = level[max(0, -down) : h - max(0, down), max(0, -right) : w - max(0, right)]
    second = level[max(0, down) : h - max(0, -down), max(0, right) : w - max(0, -right)]
    counts = np.zeros((levels, levels), np.int64)
    np.add.at(counts, (first, second), 1)
    np.add.at(counts, (second, first), 1)
    return counts


def glcm_sums(counts):
    """What of the matrix the kernel gives: pairs by difference, and three sums."""
    i, j = np.indices(counts.shape)
    differences = np.bincount(np.abs(i - j).ravel(), counts.ravel(), len(counts)).astype(np.int64)
    assert not (differences % 2).any()
    return differences // 2, [(counts * i).sum(), (counts * i**2).sum(), (counts**2).sum()]


def glcm_features(counts):
    """Dissimilarity, contrast, homogeneity, ASM, energy, correlation (1 where nothing varies)."""
    p = counts / counts.sum()
    i, j = np.indices(p.shape)
    mean = (p * i).sum()
    variance = (p * (i - mean) ** 2).sum()
    return np.array(
        [
            (p * np.abs(i - j)).sum(),
            (p * (i - j) ** 2).sum(),
            (p / (1 + (i - j) ** 2)).sum(),
            (p**2).sum(),
            np.sqrt((p**2).sum()),
            (p * (i - mean) * (j - mean)).sum() / variance
            if np.ptp(np.flatnonzero(counts.sum(0)))
            else 1.0,
        ]
    )


# --- Colour ---------------------------------------------------------------------------------------

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])  # H, E, residual


def stain_amounts(image):
    """(h, w, 3): natural optical density -ln((v + 1) / 256) as a mixture of the three stains."""
    density = -np.log((image.astype(np.float64) + 1) / 256)
    return np.linalg.solve(STAINS.T, density.reshape(-1, 3).T).T.reshape(image.shape)


def entropy(amounts):
    """Bits of the histogram of 64 equal bins over 0 to 2; what is beyond lies in the end bins."""
    counts = np.histogram(np.clip(amounts, 0, 2 - 1e-9), bins=64, range=(0, 2))[0]
    p = counts[counts > 0] / counts.sum()
    return -(p * np.log2(p)).sum()


def colourfulness(image):
    """Hasler and Suesstrunk 2003."""
    red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
    a, b = red - green, 0.5 * (red + green) - blue
    return np.hypot(a.std(), b.std()) + 0.3 * np.hypot(a.mean(), b.mean())


def nuclei(image, threshold):
    """Areas of objects of haematoxylin above a threshold, joined by edges and corners, >= 20 px."""
    mask = stain_amounts(image)[..., 0] > threshold
    todo, areas = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    while todo:
        edge, area = [todo.pop()], 0
        while edge:
            i, j = edge.pop()
            area += 1
            for near in [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]:
                if near in todo:
                    todo.remove(near)
                    edge.append(near)
        areas.append(area)
    return [area for area in areas if area >= 20]


# --- Regression of concepts on features -----------------------------------------------------------


def ridge(x, y, penalty):
    """Predictor of centred y by x standardised with its own mean and deviation; (d,) weights, means."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    z = (x - mean) / spread
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y - y.mean()))
    return weights / spread, mean, y.mean()


def squared_errors(x, y, model):
    weights, mean, level = model
    return (y - level - (x - mean) @ weights) ** 2


def held_out(x, y, fold_of, penalties):
    """Squared errors of each row by a model of the other folds, and by the mean of these.

    The penalty is that which does best where each of the other folds is left out as well.
    """
    errors, totals = np.zeros(len(y)), np.zeros(len(y))
    for f in np.unique(fold_of):
        train = fold_of != f
        inner = [
            sum(
                squared_errors(
                    x[fold_of == g],
                    y[fold_of == g],
                    ridge(x[train & (fold_of != g)], y[train & (fold_of != g)], penalty),
                ).sum()
                for g in np.unique(fold_of[train])
            )
            for penalty in penalties
        ]
        model = ridge(x[train], y[train], penalties[int(np.argmin(inner))])
        errors[~train] = squared_errors(x[~train], y[~train], model)
        totals[~train] = (y[~train] - y[train].mean()) ** 2
    return errors, totals


def r2_in_sample(x, y):
    """Of least squares, on the rows it was fitted to."""
    z = np.column_stack([x, np.ones(len(x))])
    rest = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
    return 1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum()


def pattern(x, y):
    """cov(x, y) / var(y), of length 1 (Haufe et al. 2014)."""
    along = (x - x.mean(axis=0)).T @ (y - y.mean()) / ((y - y.mean()) ** 2).sum()
    return along / np.linalg.norm(along)


def tcav(gradients, direction):
    """Share of pictures whose output rises along a direction (Kim et al. 2018)."""
    return np.mean([float(gradient @ direction) > 0 for gradient in gradients])


def relevance(gradients, direction, r2):
    """Br: R2 times mean over deviation of the derivative (Graziani et al. 2018)."""
    along = [float(gradient @ direction) for gradient in gradients]
    return r2 * np.mean(along) / np.std(along)
