"""What training of classifiers is made of, in float64 NumPy and without cleverness."""

from __future__ import annotations

import numpy as np


def rate(step, steps, *, top, schedule, warmup, every, factor):
    """The learning rate of a step, from 0: a rise over a share of the steps, then the schedule."""
    rise = round(warmup * steps)
    if step < rise:
        return top * (step + 1) / rise
    if schedule == "cosine":
        return top * (1 + np.cos(np.pi * (step - rise) / (steps - rise))) / 2
    return top * factor ** (step // every) if schedule == "step" else top


def adamp(weight, gradients, *, lr, weight_decay):
    """Heo et al., 2021, algorithm 2: the weight after all gradients, and how many steps were projected."""
    w, projected = weight.copy(), 0
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        p = m / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        decay = weight_decay
        if w.ndim > 1:
            for rows in (len(w), 1):
                a, b, q = w.reshape(rows, -1), g.reshape(rows, -1), p.reshape(rows, -1)
                norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
                cosines = np.abs((a * b).sum(1)) / norms
                if cosines.max() < 0.1 / np.sqrt(a.shape[1]):
                    unit = a / np.linalg.norm(a, axis=1, keepdims=True)
                    p = (q - unit * (unit * q).sum(1, keepdims=True)).reshape(w.shape)
                    decay, projected = 0.1 * weight_decay, projected + 1
                    break
        w = w * (1 - lr * decay) - lr / (1 - 0.9**t) * p
    return w, projected


def average(weights, *, decay):
    """The average of weights: the first as it is, then each with 1 - min(decay, (1 + t) / (10 + t))."""
    kept = weights[0]
    for t, value in enumerate(weights[1:]):
        share = min(decay, (1 + t) / (10 + t))
        kept = share * kept + (1 - share) * value
    return kept


def cross_entropy(logits, targets, *, weights, smoothing):
    """The mean over images of - sum_c weight_c target_c log p_c, with smoothed targets."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        smooth = np.full(len(row), smoothing / len(row))
        smooth[target] += 1 - smoothing
        total -= (weights * smooth * np.log(p)).sum()
    return total / len(logits)


def several_labels(logits, targets, *, weights, smoothing):
    """The mean over known labels of weight_c times the cross entropy of each."""
    losses = []
    for row, target in zip(logits, targets, strict=True):
        for c, value in enumerate(target):
            if not np.isnan(value):
                p = 1 / (1 + np.exp(-row[c]))
                y = value * (1 - smoothing) + smoothing / 2
                losses.append(-weights[c] * (y * np.log(p) + (1 - y) * np.log(1 - p)))
    return np.mean(losses)


def training_order(rows, groups, labels, permuted):
    """Rows in the order that smaller training sets are the beginnings of.

    Args:
        rows: of the training pictures.
        groups, labels: of each row, by its number.
        permuted: the groups' names, in an order drawn.
    """
    placed = []
    for at, name in enumerate(permuted):
        own = [r for r in rows if groups[r] == name]
        shown = {labels[r] for r in own}
        alike = [
            [r for r in rows if groups[r] == other]
            for other in permuted
            if {labels[r] for r in rows if groups[r] == other} == shown
        ]
        i = [members[0] for members in alike].index(own[0])
        before = sum(len(members) for members in alike[:i])
        place = (before + len(own) / 2) / sum(len(members) for members in alike)
        within = []
        for j, r in enumerate(own):
            same = [q for q in own if labels[q] == labels[r]]
            within.append(((same.index(r) + 0.5) / len(same), j, r))
        placed.append((place, at, [r for _, _, r in sorted(within)]))
    return [r for _, _, own in sorted(placed) for r in own]


def filters_moved(before, after):
    """Cosine of each filter before and after, and the length of the change over that before."""
    a, b = before.reshape(len(before), -1), after.reshape(len(after), -1)
    cosine = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    distance = [np.sqrt(((y - x) ** 2).sum() / (x**2).sum()) for x, y in zip(a, b, strict=True)]
    return np.array(cosine), np.array(distance)
