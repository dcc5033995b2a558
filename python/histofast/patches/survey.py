"""Tissue of a slide as a run finds it: options, ready-made masks, and what could not be looked at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._numbers import real_number, whole_number
from histofast.encoders import TissueSpec, opened_network, read_tissue_spec
from histofast.errors import SlideError
from histofast.slides import Level, Slide
from histofast.tissue import (
    INK,
    Ink,
    MaskFile,
    Tissue,
    find_tissue,
    mask_by,
    network_identity,
)
from histofast.tissue import REVISION as TISSUE_REVISION

_MUCH = 0.9  # of the tissue that is found without a network: where it removes more, that is said
_OF_NETWORKS = ("network", "spec")

# What fails one slide and leaves the run going on: all that is no interruption, our mistakes too.
SLIDE_FAILURES = Exception


@dataclass(frozen=True, kw_only=True, slots=True)
class TissueOptions:
    """How tissue is found: the arguments of `find_tissue`, which explains them, or by a network.

    Attributes:
        mpp, threshold, min_area_um2, max_hole_um2, ink: see `find_tissue`.
        network: file of `graphs.wrap_tissue`: what it marks is tissue, nothing is added or removed; of
            the others the defaults then find what it is compared with.
        spec: what that file says of itself.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, or one beside a network.
        FileNotFoundError, ModelError: no network of tissue.
    """

    mpp: float = 8.0
    threshold: int | None = None
    min_area_um2: float = 20_000.0
    max_hole_um2: float = 100_000.0
    ink: Ink = "remove"
    network: Path | None = None
    spec: TissueSpec | None = None

    def __post_init__(self) -> None:
        for name in ("mpp", "min_area_um2", "max_hole_um2"):
            object.__setattr__(self, name, real_number(name, getattr(self, name)))
        threshold = whole_number("threshold", self.threshold, at_least=0, at_most=255)
        object.__setattr__(self, "threshold", threshold)
        if self.ink not in INK:
            raise ValueError(f"ink must be one of {', '.join(INK)}, got {self.ink!r}")
        if self.network is not None:
            self._take_network()

    def _take_network(self) -> None:
        for name, default in (("threshold", None), ("ink", "remove")):
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} must not be given where a network finds tissue, got {getattr(self, name)!r}"
                )
        network = path_of("tissue", self.network)
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "spec", read_tissue_spec(network))

    @classmethod
    def of(cls, tissue: Self | str | Path | None) -> Self:
        """Take options, or the file of a network."""
        if tissue is None:
            return cls()
        if isinstance(tissue, str | os.PathLike):
            return cls(network=path_of("tissue", tissue))
        if not isinstance(tissue, cls):
            raise TypeError(f"tissue must be TissueOptions or a network's file, got {tissue!r}")
        return tissue

    @classmethod
    def of_identity(cls, told: Mapping[str, Any]) -> Self:
        """Return the options that gave an identity.

        Raises:
            ValueError: a network did, whose file is not known.
        """
        if "network" in told:
            raise ValueError(
                f"tissue was found by the network {told['network']} (sha256 {str(told['sha256'])[:12]}), "
                "which is not at hand: encode the slide with it, and give its features, features=FILE"
            )
        values = {key: value for key, value in told.items() if key != "revision"}
        return cls(mpp=values.pop("overview_mpp"), **values)

    @property
    def described(self) -> dict[str, Any]:
        """All of it, as the report of a run keeps it."""
        if self.spec is not None:
            return {**self.identity, "file": str(self.spec.path), "tissue": self.spec.tissue}
        return {key: value for key, value in asdict(self).items() if key not in _OF_NETWORKS}

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the mask of a given slide."""
        if self.spec is not None:
            return network_identity(self.spec)
        values = self.described
        return {"revision": TISSUE_REVISION, "overview_mpp": values.pop("mpp"), **values}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundTissue:
    """The tissue of a slide, and what of the slide could not be looked at.

    `unreadable_l0` is (k, 4) int64 boxes (x, y, width, height), `reason` why the first of them is.
    """

    tissue: Tissue
    unreadable_l0: NDArray[np.int64]
    reason: str


class _Surveyed:
    """A slide whose overview is decoded by threads that are there already; keeps what it lacked."""

    def __init__(self, slide: Slide, pool: ThreadPoolExecutor) -> None:
        self.slide, self.pool = slide, pool
        self.unreadable_l0, self.reason = np.empty((0, 4), np.int64), ""

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.slide.levels

    @property
    def mpp(self) -> float:
        return self.slide.mpp

    def overview(self, *, mpp: float = 8.0) -> NDArray[np.uint8]:
        survey = self.slide.survey(mpp=mpp, workers=self.pool)
        self.unreadable_l0, self.reason = survey.unreadable_l0, survey.reason
        return survey.picture


def find_tissue_with(
    slide: Slide, options: TissueOptions, mask: MaskFile | None, pool: ThreadPoolExecutor
) -> Tissue:
    """`find_tissue` as the pipeline calls it; a ready mask overrules the options."""
    return survey_tissue(slide, options, mask, pool).tissue


def survey_tissue(
    slide: Slide,
    options: TissueOptions,
    mask: MaskFile | None,
    pool: ThreadPoolExecutor,
    *,
    device: str = "auto",
) -> FoundTissue:
    """`find_tissue_with`, and what could not be looked at; `device` is where a network runs."""
    found = _survey(slide, options, mask, pool)
    if options.spec is None or mask is not None:
        return found
    by = mask_by(slide, opened_network(options.spec, device), workers=pool)
    return FoundTissue(
        tissue=replace(by.tissue, notes=_removed(found.tissue, by.tissue, options.spec.name)),
        unreadable_l0=np.unique(np.concatenate([found.unreadable_l0, by.unreadable_l0]), axis=0),
        reason=by.reason or found.reason,
    )


def _removed(seen: Tissue, kept: Tissue, network: str) -> tuple[str, ...]:
    """Say how much of what is found without a network it takes for none, where that is most of it."""
    rows, columns = np.nonzero(seen.mask)
    if not len(rows):
        return ()
    (h, w), (kept_h, kept_w) = seen.mask.shape, kept.mask.shape
    under = kept.mask[(2 * rows + 1) * kept_h // (2 * h), (2 * columns + 1) * kept_w // (2 * w)]
    removed = 1 - np.count_nonzero(under) / len(under)
    if removed <= _MUCH:
        return ()
    note = (
        f"{network} takes {100 * removed:.0f} % of what is tissue without it for none: look at both with "
        "`histofast tissue`"
    )
    return (note,)


def _survey(
    slide: Slide, options: TissueOptions, mask: MaskFile | None, pool: ThreadPoolExecutor
) -> FoundTissue:
    surveyed = _Surveyed(slide, pool)
    try:
        tissue = find_tissue(
            surveyed,
            mpp=options.mpp,
            threshold=None if mask else options.threshold,
            min_area_um2=options.min_area_um2,
            max_hole_um2=options.max_hole_um2,
            ink=options.ink,
            mask=mask.read(slide.overview_size(mpp=options.mpp)) if mask else None,
            origin_l0=slide.origin_l0,
        )
    except ValueError as error:
        if mask is None:
            raise
        raise SlideError(f"mask {mask.path}: {error}") from error
    return FoundTissue(tissue=tissue, unreadable_l0=surveyed.unreadable_l0, reason=surveyed.reason)
