"""Plain NumPy definitions of what the kernels compute: the specification, no cleverness.

Each section defines one kernel; tests/test_<kernel>.py holds the kernel to it.
"""

from __future__ import annotations

import numpy as np

# --- tiles: area-averaging resampling -------------------------------------------------------------


def axis_weights(start: float, length: float, count: int, size: int) -> np.ndarray:
    """(count, size) float64: how much of each source pixel is in each output pixel of one axis.

    Output pixel i is the mean of the source over [start + i*s, start + (i+1)*s), s = length/count.
    For s < 1 (upsampling) it is linear interpolation at the cell's centre. Outside 0..size the
    source continues as its edge pixel.
    """
    weights = np.zeros((count, size))
    s = length / count
    for i in range(count):
        if s >= 1:
            low, high = start + i * s, start + (i + 1) * s
            for pixel in range(int(np.floor(low)), int(np.ceil(high))):
                share = min(high, pixel + 1) - max(low, pixel)
                weights[i, min(max(pixel, 0), size - 1)] += max(share, 0.0) / s
        else:
            centre = start + (i + 0.5) * s - 0.5
            pixel = int(np.floor(centre))
            weights[i, min(max(pixel, 0), size - 1)] += 1 - (centre - pixel)
            weights[i, min(max(pixel + 1, 0), size - 1)] += centre - pixel
    return weights


def cut_patch(
    level: np.ndarray, box: tuple[float, float, float, float], patch_px: int
) -> np.ndarray:
    """(p, p, 3) float64: the box (x, y, width, height) of `level` (h, w, 3), averaged to p px."""
    x, y, width, height = box
    rows = axis_weights(y, height, patch_px, level.shape[0])
    columns = axis_weights(x, width, patch_px, level.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, level.astype(np.float64), columns, optimize=True)


