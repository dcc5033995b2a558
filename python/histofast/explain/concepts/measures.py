"""Patches in, concepts out: what a person would say of a patch, as numbers with a definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from histofast._arrays import check
from histofast._numbers import real_number, whole_number
from histofast._stopping import stop_if_asked
from histofast._words import did_you_mean
from histofast.datasets import HED
from histofast.explain.concepts.glcm import GLCM_FEATURES, glcm

Pixels = NDArray[np.uint8]
Float = NDArray[np.float64]

NUCLEI_THRESHOLD = 0.5  # natural optical density of haematoxylin
LEAST_NUCLEUS_PX = 20
_BINS, _MOST = 64, 2.0  # of the histogram of a stain's amounts; what is beyond is in the last bins
_BATCH = 64
_GREY = np.array([0.2125, 0.7154, 0.0721])
_DENSITY = -np.log((np.arange(256) + 1) / 256)
_STAINS = ("haematoxylin", "eosin", "residual")
_UNMIXING = np.linalg.inv(HED)
_TOUCHING = np.ones((3, 3), np.int64)  # by edges and corners


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """What is measured of a patch.

    Attributes:
        name: of it.
        definition: in one sentence.
        source: who defined it.
        asked: whether it is measured only where it is asked for by name.
    """

    name: str
    definition: str
    source: str
    asked: bool = False


_HARALICK = "Haralick et al. 1973"
_RUIFROK = "stains of Ruifrok and Johnston 2001"
_TABLE = "p: how often grey levels i and j lie side by side, in either order"
_AMOUNT = "optical density -ln((v + 1) / 256) of the pixels, unmixed"
CONCEPTS: Mapping[str, Concept] = {
    concept.name: concept
    for concept in (
        Concept(name="dissimilarity", definition=f"sum p |i - j|; {_TABLE}", source=_HARALICK),
        Concept(name="contrast", definition="sum p (i - j)^2", source=_HARALICK),
        Concept(name="homogeneity", definition="sum p / (1 + (i - j)^2)", source=_HARALICK),
        Concept(name="asm", definition="angular second moment, sum p^2", source=_HARALICK),
        Concept(name="energy", definition="root of the angular second moment", source=_HARALICK),
        Concept(
            name="correlation",
            definition="sum p (i - m) (j - m) / variance; 1 where all pixels are equal",
            source=_HARALICK,
        ),
        Concept(name="haematoxylin", definition=f"mean amount: {_AMOUNT}", source=_RUIFROK),
        Concept(name="eosin", definition="mean amount, likewise", source=_RUIFROK),
        Concept(
            name="haematoxylin_entropy",
            definition=f"bits of the histogram of its amounts, {_BINS} bins over 0 to {_MOST:g}",
            source=f"Shannon 1948; {_RUIFROK}",
        ),
        Concept(
            name="eosin_entropy",
            definition="bits of the histogram of its amounts, likewise",
            source=f"Shannon 1948; {_RUIFROK}",
        ),
        Concept(
            name="colourfulness",
            definition="root of the variances of R - G and (R + G) / 2 - B, added, plus 0.3 of the "
            "root of their squared means",
            source="Hasler and Suesstrunk 2003",
        ),
        Concept(
            name="brightness",
            definition="mean of 0.2125 R + 0.7154 G + 0.0721 B",
            source="ITU-R BT.709, as scikit-image has it",
        ),
        Concept(
            name="nuclei_count",
            definition=f"objects of at least {LEAST_NUCLEUS_PX} px whose haematoxylin is above a "
            "threshold, joined by edges and corners",
            source="a plain threshold: it parts no nuclei that touch",
            asked=True,
        ),
        Concept(
            name="nuclei_area",
            definition="share of the patch that these objects cover",
            source="the same threshold",
            asked=True,
        ),
    )
}


def check_concepts(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names of concepts, each once; None: all that need not be asked for.

    Raises:
        ValueError: no such concept, or none.
    """
    if names is None:
        return tuple(name for name, concept in CONCEPTS.items() if not concept.asked)
    for name in names:
        if name not in CONCEPTS:
            raise ValueError(
                f"concepts must be of {', '.join(CONCEPTS)}, got {name!r}"
                f"{did_you_mean(name, CONCEPTS)}"
            )
    if not names:
        raise ValueError("concepts must name at least one, got none")
    return tuple(dict.fromkeys(names))


