"""Colours of a slide as a target has them: measured once on its tissue, then one map for all its pixels.

Densities are -log2((v + 1) / 256) of a pixel's values v: glass is 0. Rows are pixels, so maps are applied
from the right.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check
from histofast._files import path_of, regular_file
from histofast.errors import SlideError
from histofast.patches.sample import IMAGE_SUFFIXES
from histofast.patches.stream import iter_patches
from histofast.slides import (
    Icc,
    checked_icc,
    open_slide,
    profile_of_picture,
    read_image,
    srgb_table,
)
from histofast.tiling import plan_patches
from histofast.tissue import find_tissue

Method = Literal["macenko", "reinhard"]
Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

REVISION = 1  # raised when the same pixels would give others
SAMPLED = 32  # patches of a slide that are measured
_MOST_PIXELS = 200_000  # of these

_BETA = 0.15 / math.log(2)  # density, natural 0.15, below which a pixel is glass
_ALPHA = 1.0  # per cent of the angles beyond either stain
_LEAST_DENSE = 1_000
_TARGET_MPP, _TARGET_PX = 0.5, 256
_LEAST_DEG = 5.0  # between two stains that can be told apart
_DIGITS = 4  # of a map: machines whose last bits differ give the same one

_LIGHT_TO_CONES = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
)
_DECORRELATE = np.diag(1 / np.sqrt([3, 6, 2])) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Stains:
    """What a method knows of the stains of a picture.

    Attributes:
        first, second: of "macenko": directions of haematoxylin and eosin; of "reinhard": means and deviations
            of l, alpha, beta, (3) each.
        most: of "macenko": density that 99 % of the pixels stay below of either stain; () of "reinhard".
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    most: tuple[float, ...] = ()


# Haematoxylin and eosin of the demonstration that Macenko et al. published, natural logarithms there; a
# breast of TCGA (A2-A3XS) as HistomicsTK has it for Reinhard's method.
_DEFAULT: dict[Method, Stains] = {
    "macenko": Stains(
        first=(0.5626, 0.7201, 0.4062),
        second=(0.2159, 0.8012, 0.5581),
        most=(1.9705 / math.log(2), 1.0308 / math.log(2)),
    ),
    "reinhard": Stains(
        first=(8.74108109, -0.12440419, 0.0444982), second=(0.6135447, 0.10989545, 0.0286032)
    ),
}


_COUNTS = {"macenko": 8, "reinhard": 6}  # numbers of a target