def zoomed(levels: list[np.ndarray], downsamples: list[float], scale: int) -> np.ndarray:
    """(h, w, 3) float64: a slide of `levels` (h, w, 3) made `scale` = 1, 2, 4 ... times smaller, sizes rounded up.

    A pixel is the mean of what it covers on the coarsest level that is at most 1 % coarser than asked for;
    where that is more than twice as fine, of what it covers at half the scale.
    """
    index = max(
        (i for i, d in enumerate(downsamples) if d <= 1.01 * scale), key=lambda i: downsamples[i]
    )
    source, reduction = levels[index], scale / downsamples[index]
    if reduction > 2.02:
        source, reduction = zoomed(levels, downsamples, scale // 2), 2.0
    height, width = (-(-side // scale) for side in levels[0].shape[:2])
    rows = axis_weights(0, height * reduction, height, source.shape[0])
    columns = axis_weights(0, width * reduction, width, source.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, source.astype(np.float64), columns, optimize=True)


def resize_image(image, size, resample):
    """(p, q, 3) float64: `image` (h, w, 3) as Pillow resizes it, before anything is rounded.

    A new pixel is the mean of the old ones under a filter about its centre, which is as much wider as
    the picture is reduced; what lies beyond the edge does not count.
    """

    def triangle(x):
        return np.maximum(1 - np.abs(x), 0)

    def cubic(x):  # Keys 1981, equation 15
        x = np.abs(x)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    def weights(length, count):
        scale = length / count
        centres = (np.arange(count)[:, None] + 0.5) * scale
        shape = cubic if resample == "bicubic" else triangle
        w = shape((np.arange(length) + 0.5 - centres) / max(scale, 1))
        return w / w.sum(axis=1, keepdims=True)

    rows, columns = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    across = np.einsum("hwc,jw->hjc", image.astype(np.float64), columns).clip(0, 255)
    return np.einsum("ih,hjc->ijc", rows, across).clip(0, 255)


def coverage(mask: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) float64: mean of `mask` (h, w) over each box (x, y, width, height) in mask pixels.

    Outside the mask there is no tissue.
    """
    result = np.zeros(len(boxes))
    for k, (x, y, width, height) in enumerate(boxes):
        for row in range(max(int(np.floor(y)), 0), min(int(np.ceil(y + height)), mask.shape[0])):
            for column in range(
                max(int(np.floor(x)), 0), min(int(np.ceil(x + width)), mask.shape[1])
            ):
                overlap_y = min(y + height, row + 1) - max(y, row)
                overlap_x = min(x + width, column + 1) - max(x, column)
                result[k] += max(overlap_y, 0) * max(overlap_x, 0) * bool(mask[row, column])
        result[k] /= width * height
    return result


from scipy import ndimage, optimize, stats

# --- tissue -----------------------------------------------------------------------------------


def tissue_score(image):
    """Chroma, max(R, G, B) - min(R, G, B), smoothed by the 5 x 5 binomial with rounding.

    Chroma is saturation without the division by brightness: it is as calm on black glue and dark
    borders as on white glass. Pixels beyond the edge repeat the edge.
    """
    chroma = image.max(axis=2).astype(np.int64) - image.min(axis=2)
    h, w = chroma.shape
    padded = np.pad(chroma, 2, mode="edge") if chroma.size else np.zeros((h + 4, w + 4), np.int64)
    rows = sum(k * padded[:, i : i + w] for i, k in enumerate((1, 4, 6, 4, 1)))
    return (sum(k * rows[i : i + h] for i, k in enumerate((1, 4, 6, 4, 1))) + 128) >> 8


def dilate(bits, radius):
    """Square of side 2 * radius + 1; nothing beyond the edge."""
    h, w = bits.shape
    padded = np.pad(bits, radius)
    size = 2 * radius + 1
    across = np.logical_or.reduce([padded[:, i : i + w] for i in range(size)])
    return np.logical_or.reduce([across[i : i + h] for i in range(size)])


def erode(bits, radius):
    """Square of side 2 * radius + 1; beyond the edge all is set, so an edge does not erode."""
    return ~dilate(~bits, radius)


def foreign_mask(image):
    """Pen (blue, green, red) and black, joined over 1 px gaps, without specks, grown by 2 px.

    Specks are what no 5 x 5 square fits in; the growth takes the soft edge of a stroke along.
    """
    return dilate(ink_core(image), 4)


def ink_core(image):
    """Centres of all 5 x 5 squares of pen or black, gaps of 1 px closed."""
    r, g, b = np.moveaxis(image.astype(np.int64), 2, 0)
    chroma = image.max(axis=2).astype(np.int64) - image.min(axis=2)
    blue = (b - r >= 72) & (r - g <= 8)
    green = (g - r >= 24) & (g - b >= 8)
    red = r - np.maximum(g, b) >= 144
    black = (image.max(axis=2) < 80) & (chroma < 24)
    joined = erode(dilate(blue | green | red | black, 1), 1)
    return erode(joined, 2)


def stained(image):
    """(h, w) bool: pixels in the colours of ink that are tissue all the same.

    Grain is a standard deviation above 12, over 5 x 5 pixels, of the lowest of the three channels. The core of
    an area are the pixels about which those 5 x 5 are all of ink colours. An area with grain on at least a third
    of its core is tissue where at least half of the core within 25 x 25 pixels has grain. Any other
    area is a stroke.
    """
    foreign = foreign_mask(image)
    h, w = foreign.shape
    low = np.pad(image.min(axis=2).astype(np.int64), 2, mode="edge")
    around = np.stack([low[i : i + h, j : j + w] for i in range(5) for j in range(5)])
    grained = 25 * (around**2).sum(axis=0) - around.sum(axis=0) ** 2 > (25 * 12) ** 2
    core = ink_core(image)
    labels, count = ndimage.label(foreign, np.ones((3, 3), int))
    found = np.zeros(foreign.shape, bool)
    for k in range(1, count + 1):
        part = (labels == k) & core
        if not part.any() or 3 * grained[part].sum() < part.sum():
            continue
        for y, x in np.argwhere(labels == k):
            near = np.s_[max(y - 12, 0) : y + 13, max(x - 12, 0) : x + 13]
            there = core[near]
            found[y, x] = there.any() and grained[near][there].mean() >= 0.5
    return found


def without_stain(image):
    """The picture with its stained pixels in magenta of the same chroma, which is no pen's colour."""
    high, low = image.max(axis=2), image.min(axis=2)
    return np.where(stained(image)[..., None], np.stack([high, low, high], axis=2), image)


def otsu_split(counts):
    """Return (t, contrast): the first t with the largest n0 * n1 * (m1 - m0) ** 2, and m1 - m0.

    Class 0 is what is <= t. (0, 0.0) when there are no two classes.
    """
    n = [int(x) for x in counts]
    total, weighted = sum(n), sum(i * x for i, x in enumerate(n))
    best, best_t, best_contrast, n0, s0 = 0.0, 0, 0.0, 0, 0
    for t, x in enumerate(n):
        n0, s0 = n0 + x, s0 + t * x
        if n0 == 0 or n0 == total:
            continue
        contrast = float(weighted - s0) / float(total - n0) - float(s0) / float(n0)
        between = (contrast * contrast) * (float(n0) * float(total - n0))
        if between > best:
            best, best_t, best_contrast = between, t, contrast
    return best_t, best_contrast


def tissue_threshold(histogram):
    """Threshold t (tissue is score > t) from the 64 bins of the scores, the last one 63 and more.

    Otsu twice: strong stain (DAB, dense haematoxylin) against the rest first, then faint stain
    against glass within that rest. Class means under 6 apart are one class: a rest that is all
    glass keeps the first threshold, a picture that is one class is all glass or all tissue, and
    24 tells which. Never under 8, where the noise of white glass ends.
    """
    threshold, contrast = otsu_split(histogram)
    if contrast < 6:
        return 24
    lower, contrast = otsu_split(histogram[: threshold + 1])
    return max(lower if contrast >= 6 else threshold, 8)


def fill_holes(bits, max_hole_px):
    """Background (8-connected) that touches no edge and has at most `max_hole_px` pixels is set."""
    labels, count = ndimage.label(~bits, np.ones((3, 3), int))
    size = np.bincount(labels.ravel(), minlength=count + 1)
    inner = size <= max_hole_px
    for edge in (labels[:1], labels[-1:], labels[:, :1], labels[:, -1:]):
        inner[edge.ravel()] = False
    inner[0] = False
    return bits | inner[labels]


def remove_small(bits, min_area_px):
    """Objects (4-connected) with fewer than `min_area_px` pixels are cleared."""
    labels, count = ndimage.label(bits)
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= min_area_px
    keep[0] = False
    return keep[labels]


def tissue_mask(image, *, threshold=None, exclude_foreign=True, close_px, max_hole_px, min_area_px):
    """Return (mask, threshold)."""
    score = tissue_score(image)
    foreign = foreign_mask(image) if exclude_foreign else np.zeros(score.shape, bool)
    if threshold is None:
        histogram = np.bincount(np.minimum(score[~foreign], 63), minlength=64)
        threshold = tissue_threshold(histogram)
    bits = (score > threshold) & ~foreign
    bits = erode(dilate(bits, close_px), close_px)
    bits = fill_holes(bits, max_hole_px) & ~foreign
    return remove_small(bits, min_area_px).astype(np.uint8), threshold


# --- Similarity --------------------------------------------------------------------------------


def hsic1(k, gram_y):
    """Song et al. 2007, equation 5: the unbiased estimate of the HSIC of two (n, n) Grams."""
    n = len(k)
    k, gram_y = (a - np.diag(np.diag(a)) for a in (k, gram_y))
    ones = np.ones(n)
    return (
        np.trace(k @ gram_y)
        + (ones @ k @ ones) * (ones @ gram_y @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (ones @ k @ gram_y @ ones)
    ) / (n * (n - 3))


def linear_gram(x):
    return x @ x.T


def rbf_gram(x, rbf_scale):
    squares = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    return np.exp(-squares / (2 * rbf_scale**2 * np.median(squares)))


def debiased_cka(k, gram_y):
    return hsic1(k, gram_y) / np.sqrt(hsic1(k, k) * hsic1(gram_y, gram_y))


def biased_cka(k, gram_y):
    """Gretton et al. 2005: tr(K H L H) / (n - 1)^2, whose factor cancels."""
    n = len(k)
    h = np.eye(n) - 1 / n

    def hsic0(a, b):
        return np.trace(a @ h @ b @ h)

    return hsic0(k, gram_y) / np.sqrt(hsic0(k, k) * hsic0(gram_y, gram_y))


def minibatch_cka(x, y, batch_size):
    """Nguyen et al. 2020, equation 3, a batch of n_b rows weighted by n_b (n_b - 3)."""
    sums = np.zeros(3)
    for start in range(0, len(x), batch_size):
        k, gram_y = (linear_gram(a[start : start + batch_size]) for a in (x, y))
        weight = len(k) * (len(k) - 3)
        sums += weight * np.array([hsic1(k, gram_y), hsic1(k, k), hsic1(gram_y, gram_y)])
    return sums[0] / np.sqrt(sums[1] * sums[2])


def u_centred(gram):
    """Szekely and Rizzo 2014, definition 2."""
    n = len(gram)
    gram = gram - np.diag(np.diag(gram))
    rows = gram.sum(axis=1)
    out = gram - rows[:, None] / (n - 2) - rows / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return out - np.diag(np.diag(out))


def resampled_cka(k, gram_y, group_of, drawn):
    """CKA of the pairs of rows of drawn groups, from two centred Grams.

    Pairs across draws of different groups, and pairs within one draw as often as those are
    expected; not the pairs across two draws of the same group, whose rows are no independent samples.
    """
    sums = np.zeros(3)
    for s, g in enumerate(drawn):
        for t, h in enumerate(drawn):
            if s != t and g == h:
                continue
            block = np.ix_(group_of == g, group_of == h)
            weight = 1 - 1 / len(drawn) if s == t else 1
            products = (k * gram_y, k * k, gram_y * gram_y)
            sums += [weight * product[block].sum() for product in products]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def canonical_correlations(x, y, centre=True):
    """Hotelling 1936: roots of the eigenvalues of Sxx^-1 Sxy Syy^-1 Syx, the largest first."""
    if centre:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    product = np.linalg.solve(x.T @ x, x.T @ y) @ np.linalg.solve(y.T @ y, y.T @ x)
    squares = np.sort(np.linalg.eigvals(product).real)[::-1]
    return np.sqrt(np.clip(squares[: min(x.shape[1], y.shape[1])], 0, 1))


def svcca(x, y, keep, of):
    """Raghu et al. 2017; `of`: "squares", "values" or "count" of singular values to keep."""
    reduced = []
    for a in (x, y):
        a = a - a.mean(axis=0)
        u, s, _ = np.linalg.svd(a, full_matrices=False)
        k = int(keep)
        if of != "count":
            sizes = s**2 if of == "squares" else s
            k = next(k for k in range(1, len(s) + 1) if sizes[:k].sum() >= keep * sizes.sum())
        reduced.append(u[:, :k] * s[:k])
    return canonical_correlations(*reduced).mean()


def pwcca(x, y):
    """Morcos et al. 2018, equation 3: x's canonical directions, weighted by what they say of x."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    u, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    directions = qx @ u
    weights = [sum(abs(h @ column) for column in x.T) for h in directions.T]
    return np.average(rho, weights=weights)


def procrustes(x, y):
    """Schonemann 1966: 1 - d^2 / 2, d what is left once y is turned onto x, both of norm 1."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(a - a.mean(axis=0), ((0, 0), (0, width - a.shape[1]))) for a in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    u, _, v = np.linalg.svd(y.T @ x)
    return 1 - ((x - y @ u @ v) ** 2).sum() / 2


def distances(x):
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))


def mean_ranks(values):
    """Ranks from 1, equal values the mean of theirs."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def rsa(x, y):
    """Kriegeskorte et al. 2008, of distances: Spearman's correlation over the pairs of rows."""
    upper = np.triu_indices(len(x), 1)
    return np.corrcoef(*(mean_ranks(distances(a)[upper]) for a in (x, y)))[0, 1]


def knn_jaccard(x, y, k=10):
    """Schumacher et al. 2021, equation 8, of distances; of equally far rows the first."""

    def near(a, i):
        others = sorted((distance, j) for j, distance in enumerate(distances(a)[i]) if j != i)
        return {j for _, j in others[:k]}

    pairs = [(near(x, i), near(y, i)) for i in range(len(x))]
    return np.mean([len(a & b) / len(a | b) for a, b in pairs])


def error_consistency(right_a, right_b):
    """Geirhos et al. 2020, equation 3, of who was right where."""
    observed = np.mean(right_a == right_b)
    a, b = right_a.mean(), right_b.mean()
    expected = a * b + (1 - a) * (1 - b)
    return (observed - expected) / (1 - expected)


def js_divergence(a, b):
    """Lin 1991 in bits, the mean over rows of H((a + b) / 2) - (H(a) + H(b)) / 2."""

    def entropy(p):
        return -sum(v * np.log2(v) for v in p if v > 0)

    return np.mean(
        [entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2 for p, q in zip(a, b, strict=True)]
    )


def published_protocol(x, y, seed=0, places=10_000, channels=64, draws=5):
    """Raghu et al. 2019: mean CCA of the channels, a row per place of the images drawn."""
    rng = np.random.default_rng(seed)
    n, c, h, w = x.shape
    found = []
    for _ in range(draws):
        images = rng.permutation(n)[: max(1, round(places / (h * w)))]
        drawn = rng.permutation(c)[:channels]
        rows = [
            np.array([m[i, drawn, r, k] for i in images for r in range(h) for k in range(w)])
            for m in (x, y)
        ]
        found.append(canonical_correlations(*rows).mean())
    return np.mean(found)


def rights(x, y, labels):
    """Which images each of two classifiers puts into the true class."""
    return [np.array([row.argmax() for row in scores]) == labels for scores in (x, y)]


def chance_agreement(right_a, right_b):
    return right_a.mean() * right_b.mean() + (1 - right_a).mean() * (1 - right_b).mean()


# What each entry of histofast.similarity.MEASURES is, by its name.
MEASURES = {
    "cka": lambda x, y: debiased_cka(linear_gram(x), linear_gram(y)),
    "cka-rbf": lambda x, y: debiased_cka(rbf_gram(x, 1), rbf_gram(y, 1)),
    "cca": lambda x, y: canonical_correlations(x, y).mean(),
    "svcca": lambda x, y: svcca(x, y, 0.99, "squares"),
    "pwcca": pwcca,
    "procrustes": procrustes,
    "rsa": rsa,
    "knn-jaccard": knn_jaccard,
    "published": published_protocol,
    "js-divergence": js_divergence,
    "top1-disagreement": lambda x, y: np.mean(x.argmax(axis=1) != y.argmax(axis=1)),
    "agreement": lambda x, y, labels: np.mean(np.equal(*rights(x, y, labels))),
    "chance-agreement": lambda x, y, labels: chance_agreement(*rights(x, y, labels)),
    "error-consistency": lambda x, y, labels: error_consistency(*rights(x, y, labels)),
}


# --- gram: packed centred Grams -------------------------------------------------------------------


def packed_gram(x, kernel="linear", rbf_scale=1.0, estimator="debiased"):
    """The triangle of a centred Gram, row by row; biased: with the diagonal over sqrt(2)."""
    gram = linear_gram(x) if kernel == "linear" else rbf_gram(x, rbf_scale)
    n = len(gram)
    if estimator == "debiased":
        return u_centred(gram)[np.tri(n, k=-1, dtype=bool)]
    h = np.eye(n) - 1 / n
    gram = h @ gram @ h
    gram[np.diag_indices(n)] /= np.sqrt(2)
    return gram[np.tri(n, dtype=bool)]


# --- MIL -----------------------------------------------------------------------------------------


def softmax(scores):
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def linear(x, layer):
    """A layer is (weights (out, in), bias (out,))."""
    weights, bias = layer
    return x @ weights.T + bias


def histotransfer(bag, first, second, tanh, score, head, patch_head):
    """Return (output, attention, scores, patch outputs) of (n, d) features; Sharma et al. 2021."""
    h = relu(linear(relu(linear(bag, first)), second))
    scores = linear(np.tanh(linear(h, tanh)), score)[:, 0]
    attention = softmax(scores)
    z = sum(a * row for a, row in zip(attention, h, strict=True))
    return linear(z, head), attention, scores, linear(h, patch_head)


def gated_attention(bag, first, value, gate, score, head):
    """Return (output, attention, scores); Ilse et al. 2018, equations 7 and 9."""
    h = relu(linear(bag, first))
    scores = linear(np.tanh(linear(h, value)) * sigmoid(linear(h, gate)), score)[:, 0]
    attention = softmax(scores)
    return linear(attention @ h, head), attention, scores


def dsmil(bag, instance, query, value, head):
    """Return (output (c,), attention (n, c), distances (n, c), patch outputs); Li et al. 2021."""
    patch_outputs = linear(bag, instance)
    q, v = linear(bag, query), linear(bag, value)
    classes = range(patch_outputs.shape[1])
    critical = [patch_outputs[:, j].argmax() for j in classes]
    distances = np.stack([q @ q[k] / np.sqrt(q.shape[1]) for k in critical], axis=1)
    attention = np.stack([softmax(distances[:, j]) for j in classes], axis=1)
    z = np.concatenate([attention[:, j] @ v for j in classes])
    highest = np.array([patch_outputs[k, j] for j, k in enumerate(critical)])
    return (highest + linear(z, head)) / 2, attention, distances, patch_outputs


def dsmil_loss(patch_outputs, target):
    """The binary cross-entropy of each class's most telling patch, the mean over classes."""
    p = sigmoid(patch_outputs.max(axis=0))
    return -np.mean([np.log(p[j] if j == target else 1 - p[j]) for j in range(len(p))])


def smooth_svm(logits, target):
    """Berrada et al. 2018, equation 8, for one row of scores, k = 1, margin and temperature 1."""
    gains = [s + (j != target) for j, s in enumerate(logits)]
    return np.log(np.sum(np.exp(gains))) - logits[target]


def cross_entropy(logits, target):
    return np.log(np.sum(np.exp(logits))) - logits[target]


def clam_instance_loss(h, scores, classifiers, target, k_sample, subtyping, loss):
    """Lu et al. 2021: patches of highest and lowest attention, told apart class by class."""
    k = min(k_sample, len(h) // 2)
    order = np.argsort(scores)
    low, high = order[:k], order[len(h) - k :]
    total = 0.0
    for j, classifier in enumerate(classifiers):
        if j == target:
            losses = [loss(linear(h[i], classifier), 1) for i in high]
            losses += [loss(linear(h[i], classifier), 0) for i in low]
            total += np.mean(losses)
        elif subtyping:
            total += np.mean([loss(linear(h[i], classifier), 0) for i in high])
    return total / len(classifiers) if subtyping else total


def attention_shares(q, k):
    """(t, t): softmax of q k^T / sqrt(w), row by row; (t, w) each."""
    return np.stack([softmax(row) for row in q @ k.T / np.sqrt(q.shape[1])])


def layer_norm(x):
    """Rows of mean 0 and variance 1."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


def self_attention(x, query, key, value, taps, out):
    """Return (what tokens (t, m) see, attention (heads, t, t)); taps (heads, 33) lie along t.

    query, key and value are (m, m) without biases; every head has its run of their outputs.
    """
    heads, seen = len(taps), []
    q, k, v = (np.split(x @ w.T, heads, axis=1) for w in (query, key, value))
    shares = np.stack([attention_shares(*pair) for pair in zip(q, k, strict=True)])
    for head in range(heads):
        near = ndimage.correlate1d(v[head], taps[head], axis=0, mode="constant")
        seen.append(shares[head] @ v[head] + near)
    return linear(np.concatenate(seen, axis=1), out), shares


def transmil(bag, first, class_token, layers, convolutions, head):
    """Return (output, embedding, attention); Shao et al. 2021, with exact attention.

    layers: two of the arguments of `self_attention`; convolutions: (kernels (m, side, side), bias).
    """
    h = relu(linear(bag, first))
    n = len(h)
    side = int(np.ceil(np.sqrt(n)))
    patches = [*range(n), *range(side * side - n)]  # the patch at each place of the square
    x = np.concatenate([class_token, h[patches]])
    x = x + self_attention(layer_norm(x), *layers[0])[0]
    square = x[1:].reshape(side, side, -1)
    position = square.copy()
    for kernels, bias in convolutions:
        for channel, kernel in enumerate(kernels):
            position[..., channel] += bias[channel] + ndimage.correlate(
                square[..., channel], kernel, mode="constant"
            )
    x = np.concatenate([x[:1], position.reshape(side * side, -1)])
    seen, shares = self_attention(layer_norm(x), *layers[1])
    z = layer_norm(x + seen)[0]
    places = shares[:, 0, 1:].mean(axis=0)
    attention = np.array([places[np.array(patches) == i].mean() for i in range(n)])
    return linear(z, head), z, attention


def nystrom_attention(q, k, v, landmarks):
    """Xiong et al. 2021, equation 13, with the exact pseudo-inverse; (t, w) each; one head."""
    run = -(-len(q) // landmarks)
    starts = range(0, len(q), run)
    near_q = np.stack([q[i : i + run].mean(axis=0) for i in starts])
    near_k = np.stack([k[i : i + run].mean(axis=0) for i in starts])

    middle = np.linalg.pinv(attention_shares(near_q, near_k)) @ attention_shares(near_q, k)
    return attention_shares(q, near_k) @ middle @ v


# --- Metrics and intervals -----------------------------------------------------------------------


def within_models(models, parts):
    """Numerators and denominators of each model's rows, added up before they are divided."""
    above = below = 0.0
    for model in set(models):
        numerator, denominator = parts([i for i in range(len(models)) if models[i] == model])
        above, below = above + numerator, below + denominator
    return above / below if below else np.nan


def stratified_auroc(scores, is_positive, models):
    """Pairs of a positive and a negative scored by the same model, equal scores counted half."""

    def parts(rows):
        pairs = [(i, j) for i in rows if is_positive[i] for j in rows if not is_positive[j]]
        right = [(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for i, j in pairs]
        return sum(right), len(pairs)

    return within_models(models, parts)


def stratified_average_precision(scores, is_positive, models):
    """The mean over models, weighted by positives; models with one class do not count."""

    def parts(rows):
        positives = [i for i in rows if is_positive[i]]
        if len(positives) in (0, len(rows)):
            return 0, 0
        above = [[j for j in rows if scores[j] >= scores[i]] for i in positives]
        return sum(np.mean([is_positive[j] for j in each]) for each in above), len(positives)

    return within_models(models, parts)


def stratified_c_index(risk, time, event, models):
    """Harrell: pairs of one model of which one is known to have lived longer."""

    def parts(rows):
        right = pairs = 0.0
        for i in rows:
            for j in rows:
                later = time[j] > time[i] or (time[j] == time[i] and not event[j])
                if event[i] and later:
                    pairs += 1
                    right += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
        return right, pairs

    return within_models(models, parts)


def stratified_correlation(x, y, models, ranks):
    """The mean over models, weighted by pairs of rows; constant ones do not count."""

    def parts(rows):
        a, b = x[rows], y[rows]
        if len(set(a)) < 2 or len(set(b)) < 2:
            return 0, 0
        if ranks:
            a, b = stats.rankdata(a), stats.rankdata(b)
        pairs = len(rows) * (len(rows) - 1) / 2
        return np.corrcoef(a, b)[0, 1] * pairs, pairs

    return within_models(models, parts)


def corrected_t(values, test_share):
    """(mean, standard error, degrees of freedom): Nadeau and Bengio 2003, of n folds and repeats."""
    n = len(values)
    test_to_train = test_share / (1 - test_share)
    return values.mean(), values.std(ddof=1) * np.sqrt(1 / n + test_to_train), n - 1


def corrected_interval(values, test_share, confidence):
    mean, error, freedom = corrected_t(values, test_share)
    half = stats.t.ppf((1 + confidence) / 2, freedom) * error
    return mean, mean - half, mean + half


def holm(p):
    """Holm 1979: the smallest times k, the next times k - 1, ..., never less than one before."""
    adjusted = np.zeros(len(p))
    highest = 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def paired_difference(values, others, rows):
    """Mean over rows, one as often as it is drawn, of one source less that of another; where both are known."""
    rows = [row for row in rows if not np.isnan(values[row] + others[row])]
    return np.mean(values[rows]) - np.mean(others[rows]) if rows else np.nan


def draws_of_groups(statistic, groups, times):
    """A statistic of rows, each time that the groups, in the order of their names, are drawn so often."""
    names = np.unique(groups)
    return np.array(
        [
            statistic(
                [
                    row
                    for name, often in zip(names, drawn, strict=True)
                    for row in np.flatnonzero(groups == name).tolist() * int(often)
                ]
            )
            for drawn in times
        ]
    )


def bootstrap_p(draws):
    """Two-sided: twice the share of draws beyond 0, the value as observed counted (Davison and Hinkley, 1997)."""
    beyond = min(sum(draw <= 0 for draw in draws), sum(draw >= 0 for draw in draws))
    return min(1.0, 2 * (1 + beyond) / (1 + len(draws)))


def bootstrap_interval(draws, alpha):
    """The narrowest between two draws, as many beyond each, whose ends are not refused at alpha."""
    ordered = np.sort(draws)
    kept = [d for d in ordered if bootstrap_p(ordered - d) >= alpha]
    return kept[0], kept[-1]


# --- Starts ----------------------------------------------------------------------------------------


def gabor_filter(px, *, angle, wave_px, phase):
    """g(x, y) = exp(-(x'^2 + gamma^2 y'^2) / (2 sigma^2)) cos(2 pi x' / lambda + psi), less its mean.

    gamma = 0.5, sigma = 0.4 lambda; x' = x cos(angle) + y sin(angle), from the centre.
    """
    found = np.empty((px, px))
    for row in range(px):
        for column in range(px):
            x, y = column - (px - 1) / 2, row - (px - 1) / 2
            along = x * np.cos(angle) + y * np.sin(angle)
            across = y * np.cos(angle) - x * np.sin(angle)
            spread = 2 * (0.4 * wave_px) ** 2
            envelope = np.exp(-(along**2 + 0.25 * across**2) / spread)
            found[row, column] = envelope * np.cos(2 * np.pi * along / wave_px + phase)
    return found - found.mean()


def resnet_convolutions(blocks, widths, *, expansion):
    """Shape of each convolution of a ResNet by its key; widths of conv1 and of layer1 to layer4."""
    stem, *inner = widths
    found, d = {"conv1": (stem, 3, 7, 7)}, stem
    for i, (count, width) in enumerate(zip(blocks, inner, strict=True), start=1):
        for j in range(count):
            key, out, stride = f"layer{i}.{j}", expansion * width, 2 if i > 1 and j == 0 else 1
            if expansion == 1:
                shapes = [(width, d, 3, 3), (width, width, 3, 3)]
            else:
                shapes = [(width, d, 1, 1), (width, width, 3, 3), (out, width, 1, 1)]
            found |= {f"{key}.conv{k}": shape for k, shape in enumerate(shapes, start=1)}
            if stride == 2 or d != out:  # what comes in cannot be added as it is
                found[f"{key}.downsample.0"] = (out, d, 1, 1)
            d = out
    return found


def densenet_convolutions(blocks, growths, transitions):
    """The same of a DenseNet; growth rates of the blocks, channels that leave the transitions."""
    found, d = {"features.conv0": (64, 3, 7, 7)}, 64
    for i, (count, growth) in enumerate(zip(blocks, growths, strict=True), start=1):
        for j in range(1, count + 1):
            key = f"features.denseblock{i}.denselayer{j}"
            found[f"{key}.conv1"] = (4 * growth, d, 1, 1)
            found[f"{key}.conv2"] = (growth, 4 * growth, 3, 3)
            d += growth  # a layer adds to all that came before it
        if i <= len(transitions):
            found[f"features.transition{i}.conv"] = (transitions[i - 1], d, 1, 1)
            d = transitions[i - 1]
    return found


def cbr_convolutions(widths, *, kernel_px):
    """The same of a CBR."""
    ins = (3, *widths[:-1])
    return {
        f"conv{i}": (d, of, kernel_px, kernel_px)
        for i, (d, of) in enumerate(zip(widths, ins, strict=True), start=1)
    }


def crops(image: np.ndarray, *, side: int, overlap: float, scale: float) -> np.ndarray:
    """(n, side, side, 3) float64: squares of side * scale px every round(side * (1 - overlap)) crop px.

    A last one lies at the end where one pixel or more is left; short axes are mirrored on both sides.
    """
    needed = int(np.ceil(side * scale - 1e-9))
    for axis in (0, 1):
        lack = max(0, needed - image.shape[axis])
        places = np.arange(-(lack // 2), image.shape[axis] + lack - lack // 2)
        period = max(1, 2 * (image.shape[axis] - 1))
        places = np.minimum(places % period, period - places % period) * (image.shape[axis] > 1)
        image = image.take(places, axis)
    starts = []
    for length in (image.shape[0] / scale, image.shape[1] / scale):
        found = [0.0]
        stride = max(1, round(side * (1 - overlap)))
        while found[-1] + stride + side <= length + 1e-9:
            found.append(found[-1] + stride)
        if length - side - found[-1] >= 1:
            found.append(length - side)
        starts.append(found)
    return np.array(
        [
            cut_patch(image, (x * scale, y * scale, side * scale, side * scale), side)
            for y in starts[0]
            for x in starts[1]
        ]
    )


def contrast(image: np.ndarray) -> float:
    """Distance of the 5th and 99th percentile of luminance, as scikit-image's rgb2gray has it."""
    luminance = image.reshape(-1, 3) / 255 @ np.array([0.2125, 0.7154, 0.0721])
    low, high = np.percentile(luminance, [5, 99])
    return float(high - low)


# --- Merges of checkpoints, of one tensor --------------------------------------------------------


def merge_ties(parts, base, *, scale=1.0, kept=0.2):
    """TIES: trim each tau to its largest `kept`, elect the sign of the sum, mean of those that agree."""
    found = np.array(base, np.float64)
    taus = [np.asarray(part, np.float64) - base for part in parts]
    trimmed = []
    for tau in taus:
        least = np.sort(np.abs(tau).ravel())[::-1][max(1, round(kept * tau.size)) - 1]
        trimmed.append(np.where(np.abs(tau) >= least, tau, 0.0))
    for index in np.ndindex(found.shape):
        values = [tau[index] for tau in trimmed]
        sign = np.sign(sum(values))
        agreeing = [value for value in values if value != 0 and np.sign(value) == sign]
        found[index] += scale * np.mean(agreeing) if agreeing else 0.0
    return found


def merge_stock(parts, base):
    """Model Stock: t mean + (1 - t) base, t = k cos / (1 + (k - 1) cos), mean cosine of pairs."""
    taus = [(np.asarray(part, np.float64) - base).ravel() for part in parts]
    k = len(taus)
    cosines = [
        taus[i] @ taus[j] / (np.linalg.norm(taus[i]) * np.linalg.norm(taus[j]))
        for i in range(k)
        for j in range(i)
    ]
    cosine = min(max(float(np.mean(cosines)), 0.0), 1.0)
    t = k * cosine / (1 + (k - 1) * cosine)
    return t * np.mean(parts, axis=0) + (1 - t) * base


def truncated(matrix, rank):
    """The nearest matrix of a rank."""
    u, s, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    s[rank:] = 0
    return (u * s) @ vt


def merge_iso(parts, base, *, scale=1.0):
    """Iso-C: the sum of taus with every singular value replaced by their mean."""
    u, s, vt = np.linalg.svd(
        sum(np.asarray(part, np.float64) - base for part in parts), full_matrices=False
    )
    return base + scale * s.mean() * u @ vt


# --- ranks: empirical variational Bayes matrix factorisation --------------------------------------


def factor_energy(logs, y, few, many):
    """Twice the free energy of one factor b a' of a matrix, less that without it, prior widths at their best.

    The model: V = sum_h b_h a_h' + noise, priors N(0, c_a^2) and N(0, c_b^2) of their entries, a posterior
    in which they are independent normals. With u = |a|^2 / (many s_a^2), v = |b|^2 / (few s_b^2) of its means
    and variances and the scale of |a| |b| at its best that is
    many log(1 + u) + few log(1 + v) - y u v / ((1 + u) (1 + v)), y = gamma^2 / variance.
    """
    u, v = np.exp(logs[0]), np.exp(logs[1])
    return many * np.log1p(u) + few * np.log1p(v) - y * (u / (1 + u)) * (v / (1 + v))


def best_factor(y, few, many):
    """(least energy, share of gamma that is kept): by a grid of u and v, then downhill; or no factor."""
    grid = np.meshgrid(np.linspace(-8, 12, 101), np.linspace(-8, 12, 101))
    place = np.argmin(factor_energy(grid, y, few, many))
    begin = [axis.ravel()[place] for axis in grid]
    found = optimize.minimize(
        factor_energy,
        begin,
        args=(y, few, many),
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-12},
    )
    if found.fun >= 0:
        return 0.0, 0.0
    u, v = np.exp(found.x)
    return found.fun, u * v / ((1 + u) * (1 + v))


def evbmf(matrix):
    """(singular values, variance): the free energy of the model itself made least, by brute force."""
    s = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    few, many = sorted(np.shape(matrix))

    def energy(log_variance):
        ys = s**2 / np.exp(log_variance)
        factors = sum(best_factor(y, few, many)[0] for y in ys)
        return few * many * log_variance + ys.sum() + factors

    top = np.log((s**2).sum() / (few * many))
    logs = np.linspace(top - 4, top, 41)
    energies = [energy(at) for at in logs]
    i = int(np.argmin(energies))
    bounds = logs[max(i - 1, 0)], logs[min(i + 1, 40)]
    best = optimize.minimize_scalar(
        energy, bounds=bounds, method="bounded", options={"xatol": 1e-6}
    ).x
    shares = np.array([best_factor(value**2 / np.exp(best), few, many)[1] for value in s])
    return (s * shares)[shares > 0], np.exp(best)


def scaled_linear(x, weight, bias, scale):
    """LayerScale behind a linear layer, (n, out): (x W + b) g, W of (in, out)."""
    x, weight, bias, scale = (np.asarray(v, np.float64) for v in (x, weight, bias, scale))
    return (x @ weight + bias) * scale


# --- Fewer features ------------------------------------------------------------------------------


def principal_axes(x, k):
    """Mean (d,) and the k eigenvectors of the covariance of the largest eigenvalues, as rows (k, d).

    The entry of each that is largest in size is positive.
    """
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh((x - mean).T @ (x - mean))
    axes = vectors[:, np.argsort(-values)[:k]].T
    return mean, np.array([a if a[np.abs(a).argmax()] > 0 else -a for a in axes])


def share_of_variance(x, axes):
    """Trace of the covariance along orthonormal axes (k, d), as a share of the whole trace."""
    covariance = np.cov(x.T)
    return np.trace(axes @ covariance @ axes.T) / np.trace(covariance)


# --- selection: which patches of a slide are worth an expensive encoder ---------------------------


def selected_rows(attention, keep, keep_random, seed):
    """(rows in order, whether each was taken for its attention), of (n,) attention, n >= 1.

    The share `keep` of all rows, rounded half up, at least one: those of the highest attention, of equal ones
    the earlier. Of the others the share `keep_random`, rounded half up: each draws a number, in order, and
    those of the lowest are taken.
    """
    n = len(attention)
    k = max(1, int(np.floor(round(keep * n, 9) + 0.5)))
    highest = sorted(range(n), key=lambda row: (-attention[row], row))[:k]
    others = [row for row in range(n) if row not in highest]
    drawn = np.random.default_rng(seed).random(len(others))
    r = int(np.floor(round(keep_random * len(others), 9) + 0.5))
    at_random = [others[i] for i in sorted(range(len(others)), key=lambda i: (drawn[i], i))[:r]]
    rows = sorted(highest + at_random)
    return rows, [row in highest for row in rows]


def attention_on(attention, corners, side, onto, onto_side):
    """(n,): squares at `onto` get the mean of attention over the squares at `corners`, weighted by what they share."""
    found = []
    for x, y in onto:
        shares = [
            max(0, min(x + onto_side, cx + side) - max(x, cx))
            * max(0, min(y + onto_side, cy + side) - max(y, cy))
            for cx, cy in corners
        ]
        found.append(np.dot(shares, attention) / sum(shares) if sum(shares) else 0.0)
    return np.array(found)


def most_alike(features, row, *, k):
    """Rows of the highest cosines to one row, ties by row, and these; zero and not finite rows have none."""
    wide = np.asarray(features, np.float64)
    is_whole = np.isfinite(wide).all(axis=1) & (np.nan_to_num(wide) != 0).any(axis=1)
    rows = np.array([i for i in np.flatnonzero(is_whole) if i != row], np.int64)
    lengths = np.sqrt((wide[rows] ** 2).sum(axis=1))
    # Each product by itself: equal rows must have equal cosines.
    cosines = np.array([(wide[i] * wide[row]).sum() for i in rows]) / lengths
    cosines = cosines / np.sqrt((wide[row] ** 2).sum())
    order = np.argsort(-cosines, kind="stable")[:k]
    return rows[order], cosines[order]


def colours(features, sample):
    """(n, 3) light of red, green and blue: along the sample's principal axes, its 1 % to its 99 % quantile."""
    wide = sample.astype(np.float64)
    _, _, axes = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    axes = axes[:3] * [[np.sign(axis[np.abs(axis).argmax()])] for axis in axes[:3]]
    low, high = np.quantile((wide - wide.mean(axis=0)) @ axes.T, [0.01, 0.99], axis=0)
    along = (features.astype(np.float64) - wide.mean(axis=0)) @ axes.T
    return np.rint(255 * np.clip((along - low) / (high - low), 0, 1)).astype(int)


def plan_at(points, *, width, height, patch_l0, are_centres=False, shift=False):
    """Corners of squares at given places, as `tiling.plan_at` has them: one by one, sorted by row."""
    found = []
    for x, y in points:
        half = patch_l0 / 2 if are_centres else 0
        corner = [int(np.floor(at - half + 0.5)) for at in (x, y)]
        ends = [width - patch_l0, height - patch_l0]
        inside = [min(max(at, 0), end) for at, end in zip(corner, ends, strict=True)]
        if shift or inside == corner:
            found.append(tuple(inside))
    return sorted(found, key=lambda corner: (corner[1], corner[0]))
