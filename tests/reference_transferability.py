"""Scores of features before training, in float64 NumPy and without cleverness."""

from __future__ import annotations

import numpy as np
from scipy import optimize

# --- LogME ---------------------------------------------------------------------------------------


def evidence(f, y, a, b):
    """log p(y) of y = F m + noise, m ~ N(0, I/a), noise ~ N(0, I/b); You et al. 2021, equation 2."""
    n, d = f.shape
    precision = a * np.eye(d) + b * f.T @ f
    m = b * np.linalg.solve(precision, f.T @ y)
    fit = -b / 2 * np.sum((f @ m - y) ** 2) - a / 2 * m @ m
    return (
        n / 2 * np.log(b)
        + d / 2 * np.log(a)
        + fit
        - np.linalg.slogdet(precision)[1] / 2
        - n / 2 * np.log(2 * np.pi)
    )


def fixed_point(f, y, steps=2000):
    """(a, b) of You et al. 2021, algorithm 1, from a = b = 1: g = sum b s / (a + b s), s those of F'F."""
    n, d = f.shape
    s = np.linalg.eigvalsh(f.T @ f)
    a = b = 1.0
    for _ in range(steps):
        m = b * np.linalg.solve(a * np.eye(d) + b * f.T @ f, f.T @ y)
        g = np.sum(b * s / (a + b * s))
        a, b = g / (m @ m), (n - g) / np.sum((f @ m - y) ** 2)
    return a, b


def greatest_evidence(f, y):
    """The maximum over a and b by brute force: a grid, then downhill from its best."""
    grid = [(a, b) for a in np.linspace(-45, 10, 80) for b in np.linspace(-3, 6, 20)]

    def lost(logs):
        return -evidence(f, y, *np.exp(logs))

    best = min(grid, key=lost)
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    return -optimize.minimize(lost, best, method="Nelder-Mead", options=options).fun


def log_me(f, labels):
    n = len(f)
    found = []
    for label in sorted(set(labels)):
        y = np.array([float(other == label) for other in labels])
        found.append(evidence(f, y, *fixed_point(f, y)) / n)
    return np.mean(found)


# --- H-score, TransRate, RankMe -------------------------------------------------------------------


def ledoit_wolf(f):
    """(shrinkage, covariance): Ledoit & Wolf 2004, lemma 3.2 and on, sums over n written out."""
    n, d = f.shape
    x = f - f.mean(axis=0)
    s = sum(np.outer(row, row) for row in x) / n
    target = np.trace(s) / d * np.eye(d)
    distance = np.sum((s - target) ** 2)
    error = sum(np.sum((np.outer(row, row) - s) ** 2) for row in x) / n**2
    shrinkage = min(error, distance) / distance if distance > 1e-12 * np.sum(s**2) else 0.0
    return shrinkage, (1 - shrinkage) * s + shrinkage * target


def h_score(f, labels):
    """tr(C^-1 (1 - s) cov(E[F|y])), the covariance of the features with each row its class's mean."""
    shrinkage, covariance = ledoit_wolf(f)
    means = np.array([f[labels == label].mean(axis=0) for label in labels])
    between = (means - means.mean(axis=0)).T @ (means - means.mean(axis=0)) / len(f)
    return np.trace(np.linalg.inv(covariance) @ between) * (1 - shrinkage)


def coding_rate(z, eps):
    n, d = z.shape
    return np.linalg.slogdet(np.eye(d) + z.T @ z / (n * eps))[1] / 2


def trans_rate(f, labels, eps=1e-4):
    """R(Z) - mean_c R(Z_c) of centred features with a mean squared length of 1."""
    z = f - f.mean(axis=0)
    z = z / np.sqrt(np.mean(np.sum(z**2, axis=1)))
    rates = [coding_rate(z[labels == label], eps) for label in sorted(set(labels))]
    return coding_rate(z, eps) - np.mean(rates)


def rank_me(f):
    s = np.linalg.svd(f, compute_uv=False)
    p = s / s.sum()
    return np.exp(-sum(v * np.log(v) for v in p if v > 0))


# --- Probes --------------------------------------------------------------------------------------


def ridge(train, truth, others, strength):
    """Outputs of min sum |y - c - B'x|^2 + strength n |B|^2, x standardised; c is not penalised."""
    n = len(train)
    mean, spread = train.mean(axis=0), train.std(axis=0)
    x = np.column_stack([np.ones(n), (train - mean) / spread])
    penalty = strength * n * np.diag([0.0] + [1.0] * (x.shape[1] - 1))
    b = np.linalg.solve(x.T @ x + penalty, x.T @ truth)
    return np.column_stack([np.ones(len(others)), (others - mean) / spread]) @ b


