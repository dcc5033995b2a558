"""A few patches of many slides: what encoders are calibrated, compared and timed on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._machine import available_cpus
from histofast.patches.fitting import fit_bag
from histofast.patches.images import stream_fitted
from histofast.patches.sources import Job, list_bags, list_jobs
from histofast.patches.stream import iter_patches
from histofast.patches.survey import TissueOptions, find_tissue_with
from histofast.patches.tables import PatchBag, PatchImages
from histofast.tiling import plan_patches
from histofast.tissue import MaskFile

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_SLIDES = 64  # to open for one sample


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchSample:
    """Patches drawn at random, and where each comes from.

    `pixels` is (n, p, p, 3) uint8, `sources` has n names of slides or bags, `labels` the n labels
    that a table of patches gives them ("" where it gives none), `patients` the n patients ("" where
    not known).
    """

    pixels: NDArray[np.uint8]
    sources: tuple[str, ...]
    labels: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def groups(self) -> tuple[str, ...]:
        """(n) patient of each patch; the slide or bag where the patient is not known."""
        patients = self.patients or ("",) * len(self)
        return tuple(p or s for p, s in zip(patients, self.sources, strict=True))

    def split(self, n: int, *, seed: int = 0) -> tuple[PatchSample, PatchSample]:
        """Return a part of about n patches and the rest.

        From eight groups on the two share none: patches of one patient resemble each other.
        """
        first, rest = split_rows(self.groups, n, seed=seed)
        return self._part(first), self._part(rest)

    def _part(self, rows: NDArray[np.int64]) -> PatchSample:
        return PatchSample(
            pixels=np.ascontiguousarray(self.pixels[rows]),
            sources=tuple(self.sources[i] for i in rows),
            labels=tuple(self.labels[i] for i in rows) if self.labels else (),
            patients=tuple(self.patients[i] for i in rows) if self.patients else (),
        )


def split_rows(
    groups: Sequence[str], n: int, *, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return about n rows and the rest, each in order; from eight groups on the two share none.

    Args:
        groups: of each row.
        n: rows wanted in the first part.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(groups))
    if len(names) < 8:
        order = rng.permutation(len(groups))
        return np.sort(order[:n]), np.sort(order[n:])
    taken: set[str] = set()
    count = 0
    for name in rng.permutation(names):
        if count >= n:
            break
        taken.add(str(name))
        count += groups.count(str(name))
    ours = np.array([group in taken for group in groups])
    return np.flatnonzero(ours), np.flatnonzero(~ours)


def sample_patches(
    slides: str | Path | Sequence[str | Path] | None = None,
    *,
    patches: str | Path | PatchImages | None = None,
    n: int,
    patch_px: int,
    mpp: float,
    mpp_override: float | None = None,
    tissue: TissueOptions | None = None,
    seed: int = 0,
) -> PatchSample:
    """Draw patches with tissue at random, evenly from at most 64 slides or from all bags.

    From a slide that has too few for its share they are drawn with half their side in common.

    Args:
        slides: slides, folders or CSV lists, as `extract` takes them. A folder of nothing but PNG
            and JPEG files is taken for ready-made patches.
        patches: instead, a CSV table of patch images; they are resized to `patch_px`.
        n: patches wanted; fewer come back where there are no more.
        patch_px: side of the patches.
        mpp: um per pixel, of patches from slides.
        mpp_override: level-0 um per pixel of the slides.
        tissue: how tissue of slides is found; where a list names masks they are taken.
        seed: of everything random.

    Raises:
        FileNotFoundError: something that is not there.
        SlideError, TileError: a slide or patch that cannot be read.
        ValueError: neither or both of `slides` and `patches`; bad lists; no patch at all.

    Determinism: bitwise.
    """
    if (slides is None) == (patches is None):
        raise ValueError("either slides or patches must be given")
    rng = np.random.default_rng(seed)
    jobs = _jobs(slides, patches)
    most = n if jobs[0].bag is not None else MOST_SLIDES  # opening a bag costs nothing
    jobs = [jobs[i] for i in sorted(rng.permutation(len(jobs))[:most])]
    found: list[tuple[NDArray[np.uint8], Job, str]] = []
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="histofast-decode") as pool:
        for i, job in enumerate(jobs):
            share = -(-(n - len(found)) // (len(jobs) - i))  # what others lack comes from the rest
            if job.bag is not None:
                labelled = _of_bag(job.bag, share, patch_px, rng, pool)
            else:
                found_with = tissue or TissueOptions()
                drawn = _of_slide(job, share, patch_px, mpp, mpp_override, found_with, rng, pool)
                labelled = [(patch, "") for patch in drawn]
            found += [(patch, job, label) for patch, label in labelled]
    if not found:
        raise ValueError(f"no patch with tissue in {len(jobs)} slides")
    return PatchSample(
        pixels=np.stack([patch for patch, _, _ in found]),
        sources=tuple(job.name for _, job, _ in found),
        labels=tuple(label for _, _, label in found),
        patients=tuple(job.patient for _, job, _ in found),
    )


def _jobs(
    slides: str | Path | Sequence[str | Path] | None, patches: str | Path | PatchImages | None
) -> list[Job]:
    if patches is not None:
        return list_bags(patches)
    assert slides is not None
    given = [slides] if isinstance(slides, str | Path) else list(slides)
    if len(given) == 1 and (folder := Path(given[0])).is_dir():
        files = sorted(file for file in folder.iterdir() if file.is_file())
        if files and all(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
            return [
                Job(
                    name=file.name,
                    path=file,
                    bag=PatchBag(
                        name=file.name, files=(file,), coords_l0=None, labels=("",), split=""
                    ),
                )
                for file in files
            ]
    # A sample is of what can be looked at; of nothing else the first one says why not.
    listed = list_jobs(given)
    return [job for job in listed if not job.problem] or listed


def _of_bag(
    bag: PatchBag, n: int, patch_px: int, rng: np.random.Generator, pool: ThreadPoolExecutor
) -> list[tuple[NDArray[np.uint8], str]]:
    fitted = None
    if bag.odd_patches != "error":  # which are odd depends on all of them
        fitted = fit_bag(bag, patch_px=patch_px, allow_upsampling=True)
        bag = fitted.bag
    rows = np.sort(rng.permutation(len(bag))[:n])
    if not len(rows):
        return []
    if fitted is None:
        drawn = fit_bag(bag.take(rows), patch_px=patch_px, allow_upsampling=True)
    else:
        drawn = fitted.take(rows)
    batches = stream_fitted(drawn, workers=pool)
    pixels = [patch for batch in batches for patch in batch.pixels]
    return list(zip(pixels, (bag.labels[i] for i in rows), strict=True))


def _of_slide(
    job: Job,
    n: int,
    patch_px: int,
    mpp: float,
    mpp_override: float | None,
    options: TissueOptions,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor,
) -> list[NDArray[np.uint8]]:
    with job.open(mpp=job.mpp or mpp_override) as slide:
        mask = MaskFile(job.mask) if job.mask else None
        tissue = find_tissue_with(slide, options, mask, pool)
        for overlap_px in (0, patch_px // 2):
            plan = plan_patches(
                slide, tissue, mpp=mpp, patch_px=patch_px, overlap_px=overlap_px, min_tissue=0.5
            )
            if len(plan) >= n:
                break
        rows = np.sort(rng.permutation(len(plan))[:n])
        some = replace(
            plan, coords_l0=plan.coords_l0[rows], tissue_fraction=plan.tissue_fraction[rows]
        )
        return [patch for pixels, _ in iter_patches(slide, some, workers=pool) for patch in pixels]