@dataclass(frozen=True, kw_only=True, slots=True)
class StainOptions:
    """To which colours pixels are brought, and how.

    Attributes:
        method: "macenko": densities as sums of two stains, each brought to the target's colour and
            strength; "reinhard": means and deviations of l, alpha, beta brought to the target's.
        target: slide, or picture of tissue (PNG, JPEG, a TIFF that tells no scale), whose colours are
            wanted; None: the published ones. Of a slide 32 patches of 256 px are measured, at 0.5 um/px
            where it has that.
        wanted: what was measured of it; given: measured before, there is no target to read.
        icc: "srgb": in the colours that the target's ICC profile gives it, as `extract` has those of slides.

    Raises:
        TypeError, ValueError: no such method.
        FileNotFoundError, SlideError: a target that cannot be read, or that has no two stains.

    Reference: Macenko et al., 2009, A method for normalizing histology slides for quantitative analysis;
    Reinhard et al., 2001, Color transfer between images.
    """

    method: Method
    target: Path | None = None
    wanted: Stains | None = None
    icc: Icc | None = None

    def __post_init__(self) -> None:
        """Measure the target."""
        if self.method not in get_args(Method):
            known = " or ".join(get_args(Method))
            raise ValueError(f"stain must be {known}, got {self.method!r}")
        wanted = self.wanted or _DEFAULT[self.method]
        if self.target is not None and self.wanted is None:
            path = regular_file(path_of("stain_target", self.target), kind="target of stains")
            object.__setattr__(self, "target", path)
            of = f"stain target {path}"
            pixels = _pixels_of(path, of=of, icc=checked_icc(self.icc))
            wanted = measured(self.method, pixels, of=of)
        object.__setattr__(self, "wanted", wanted)

    @classmethod
    def of_identity(cls, told: Mapping[str, Any]) -> StainOptions:
        """Return the options that gave an identity.

        Raises:
            ValueError: none did, or those of another revision.
        """
        try:
            numbers = [float(number) for number in told["numbers"]]
            is_known = told["revision"] == REVISION and len(numbers) == _COUNTS[told["method"]]
        except (KeyError, TypeError, ValueError):
            is_known = False
        if not is_known:
            raise ValueError(
                "a stain must be as this version of extract writes it: extract the features again"
            )
        wanted = Stains(
            first=tuple(numbers[:3]), second=tuple(numbers[3:6]), most=tuple(numbers[6:])
        )
        return cls(method=told["method"], wanted=wanted)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the pixels of a given slide: the target by its numbers, wherever its file is."""
        assert self.wanted is not None
        numbers = [*self.wanted.first, *self.wanted.second, *self.wanted.most]
        digest = hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:12]
        return {
            "method": self.method,
            "target": "default" if self.wanted == _DEFAULT[self.method] else digest,
            "numbers": numbers,
            "revision": REVISION,
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StainMap:
    """A map of the colours of one slide.

    Attributes:
        matrix: (12,) float32: densities d, or logarithms of cones, become d m + o: m, then o.
        of_cones: whether it is of cones.
        found: what was measured of the slide.
        notes: what is unusual, a line each.
    """

    matrix: NDArray[np.float32]
    of_cones: bool
    found: Stains
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it, as a feature file keeps it."""
        told = {
            "matrix": [round(float(v), _DIGITS) for v in self.matrix],
            "of_cones": self.of_cones,
        }
        return json.dumps(told | {"found": asdict(self.found)})

    @classmethod
    def of_text(cls, text: str) -> StainMap:
        """Return the map that gave a text.

        Raises:
            ValueError: none did.
        """
        try:
            told = json.loads(text)
            found = {name: tuple(map(float, values)) for name, values in told["found"].items()}
            matrix = np.array(told["matrix"], np.float32)
            if matrix.shape != (12,) or not np.isfinite(matrix).all():
                raise ValueError
            return cls(matrix=matrix, of_cones=bool(told["of_cones"]), found=Stains(**found))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ValueError("a map of stains must be as extract writes it") from None

    def apply(self, pixels: Pixels, *, threads: int = 1) -> Pixels:
        """Return the pixels, (n, h, w, 3) uint8, in the colours of the target.

        Raises:
            TypeError, ValueError: pixels of another type or shape, or strided.

        Determinism: bitwise, whatever the threads and instruction set; within 1 of its definition.
        """
        check("pixels", pixels, "uint8", ("n", "h", "w", 3))
        out = np.empty_like(pixels)
        if self.of_cones:
            to_cones = _LIGHT_TO_CONES.T
            numbers = [to_cones.ravel(), self.matrix, np.linalg.inv(to_cones).ravel()]
            thirty = np.concatenate(numbers).astype(np.float32)
            _core.map_cones(pixels, thirty, threads, out)
            return out
        none = {k: np.zeros((0, k), np.float32) for k in (3, 12)}
        _core.augment_images(
            pixels,
            np.zeros(0, np.uint8),
            np.zeros((0, 6)),
            np.repeat(self.matrix[None], len(pixels), axis=0),
            none[3],
            none[3],
            np.zeros(0, np.float32),
            np.zeros((0, 3), np.int32),
            threads,
            out,
        )
        return out


def measured_rows(n: int) -> NDArray[np.int64]:
    """Return which of n patches stains are measured on: evenly spaced ones."""
    return np.unique(np.linspace(0, n - 1, SAMPLED).astype(np.int64))


def _pixels_of(path: Path, *, of: str, icc: Icc | None) -> Pixels:
    """Return the pixels of a picture, or of some patches of a slide, (n, h, w, 3)."""

    def picture() -> Pixels:
        return shown(read_image(path)[None], profile_of_picture(path) if icc else b"")

    def shown(pixels: Pixels, profile: bytes) -> Pixels:
        return srgb_table(profile, of=of).apply(pixels) if icc and profile else pixels

    if path.suffix.lower() in IMAGE_SUFFIXES:
        return picture()
    try:
        slide = open_slide(path)
    except SlideError:  # a picture as TIFF tells no scale; what is neither says so
        return picture()
    with slide:
        mpp = max(slide.mpp, _TARGET_MPP)
        plan = plan_patches(slide, find_tissue(slide), mpp=mpp, patch_px=_TARGET_PX)
        if not len(plan):
            raise SlideError(f"{of} must show tissue, got none that fills a patch")
        rows = measured_rows(len(plan))
        part = replace(
            plan, coords_l0=plan.coords_l0[rows], tissue_fraction=plan.tissue_fraction[rows]
        )
        patches = np.concatenate([pixels for pixels, _ in iter_patches(slide, part)])
        return shown(patches, slide.icc_profile)