def knn(train, truth, others, k):
    """Shares of the classes among the k rows of the highest cosine about the training mean."""
    mean = train.mean(axis=0)
    found = []
    for row in others - mean:
        cosines = [row @ x / (np.linalg.norm(row) * np.linalg.norm(x)) for x in train - mean]
        near = np.argsort(cosines)[::-1][:k]
        found.append(truth[near].mean(axis=0))
    return np.array(found)


def auroc(outputs, targets, models):
    """Mean over classes of the share of concordant pairs within models, equal scores by half."""
    classes = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
    found = []
    for c in classes:
        won = pairs = 0.0
        for i in range(len(outputs)):
            for j in range(len(outputs)):
                if models[i] == models[j] and targets[i] == c != targets[j]:
                    pairs += 1
                    won += (outputs[i, c] > outputs[j, c]) + (outputs[i, c] == outputs[j, c]) / 2
        found.append(won / pairs)
    return np.mean(found)


def probe(f, labels, dealt, predict, choices):
    """AUROC within folds; of `choices` each fold takes that of the least squared error on validation."""
    targets = np.searchsorted(sorted(set(labels)), labels)
    truth = np.eye(targets.max() + 1)[targets]
    outputs, models = np.empty(truth.shape), np.empty(len(f))
    for i, fold in enumerate(dealt):

        def at(choice, rows, fold=fold):
            return predict(f[fold.train], truth[fold.train], f[rows], choice)

        errors = [np.mean((at(c, fold.validation) - truth[fold.validation]) ** 2) for c in choices]
        outputs[fold.test] = at(choices[int(np.argmin(errors))], fold.test)
        models[fold.test] = i
    return auroc(outputs, targets, models)


# --- Gradient ratio ------------------------------------------------------------------------------


def convolved(x, weight):
    """(n, o, h', w') of (n, c, h, w) without padding."""
    k = weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight)


def two_convolutions(pixels, first, second):
    """Features of pixels in 0..1: convolution, ReLU, convolution, ReLU, mean over places."""
    x = pixels.transpose(0, 3, 1, 2) / 255
    x = np.maximum(convolved(x, first), 0)
    return np.maximum(convolved(x, second), 0).mean(axis=(2, 3))


def triplet_batches(labels, batch_size, seed):
    """[(rows, [(anchor, another of its class, one of another class)])], places within the rows."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    found = []
    for batch in range(0, len(labels), batch_size):
        rows = order[batch : batch + batch_size]
        triplets = []
        for i, row in enumerate(rows):
            likes = [j for j, other in enumerate(rows) if labels[other] == labels[row] and j != i]
            unlikes = [j for j, other in enumerate(rows) if labels[other] != labels[row]]
            if likes and unlikes:
                triplets.append((i, rng.choice(likes), rng.choice(unlikes)))
        if triplets:
            found.append((rows, triplets))
    return found


def triplet_loss(features, triplets, margin):
    losses = []
    for a, p, q in triplets:
        near, far = (np.linalg.norm(features[a] - features[i] + 1e-6) for i in (p, q))
        losses.append(max(0.0, near - far + margin))
    return np.mean(losses)


def slope(function, weight, step=1e-6):
    """Norm of the gradient of a function at an array, by central differences."""
    squares = 0.0
    for at in np.ndindex(weight.shape):
        values = []
        for sign in (1, -1):
            moved = weight.copy()
            moved[at] += sign * step
            values.append(function(moved))
        squares += ((values[0] - values[1]) / (2 * step)) ** 2
    return np.sqrt(squares)


# --- Agreement of rankings -----------------------------------------------------------------------


def kendall_tau(x, y):
    """tau-b: (concordant - discordant) / sqrt((pairs not tied in x) (pairs not tied in y))."""
    both = [(a, b) for a, b in zip(x, y, strict=True) if not (np.isnan(a) or np.isnan(b))]
    total = free_x = free_y = 0
    for i in range(len(both)):
        for j in range(i):
            dx = np.sign(both[i][0] - both[j][0])
            dy = np.sign(both[i][1] - both[j][1])
            total += dx * dy
            free_x += dx != 0
            free_y += dy != 0
    return total / np.sqrt(free_x * free_y) if free_x and free_y else np.nan
