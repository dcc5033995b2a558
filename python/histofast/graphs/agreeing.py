"""How well the features of one encoder agree with those of another, and when well enough."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast.similarity import cka

MIN_PATCHES = 32  # fewer neither show what activations reach nor what the worst patches lose


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well features agree with those of a reference, over n patches.

    `median_cosine` and `p1_cosine` (1st percentile) are of the cosine between the two feature
    vectors of each patch, `cka` is the debiased linear CKA of all of them.
    """

    n: int
    median_cosine: float
    p1_cosine: float
    cka: float

    def shortfalls(self) -> list[str]:
        """Return what is below the gate, in words; empty: passed."""
        wanted = asdict(GATE)
        return [
            f"{key.replace('_', ' ').replace('p1', '1st-percentile')} {got:.4f}, wanted at least "
            f"{wanted[key]:g}"
            for key, got in asdict(self).items()
            if key != "n" and not got >= wanted[key]  # also true for NaN
        ]

    def to_json(self) -> str:
        """Return what the file's metadata says."""
        values = {k: v if k == "n" else round(v, 6) for k, v in asdict(self).items()}
        return json.dumps(values, sort_keys=True)


GATE = Agreement(n=MIN_PATCHES, median_cosine=0.99, p1_cosine=0.97, cka=0.99)


def agreement(reference: NDArray[np.float32], features: NDArray[np.float32]) -> Agreement:
    """Compare features with reference features of the same patches.

    Args:
        reference: (n, d) float32, n >= 4.
        features: (n, d) float32, row i of the same patch.

    Raises:
        ValueError: other shapes, NaN or infinity, features that do not vary, a row of zeros.
    """
    n, d = check("reference", reference, "float32", ("n", "d"))
    check("features", features, "float32", (n, d))
    similarity = cka(reference, features)
    empty = ~(reference.any(axis=1) & features.any(axis=1))
    if empty.any():
        raise ValueError(f"features must not be all zero, got {empty.sum()} of {n} rows")
    cosine = cosines(reference, features)
    return Agreement(
        n=n,
        median_cosine=float(np.median(cosine)),
        p1_cosine=float(np.percentile(cosine, 1)),
        cka=similarity,
    )


def cosines(reference: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine between the rows of two (n, d) arrays: (n,), 0 for a row of zeros."""
    a, b = reference.astype("f8"), features.astype("f8")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(norms, np.finfo("f8").tiny)
    return found
