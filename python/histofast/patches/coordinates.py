"""Own coordinates of patches, as users have them, in; those of each slide out.

A table (slide, x, y[, size]) of all slides; or a file for each: HDF5 of TRIDENT, CLAM or ours, with
the dataset `coords`, or GeoJSON with points. Those of tables and HDF5 are top-left corners in level-0
pixels. Points are the centres of patches, in the frame that QuPath counts in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._tables import Table, is_missing, is_table, read_table
from histofast._words import did_you_mean, listed
from histofast.features import StoredCoords, read_coords
from histofast.patches.sources import Job
from histofast.slides import Slide
from histofast.tiling import MAG_TOLERANCE, PatchPlan, Resample, plan_at
from histofast.tissue import is_geojson, read_points_file

COORDS_SUFFIXES = (
    *(".h5", "_patches.h5", ".hdf5", ".geojson", ".geojson.gz", ".geojson.zip", ".json"),
)
"""What a folder is searched for, behind the name of a slide."""
_HDF5 = (".h5", ".hdf5")
_SIDE = "size"  # the column


@dataclass(frozen=True, kw_only=True)
class GivenCoords:
    """Where the patches of one slide shall lie.

    Attributes:
        path: of the file that says it.
        points_l0: (n, 2) float64 (x, y), level-0 pixels.
        are_centres: they are centres of patches in QuPath's frame, else top-left corners.
        sides_l0: (n,) float64 sides of patches in level-0 pixels, or None where nobody has told.
        stored: what else an HDF5 file says.
        notes: what was passed over.
    """

    path: Path
    points_l0: NDArray[np.float64]
    are_centres: bool = False
    sides_l0: NDArray[np.float64] | None = None
    stored: StoredCoords | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Changes when a coordinate does, whatever file it came in."""
        digest = hashlib.sha256(self.points_l0.astype("<f8").tobytes()).hexdigest()
        return {"sha256": digest, "at": "centre" if self.are_centres else "corner"}

    def plan(
        self,
        slide: Slide,
        *,
        mpp: float,
        patch_px: int,
        edge: Literal["drop", "shift"],
        allow_upsampling: bool,
        resample: Resample,
    ) -> PatchPlan:
        """Lay the patches, see `plan_at`.

        Raises:
            ValueError: as `plan_at`; coordinates of another slide, or for patches of another size.
        """
        origin = slide.origin_l0 if self.are_centres else (0, 0)
        plan = plan_at(
            slide,
            self.points_l0 + np.array(origin, np.float64),
            are_centres=self.are_centres,
            mpp=mpp,
            patch_px=patch_px,
            edge=edge,
            allow_upsampling=allow_upsampling,
            resample=resample,
        )
        self._refuse_others(slide, plan)
        return plan

    def _refuse_others(self, slide: Slide, plan: PatchPlan) -> None:
        base, stored = slide.levels[0], self.stored
        if stored is not None and stored.size_l0 not in (None, (base.width, base.height)):
            assert stored.size_l0 is not None
            raise ValueError(
                f"coords of {self.path} must be of this slide, of {base.width} x {base.height} pixels, got "
                f"those of one of {stored.size_l0[0]} x {stored.size_l0[1]}"
            )
        for side in self._sides_on(slide):
            if abs(side - plan.patch_l0) > max(1.0, MAG_TOLERANCE * side):
                raise ValueError(
                    f"coords of {self.path} are of squares of {side:g} level-0 pixels, the patches asked for "
                    f"are of {plan.patch_l0}: ask for patch_px={max(1, round(side * slide.mpp / plan.mpp))}, "
                    f"or mpp={side * slide.mpp / plan.patch_px:.4g}"
                )

    def _sides_on(self, slide: Slide) -> Sequence[float]:
        """Sides of the patches that the file was made for, the least and the greatest."""
        if self.sides_l0 is not None and len(self.sides_l0):
            return [float(self.sides_l0.min()), float(self.sides_l0.max())]
        if self.stored is None:
            return []
        if self.stored.patch_l0 is not None:
            return [self.stored.patch_l0]
        side, level = self.stored.patch_px, self.stored.level
        if side is None or level is None or not 0 <= level < len(slide.levels):
            return []
        return [side * slide.levels[level].downsample]


def read_given(given: GivenCoords | Path) -> GivenCoords:
    """Return coordinates, from their file where they have not been read yet.

    Raises:
        FileNotFoundError: no such file.
        FeatureError, SlideError: it has no coordinates, or cannot be read.
    """
    if isinstance(given, GivenCoords):
        return given
    if is_geojson(given):
        points, notes = read_points_file(given)
        return GivenCoords(path=given, points_l0=points, are_centres=True, notes=notes)
    stored = read_coords(given)
    return GivenCoords(path=given, points_l0=stored.coords.astype(np.float64), stored=stored)