def measure(
    images: Pixels,
    *,
    names: Sequence[str] | None = None,
    distance: int = 1,
    levels: int = 256,
    nuclei_threshold: float = NUCLEI_THRESHOLD,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float:
    """Measure concepts of patches.

    Args:
        images: (n, h, w, 3) uint8 RGB.
        names: of `CONCEPTS`; None: all but those that are measured only where asked for.
        distance: of pairs of the co-occurrence matrix, along rows, px.
        levels: of grey in it, 2 to 256.
        nuclei_threshold: natural optical density of haematoxylin above which a pixel is nucleus, above 0.
        threads: of the co-occurrence matrix; None: as many as there are CPUs.
        on_progress: called with the number of patches that are done, and of all.

    Returns:
        (n, k) float64, in the order of `names`.

    Raises:
        TypeError, ValueError: as `glcm`; no such concept.
        Interrupted: asked to stop.
    """
    chosen = check_concepts(names)
    nuclei_threshold = real_number("nuclei_threshold", nuclei_threshold, above=0)
    whole_number("distances", distance, at_least=1)
    n, *_ = check("images", images, "uint8", ("n", "h", "w", 3), contiguous=False)
    found = np.empty((n, len(chosen)))
    of_texture = [name for name in chosen if name in GLCM_FEATURES]
    of_colour = partial(_of_colour, names=chosen, nuclei_threshold=nuclei_threshold)
    for first in range(0, n, _BATCH):
        stop_if_asked()
        batch = np.ascontiguousarray(images[first : first + _BATCH])
        rows = slice(first, first + len(batch))
        if of_texture:
            texture = glcm(batch, distances=(distance,), levels=levels, threads=threads)[:, 0, 0]
            for name in of_texture:
                found[rows, chosen.index(name)] = texture[:, GLCM_FEATURES.index(name)]
        for row, image in enumerate(batch, first):
            for name, value in of_colour(image).items():
                found[row, chosen.index(name)] = value
        if on_progress is not None:
            on_progress(first + len(batch), n)
    return found


def _of_colour(image: Pixels, *, names: Sequence[str], nuclei_threshold: float) -> dict[str, float]:
    """Return those of the concepts that are no texture."""
    found: dict[str, float] = {}
    if "brightness" in names:
        found["brightness"] = float(image.reshape(-1, 3).mean(axis=0) @ _GREY)
    if "colourfulness" in names:
        found["colourfulness"] = _colourfulness(image)
    stained = [name for name in names if name.partition("_")[0] in (*_STAINS, "nuclei")]
    if not stained:
        return found
    amounts = _DENSITY[image] @ _UNMIXING  # (h, w, 3)
    for name in stained:
        stain, _, what = name.partition("_")
        if stain == "nuclei":
            found |= _nuclei(amounts[..., 0] > nuclei_threshold, names)
            continue
        of_stain = amounts[..., _STAINS.index(stain)]
        found[name] = _entropy(of_stain) if what else float(of_stain.mean())
    return found


def _colourfulness(image: Pixels) -> float:
    red, green, blue = (image[..., k].astype(np.float64) for k in range(3))
    axes = (red - green, (red + green) / 2 - blue)
    spread = np.sqrt(sum(float(axis.var()) for axis in axes))
    return float(spread + 0.3 * np.sqrt(sum(float(axis.mean()) ** 2 for axis in axes)))


def _entropy(amounts: Float) -> float:
    bins = np.clip(amounts * (_BINS / _MOST), 0, _BINS - 1).astype(np.int64)
    shares = np.bincount(bins.ravel(), minlength=_BINS) / bins.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0


def _nuclei(mask: NDArray[np.bool_], names: Sequence[str]) -> dict[str, float]:
    labels, _ = ndimage.label(mask, _TOUCHING)
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas >= LEAST_NUCLEUS_PX]
    found = {"nuclei_count": float(len(areas)), "nuclei_area": float(areas.sum() / mask.size)}
    return {name: value for name, value in found.items() if name in names}
