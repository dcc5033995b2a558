"""What features of an encoder are like: how many directions they use, what has collapsed, whose slide shows.

Numbers are of patches drawn evenly from the slides; nothing is trained, no label is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import count
from histofast.errors import FeatureError
from histofast.features import list_features, open_features, options_of, shared_options
from histofast.robustness import adjusted_share, explained_share
from histofast.similarity import effective_rank
from histofast.summaries.vectors import refuse_same_names
from histofast.transferability import rank_me

Floats = NDArray[np.float64]

DRAWN = 2048  # patches
_PER_SLIDE = 4  # at least, of as many slides as that allows
_PAIRS = 10_000  # whose angles are looked at
STILL = 1e-3  # of the median deviation: a feature below hardly moves
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How far values lie apart: 1st percentile, median, 99th percentile."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """Return that of values; NaN of none."""
        if not len(values):
            return cls(low=math.nan, median=math.nan, high=math.nan)
        low, median, high = (float(q) for q in np.percentile(values, (1, 50, 99)))
        return cls(low=low, median=median, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureLook:
    """What features are like.

    Attributes:
        n, d: patches that were drawn, and features of each.
        slides: of which they were drawn.
        rank_me: effective rank of the features as they are (RankMe), 1 to min(n, d); 0 where all are 0.
        rank_centred: likewise of the features less their mean.
        constant: numbers of the features that are the same in all patches.
        still: of those that hardly move: deviation below 1/1000 of the median one of those that move.
        repeated: share of patches whose features are also those of another.
        variance_in: share of the variance along the first k principal axes, by k.
        norms: lengths of the rows; zeros: rows that are all 0.
        cosines: between patches of different slides; NaN of one slide.
        largest: absolute value.
        share_of_slides: eta squared of slides, of rows of length 1; adjusted for their number (epsilon
            squared) it is `dependence`. NaN of one slide.
    """

    n: int
    d: int
    slides: int
    rank_me: float
    rank_centred: float
    constant: tuple[int, ...]
    still: tuple[int, ...]
    repeated: float
    variance_in: dict[int, float]
    norms: Spread
    zeros: int
    cosines: Spread
    largest: float
    share_of_slides: float
    dependence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LookResult:
    """A look at the feature files of an encoder.

    Attributes:
        encoder: its name, "" where the files do not tell.
        files: slides with patches in all; patches: theirs.
        look: what was seen.
        seed: of the draw.
        notes: what was left out, a line each.
    """

    encoder: str
    files: int
    patches: int
    look: FeatureLook
    seed: int
    notes: tuple[str, ...]


def look_at_files(
    features: str | Path | Sequence[str | Path], *, n: int = DRAWN, seed: int = 0
) -> LookResult:
    """Look at the features of an encoder, in memory that grows with `n` and not with the files.

    Args:
        features: folder of feature files (of TRIDENT, CLAM and STAMP too), or files and folders.
        n: patches to draw, about: evenly from all slides, of more than n / 4 from n / 4 at random.
        seed: of the draw.

    Raises:
        FeatureError: a file that cannot be read or holds NaN, files made with other options or of other
            widths.
        FileNotFoundError: no such file, or none in the folder.
        ValueError: two files of one name, no slide with a patch, n below 8.
    """
    n = whole_number("n", n, at_least=2 * _PER_SLIDE)
    files, notes = list_features(features)
    refuse_same_names(files)
    sizes = {}
    made = []
    for path in files:
        stop_if_asked()
        file = open_features(path)
        sizes[path] = len(file.features)
        made.append((path, {**options_of(file), "d": file.features.shape[1]}))
    options = shared_options(made)
    paths = [path for path in files if sizes[path]]
    if not paths:
        raise ValueError(
            f"features must have a slide with patches, got {count(len(files), 'empty one')}"
        )
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(paths))[: n // _PER_SLIDE].tolist())
    share = -(-n // len(chosen))
    rows, of = [], []
    for k, at in enumerate(chosen):
        stop_if_asked()
        taken = np.sort(rng.permutation(sizes[paths[at]])[:share])
        rows.append(_rows_of(paths[at], taken))
        of += [k] * len(taken)
    return LookResult(
        encoder=str(options.get("encoder.name", "")),
        files=len(paths),
        patches=sum(sizes.values()),
        look=look_at(np.concatenate(rows), np.array(of), seed=seed),
        seed=seed,
        notes=tuple(notes),
    )


def look_at(
    features: NDArray[np.float32], slides: NDArray[np.int64], *, seed: int = 0
) -> FeatureLook:
    """Look at features in memory.

    Args:
        features: (n, d) float32, finite, n >= 1.
        slides: (n,) int64 number of each one's slide.
        seed: of the pairs of patches that are looked at.

    Raises:
        TypeError, ValueError: other shapes or types.

    Determinism: equal but for last bits.
    """
    n, d = check("features", features, "float32", ("n", "d"))
    check("slides", slides, "int64", (n,))
    x = features.astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    moves = features.max(axis=0) > features.min(axis=0)
    deviations = x.std(axis=0)
    is_still = moves & (deviations < STILL * np.median(deviations[moves])) if moves.any() else moves
    several = len(np.unique(slides)) > 1
    unit = x[norms > 0] / norms[norms > 0, None]
    of = np.unique(slides[norms > 0], return_inverse=True)[1]
    tells = len(unit) > 0 and len(np.unique(of)) > 1
    one_class = np.zeros(len(unit), np.int64)
    return FeatureLook(
        n=n,
        d=d,
        slides=len(np.unique(slides)),
        rank_me=rank_me(features) if x.any() else 0.0,
        rank_centred=effective_rank(x - x.mean(axis=0)) if moves.any() else 0.0,
        constant=tuple(np.flatnonzero(~moves).tolist()),
        still=tuple(np.flatnonzero(is_still).tolist()),
        repeated=_repeated(features),
        variance_in=_variance_in(x),
        norms=Spread.of(norms),
        zeros=int((norms == 0).sum()),
        cosines=Spread.of(_cosines(unit, of, seed=seed) if several and tells else np.empty(0)),
        largest=float(np.abs(features).max()),
        share_of_slides=explained_share(unit, one_class, of) if tells else math.nan,
        dependence=adjusted_share(unit, one_class, of) if tells else math.nan,
    )


def _rows_of(path: Path, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    found = np.asarray(open_features(path).features[rows], np.float32)
    if not np.isfinite(found).all():
        raise FeatureError(
            f"{path}: features must be finite, got NaN or infinity: extract it again"
        )
    return found


def _repeated(features: NDArray[np.float32]) -> float:
    """Return the share of rows that are there more than once, bit for bit."""
    _, which, counts = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    return float((counts[which.ravel()] > 1).mean())


def _variance_in(x: Floats) -> dict[int, float]:
    """Return the share of the variance along the first k principal axes, for some k; {} of none."""
    squares = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    if not squares.sum() > 0:
        return {}
    shares = np.cumsum(squares) / squares.sum()
    return {k: float(shares[k - 1]) for k in _STEPS if k <= len(shares)}


def _cosines(unit: Floats, slides: NDArray[np.int64], *, seed: int) -> Floats:
    """Return the cosine between pairs of rows of different slides, drawn at random."""
    a, b = np.random.default_rng([seed, len(unit)]).integers(len(unit), size=(2, _PAIRS))
    apart = slides[a] != slides[b]
    found: Floats = np.einsum("ij,ij->i", unit[a[apart]], unit[b[apart]])
    return found