def with_coords(jobs: list[Job], coords: str | Path | None) -> list[Job]:
    """Give slides their coordinates, from a table, a file or a folder of files.

    In a folder a file is called after its slide, `<slide>.h5` or any of `COORDS_SUFFIXES`. A table has
    columns slide (its name, or that of its file), x, y and maybe size, the side at level 0. A slide
    that has none has a problem.

    Raises:
        FileNotFoundError: there is nothing there.
        ValueError: one file for several slides, a table without the columns, that names none of the
            slides, or with a cell that is no number.
    """
    if coords is None:
        return jobs
    path = path_of("coords", coords)
    if not path.exists():
        raise FileNotFoundError(f"no such coords: {path}")
    if path.is_dir():
        return [job if job.problem else _with_file_of(path, job) for job in jobs]
    if is_table(path):
        return _of_table(path, jobs)
    if not is_geojson(path) and path.suffix.lower() not in _HDF5:
        raise ValueError(
            f"coords must be a CSV, .h5 or GeoJSON file, or a folder of such, got {path}"
        )
    if len(jobs) != 1:
        raise ValueError(
            f"coords must be a table, or a folder of files named after the slides, when there are "
            f"{len(jobs)} slides, got {path}"
        )
    return [replace(jobs[0], coords=path)]


def _with_file_of(folder: Path, job: Job) -> Job:
    found = [folder / f"{job.name}{suffix}" for suffix in COORDS_SUFFIXES]
    found = [path for path in found if path.is_file()]
    if len(found) == 1:
        return replace(job, coords=found[0])
    if found:
        names = ", ".join(path.name for path in found)
        problem = f"coords of {job.name} must be one file of {folder}, got {names}"
    else:
        problem = (
            f"no such coords: {folder} has no file called {job.name} with one of "
            f"{' '.join(COORDS_SUFFIXES)}"
        )
    return replace(job, problem=problem)


# --- Tables ------------------------------------------------------------------------------------


def _of_table(path: Path, jobs: list[Job]) -> list[Job]:
    table = read_table(path, named=[_SIDE])
    names = _names_of(table, jobs)
    x, y = table.needed("x"), table.needed("y")
    side = table.named(_SIDE)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for (line, row), name in zip(table.lines(), names, strict=True):
        cells = [table.number(line, column, row[column]) for column in (x, y)]
        if side is not None:
            cells.append(_side(table, line, row[side]))
        rows.setdefault(name, []).append(tuple(cells))
    if not any(job.name in rows for job in jobs):
        told, wanted = listed(sorted(rows), most=4), listed([job.name for job in jobs], most=4)
        raise ValueError(f"coords of {path} must name the slides, {wanted}, got {told}")
    return [job if job.problem else _with_rows(path, job, rows) for job in jobs]


def _names_of(table: Table, jobs: Sequence[Job]) -> list[str]:
    """Return whose each row is: the name of a slide, or what stands in the cell."""
    column = table.column("slide") or table.column("file")
    if column is None:
        if len(jobs) == 1:
            return [jobs[0].name] * len(table.rows)
        table.needed("slide")  # raises
    assert column is not None
    known = {job.path.name: job.name for job in jobs} | {job.name: job.name for job in jobs}
    return [_known_as(table.told(line, column, row[column]), known) for line, row in table.lines()]


def _known_as(cell: str, known: Mapping[str, str]) -> str:
    last = PurePosixPath(cell.replace("\\", "/")).name
    return known.get(cell) or known.get(last) or cell


def _side(table: Table, line: int, cell: str) -> float:
    if is_missing(cell):
        return float("nan")
    side = table.number(line, _SIDE, cell)
    if not side > 0:
        raise ValueError(f"{table.path}, line {line}: {_SIDE} must be above 0, got {cell}")
    return side


def _with_rows(path: Path, job: Job, rows: Mapping[str, Sequence[tuple[float, ...]]]) -> Job:
    found = rows.get(job.name)
    if found is None:
        return replace(job, problem=f"coords of {path} must name {job.name}{_near(job.name, rows)}")
    numbers = np.array(found, np.float64)
    sides = numbers[:, 2][~np.isnan(numbers[:, 2])] if numbers.shape[1] == 3 else None
    return replace(
        job, coords=GivenCoords(path=path, points_l0=numbers[:, :2].copy(), sides_l0=sides)
    )


def _near(name: str, known: Iterable[str]) -> str:
    return did_you_mean(name, known) or ", got none"
