"""The pixels of chosen rows of feature files, from the slides or patch images they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from histofast._machine import available_cpus
from histofast._remote import Address, Place
from histofast.errors import FeatureError
from histofast.features import FeatureFile
from histofast.patches.fitting import fit_bag
from histofast.patches.images import stream_fitted
from histofast.patches.sources import Job, list_bags, list_jobs
from histofast.patches.stain import StainMap
from histofast.patches.stream import iter_patches
from histofast.patches.tables import PatchBag, PatchImages
from histofast.slides import Slide, srgb_table
from histofast.tiling import PatchPlan


def read_rows(
    slide: Slide, file: FeatureFile, rows: NDArray[np.int64], *, workers: Executor | None = None
) -> NDArray[np.uint8]:
    """Return (k, p, p, 3) uint8: what the encoder saw of an open slide for rows of its feature file.

    Args:
        slide: open, of any name.
        file: its feature file.
        rows: (k,).
        workers: threads that decode; one per available CPU when None.

    Raises:
        FeatureError: the file is of another slide, or `extract` has not written it.
        SlideError, TileError: pixels that cannot be read.
    """
    _check_ours(file)
    assert file.identity is not None
    if slide.identity != file.identity.get("slide"):
        raise _of_another(file, slide.path)
    return _rows_of(slide, file, rows, workers=workers)


def _rows_of(
    slide: Slide, file: FeatureFile, rows: NDArray[np.int64], *, workers: Executor | None
) -> NDArray[np.uint8]:
    assert file.identity is not None
    assert file.coords is not None
    return read_at(
        slide,
        file.coords[rows],
        attributes=file.attributes,
        made_of=file.identity,
        of=file.path,
        workers=workers,
    )


def read_at(
    slide: Slide,
    coords_l0: NDArray[np.int64],
    *,
    attributes: Mapping[str, Any],
    made_of: Mapping[str, Any],
    of: Place,
    workers: Executor | None = None,
) -> NDArray[np.uint8]:
    """Return (k, p, p, 3) uint8: patches of an open slide as a feature file's attributes and identity say.

    Args:
        slide: open.
        coords_l0: (k, 2) int64 top-left corners.
        attributes: patch_size, level, mpp, stain_map ...
        made_of: resample and icc, as far as they are not what they are by default.
        of: what says so, for messages.
        workers: threads that decode; one per available CPU when None.

    Raises:
        FeatureError: a map of stains that is none.
        SlideError, TileError: pixels that cannot be read.
    """
    level = int(attributes["level"])
    side = attributes.get("patch_size_level0_exact", attributes.get("patch_size_level0"))
    assert side is not None
    plan = PatchPlan(
        coords_l0=coords_l0,
        tissue_fraction=np.ones(len(coords_l0), np.float32),
        patch_px=int(attributes["patch_size"]),
        patch_l0=int(side),
        overlap_px=int(attributes["overlap"]),
        mpp=float(attributes["mpp"]),
        level=level,
        level_downsample=slide.levels[level].downsample,
        grid=(0, 0),
        identity={},
        resample=made_of.get("resample", "area"),
    )
    pixels = np.concatenate([pixels for pixels, _ in iter_patches(slide, plan, workers=workers)])
    profile = slide.icc_profile if "icc" in made_of else b""
    if profile:
        table = srgb_table(profile, of=str(slide.path))
        pixels = table.apply(pixels, threads=available_cpus())
    return _stained(pixels, attributes, of)


def _stained(
    pixels: NDArray[np.uint8], attributes: Mapping[str, Any], of: Place
) -> NDArray[np.uint8]:
    """Change the colours as those of a file's patches were."""
    text = attributes.get("stain_map")
    if text is None:
        return pixels
    try:
        return StainMap.of_text(str(text)).apply(pixels, threads=available_cpus())
    except ValueError as error:
        raise FeatureError(f"{of}: {error}: extract it again") from error


def _check_ours(file: FeatureFile) -> None:
    if file.identity is None:
        raise FeatureError(
            f"{file.path} must be of histofast extract, to find its patches again, got a file "
            "of other software"
        )


def _of_another(file: FeatureFile, path: Place) -> FeatureError:
    return FeatureError(f"{file.path} was made of another file than {path}: extract it again")


class PatchReader:
    """Reads the pixels behind rows of feature files that `extract` has written.

    A context manager: it holds threads that decode.
    """

    def __init__(
        self,
        slides: str | Place | Sequence[str | Place] | None = None,
        *,
        patches: str | Path | PatchImages | None = None,
        recursive: bool = False,
    ) -> None:
        """List what there is.

        Args:
            slides: as `extract` was given them.
            patches: instead, the patch images that it was given.
            recursive: look for slides in sub-folders too.

        Raises:
            FileNotFoundError: something that is not there.
            ValueError: neither or both of `slides` and `patches`; bad lists.
        """
        if (slides is None) == (patches is None):
            raise ValueError("either slides or patches must be given")
        if patches is not None:
            jobs = list_bags(patches)
        else:
            assert slides is not None
            given = [slides] if isinstance(slides, str | Path | Address) else list(slides)
            jobs = list_jobs(given, recursive=recursive)
        self._jobs = {job.name: job for job in jobs}
        self._identities: dict[str, str] = {}  # by name, of those that a file was made of
        self._pool = ThreadPoolExecutor(available_cpus(), thread_name_prefix="histofast-decode")

    @property
    def names(self) -> frozenset[str]:
        """Of the slides or bags."""
        return frozenset(self._jobs)

    def read(self, file: FeatureFile, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return (k, p, p, 3) uint8: what the encoder saw for these rows.

        Raises:
            FeatureError: no slide or bag of the file's name, another one than it was made of, or a
                file that `extract` has not written.
            SlideError, TileError: pixels that cannot be read.
        """
        _check_ours(file)
        assert file.identity is not None
        name = str(file.attributes.get("name", file.path.stem))
        job = self._jobs.get(name)
        if job is None:
            raise FeatureError(f"{file.path} was made of {name}, which is not among the slides")
        if job.bag is not None:
            return _stained(self._of_bag(job, file, rows), file.attributes, file.path)
        with job.open(mpp=file.identity.get("level0_mpp")) as slide:
            self._check_same(job, slide, file, file.identity.get("slide"))
            return _rows_of(slide, file, rows, workers=self._pool)

    def _of_bag(self, job: Job, file: FeatureFile, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert file.identity is not None
        bag = job.bag
        assert bag is not None
        self._check_same(job, bag, file, file.identity.get("patches"))
        odd = file.identity.get("odd_patches")
        # What becomes of odd images depends on all others; without any those asked for are enough.
        fitted = fit_bag(
            bag if odd else bag.take(rows),
            patch_px=int(file.attributes["patch_size"]),
            odd=odd or "error",
            allow_upsampling=True,
            resample=file.identity.get("resample", "area"),
        )
        batches = stream_fitted(fitted.take(rows) if odd else fitted, workers=self._pool)
        return np.concatenate([batch.pixels for batch in batches])

    def _check_same(
        self, job: Job, found: Slide | PatchBag, file: FeatureFile, wanted: object
    ) -> None:
        """Refuse another slide or bag than the file was made of."""
        # An identity is a hash of pixels, for a bag of all of them: once per name is enough.
        if wanted is not None and self._identities.get(job.name) == wanted:
            return
        identity = found.identity
        if identity != wanted:
            raise _of_another(file, job.path)
        self._identities[job.name] = identity

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