def stain_map(options: StainOptions, pixels: Pixels, *, of: str) -> StainMap:
    """Return the map from the colours of some pixels of a slide to those of the target.

    Args:
        options: of the map.
        pixels: (..., 3) uint8 of its tissue.
        of: what they are of, in messages.

    Raises:
        SlideError: too little tissue to measure, or stains that cannot be told apart.
    """
    found, wanted = measured(options.method, pixels, of=of), options.wanted
    assert wanted is not None
    if options.method == "macenko":
        scale = np.divide(wanted.most, found.most)
        matrix = np.linalg.pinv(_pair(found)) @ np.diag(scale) @ _pair(wanted)
        offset = np.zeros(3)
    else:
        # l, alpha, beta as rows are log2(cones) @ to_lab.
        to_lab = math.log(2) * _DECORRELATE.T
        scale = np.divide(wanted.second, found.second)
        matrix = to_lab @ np.diag(scale) @ np.linalg.inv(to_lab)
        offset = (np.array(wanted.first) - np.array(found.first) * scale) @ np.linalg.inv(to_lab)
    numbers = np.round(np.concatenate([matrix.ravel(), offset]), _DIGITS)
    return StainMap(
        matrix=numbers.astype(np.float32),
        of_cones=options.method == "reinhard",
        found=found,
        notes=tuple(_notes(options.method, found)),
    )


def measured(method: Method, pixels: Pixels, *, of: str) -> Stains:
    """Measure stains on those of some pixels that are no glass.

    Args:
        method: see `StainOptions`.
        pixels: (..., 3) uint8; of more than 200,000, so many are measured, evenly spaced.
        of: what they are of, in messages.

    Raises:
        SlideError: fewer than 1,000 of them are tissue, or stains that cannot be told apart.
    """
    rows = pixels.reshape(-1, 3)
    rows = rows[:: -(-len(rows) // _MOST_PIXELS) or 1]
    densities = 8 - np.log2(rows + 1.0)
    is_dense = (densities >= _BETA).all(axis=1)
    count = int(is_dense.sum())
    if count < _LEAST_DENSE:
        raise SlideError(
            f"stains of {of} must be measured on at least {_LEAST_DENSE} pixels of tissue, got {count} "
            f"of {len(rows)} that are dark enough in every channel: encode it without stain"
        )
    if method == "macenko":
        return _macenko(densities[is_dense], of=of)
    lab = np.log((rows[is_dense] + 1.0) @ _LIGHT_TO_CONES.T) @ _DECORRELATE.T
    deviations = lab.std(axis=0)
    if deviations.min() < 1e-3:
        raise SlideError(
            f"stains of {of} must vary, got one colour in {count} pixels of tissue: encode it "
            "without stain"
        )
    return Stains(first=tuple(lab.mean(axis=0).tolist()), second=tuple(deviations.tolist()))


def _macenko(densities: Floats, *, of: str) -> Stains:
    # Right singular vectors, from the 3 x 3 product: the densities themselves may be millions.
    _, vectors = np.linalg.eigh(densities.T @ densities)
    plane = vectors[:, :0:-1].T  # the two of the largest values, that first
    plane = plane * np.where(plane[:, :1] < 0, -1, 1)
    across, up = densities @ plane[0], densities @ plane[1]
    ends = np.percentile(np.arctan2(up, across), [_ALPHA, 100 - _ALPHA])
    pair = np.stack([np.cos(end) * plane[0] + np.sin(end) * plane[1] for end in ends])
    pair = pair[np.argsort(-pair[:, 0])]  # haematoxylin absorbs more red
    if math.degrees(float(np.ptp(ends))) < _LEAST_DEG:
        raise SlideError(
            f"stains of {of} must be two, got colours within {math.degrees(float(np.ptp(ends))):.1f} "
            f"degrees of each other, {_LEAST_DEG:g} are needed: encode it without stain, or use "
            "another method"
        )
    most = np.percentile(densities @ np.linalg.pinv(pair), 99, axis=0)
    if most.min() <= 0:
        raise SlideError(f"stains of {of} must be two, got none of one: encode it without stain")
    return Stains(
        first=tuple(pair[0].tolist()), second=tuple(pair[1].tolist()), most=tuple(most.tolist())
    )


def _notes(method: Method, found: Stains) -> Iterator[str]:
    """Say where the second stain is not eosin, which absorbs green most: DAB is brown, and absorbs blue."""
    if method != "macenko":
        return
    vector = found.second
    if vector[1] < max(vector):
        shown = ", ".join(f"{value:.2f}" for value in vector)
        colour = "blue" if vector[2] == max(vector) else "red"
        yield (
            f"the stain beside haematoxylin absorbs {colour} most ({shown} of red, green, blue), eosin "
            "absorbs green: this is another stain, and gets the target's colours all the same"
        )


def _pair(stains: Stains) -> Floats:
    return np.array([stains.first, stains.second])
