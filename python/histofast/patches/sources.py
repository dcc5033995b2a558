"""What to encode: paths, folders, globs, CSV lists and tables of patch images, as jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from histofast._numbers import mpp_number
from histofast._remote import Address, Place, place_of, places_of
from histofast._tables import is_missing, is_table, read_table
from histofast.errors import SlideError
from histofast.jobs import Part
from histofast.patches.tables import PatchBag, PatchImages, pictures_in_bags
from histofast.slides import Slide, find_slides, is_zarr, open_slide, slide_name

if TYPE_CHECKING:
    from histofast.patches.coordinates import GivenCoords

MASK_SUFFIXES = (
    *(".png", ".geojson", ".geojson.gz", ".geojson.zip", ".json", ".tif", ".tiff", ".jpg", ".jpeg"),
)
"""What a folder of masks is searched for, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One slide, or one bag of ready-made patches, to encode.

    `coords` are own coordinates of its patches, or the file that has them. `patient` is "" where it is not known; `problem` is why there is no slide to open, "" where one is.
    """

    name: str
    path: Place
    mpp: float | None = None
    mask: Path | None = None
    coords: GivenCoords | Path | None = None
    bag: PatchBag | None = None
    patient: str = ""
    problem: str = ""

    def open(self, *, mpp: float | None) -> Slide:
        """Open the slide; `mpp` is level-0 um per pixel, the file's own when None.

        Raises:
            FileNotFoundError, SlideError: as `open_slide`, and for the problem that there is.
        """
        if self.problem:
            raise SlideError(self.problem)
        return open_slide(self.path, mpp_override=mpp)


def list_jobs(slides: str | Place | Sequence[str | Place], *, recursive: bool = False) -> list[Job]:
    """Turn paths, addresses, folders, globs and CSV lists into slides to encode, each name once.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a list without the right columns, a slide twice, two slides of one name.
    """
    given = places_of("slides", slides)
    jobs: list[Job] = []
    files: list[Place] = []
    for item in given:
        if isinstance(item, Address):
            files.append(item)
        elif is_table(item):
            jobs += _jobs_of_table(item)
        else:
            files.append(item)
    if files:
        jobs += [
            Job(name=_stem(slide.path), path=slide.path, problem=slide.problem)
            for slide in find_slides(files, recursive=recursive)
        ]
    if not jobs:
        raise ValueError("slides must name at least one slide, got none")
    jobs = _problems_apart([_named_well(job) for job in jobs])
    seen: dict[str, Job] = {}
    for job in jobs:
        other = seen.setdefault(job.name, job)
        if other is not job:
            if _is_one_place(other.path, job.path):
                raise ValueError(f"slides must be given once each, got {job.path} twice")
            raise ValueError(
                f"slides must have different names, both {other.path} and {job.path} are "
                f"'{job.name}': rename one, or encode them into different output folders"
            )
    return jobs


def _named_well(job: Job) -> Job:
    """Mark a slide whose name no feature file can have."""
    try:
        job.name.encode()
    except UnicodeEncodeError:
        name = ascii(str(job.path))
        return replace(job, name=name, problem=f"{name} must have a name in UTF-8: rename it")
    return job


def _problems_apart(jobs: list[Job]) -> list[Job]:
    """Call what is no slide by its path where another one has its name."""
    taken = {job.name for job in jobs if not job.problem}
    apart = []
    for job in jobs:
        if job.problem and job.name in taken:
            job = replace(job, name=str(job.path))
        taken.add(job.name)
        apart.append(job)
    return apart


def _is_one_place(a: Place, b: Place) -> bool:
    if isinstance(a, Address) or isinstance(b, Address):
        return a == b
    return a.resolve() == b.resolve()


def _stem(path: Place) -> str:
    if isinstance(path, Address) or is_zarr(path):
        return slide_name(path)
    return path.name if _is(path, Path.is_dir) else path.stem


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    """What is there; a name longer than the file system's names is not."""
    try:
        return kind(path)
    except OSError:
        return False


def _jobs_of_table(path: Path) -> list[Job]:
    table = read_table(path)
    wsi = table.needed("file", "slide")
    mpp, mask, patient = (table.column(role) for role in ("mpp", "mask", "patient"))
    jobs = []
    for line, row in table.lines():
        slide = place_of(wsi, table.told(line, wsi, row[wsi]))
        if isinstance(slide, Path):
            slide = table.place_of(row[wsi])
        value = None
        if mpp and not is_missing(row[mpp]):
            value = table.number(line, mpp, row[mpp])
            mpp_number(f"{path}, line {line}: {mpp}", value)
        jobs.append(
            Job(
                name=_stem(slide),
                path=slide,
                mpp=value,
                mask=table.place_of(row[mask]) if mask and not is_missing(row[mask]) else None,
                patient=row[patient] if patient and not is_missing(row[patient]) else "",
            )
        )
    return jobs


def list_bags(patches: str | Path | PatchImages) -> list[Job]:
    """Turn a table of patch images, or a folder of classes, into bags to encode; see `read_patch_table`."""
    pictures, bags = pictures_in_bags(PatchImages.of(patches))
    jobs = [Job(name=bag.name, path=pictures.path, bag=bag, patient=bag.patient) for bag in bags]
    return jobs + [
        Job(name=name, path=pictures.path / name, problem=f"{pictures.path}: {problem}")
        for name, problem in pictures.problems.items()
    ]


def select_shard(jobs: list[Job], shard: str | None) -> list[Job]:
    """Keep part i of n, "i/n"; which part a slide is in depends on its name alone."""
    part = Part.told(shard, name="shard")
    if part is None:
        return jobs

    def place(name: str) -> int:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")

    return [job for job in jobs if part.has(place(job.name))]


def with_masks(jobs: list[Job], mask: str | Path | None) -> list[Job]:
    """Give slides their masks, from one file or a folder; those of a list keep their own.

    In a folder a mask is called after its slide, `<slide>.png` or any of `MASK_SUFFIXES`, else
    `<slide>_mask*`, in any case.
    """
    if mask is None:
        return jobs
    mask = Path(mask)
    if not _is(mask, Path.exists):
        raise FileNotFoundError(f"no such mask: {mask}")
    if not mask.is_dir():
        if len(jobs) != 1:
            raise ValueError(
                f"mask must be a folder of masks named after the slides when there are "
                f"{len(jobs)} slides, got {mask}"
            )
        return [replace(jobs[0], mask=mask)]
    files: dict[str, list[Path]] = {}  # by their names without suffix, in lower case
    for path in sorted(mask.iterdir()):
        if suffix := _mask_suffix(path):
            files.setdefault(path.name.lower().removesuffix(suffix), []).append(path)
    return [job if job.mask or job.problem else _with_mask_among(files, mask, job) for job in jobs]


def _with_mask_among(files: Mapping[str, Sequence[Path]], folder: Path, job: Job) -> Job:
    """Give a slide its mask of a folder; one that has none, or several, has a problem."""
    stem = job.name.lower()
    found = [path for path in files.get(stem, ()) if not _is_same(path, job.path)]
    if found:  # as `histofast tissue` writes contours beside pictures, the first suffix is taken
        return replace(
            job, mask=min(found, key=lambda path: MASK_SUFFIXES.index(_mask_suffix(path)))
        )
    begins = f"{stem}_mask"
    found = [path for name in files if name.startswith(begins) for path in files[name]]
    if len(found) == 1:
        return replace(job, mask=found[0])
    if found:
        names = ", ".join(path.name for path in found[:3])
        problem = f"mask of {job.name} must be one file of {folder}, got {len(found)}: {names}"
    else:
        problem = (
            f"no such mask: {folder} has none called {job.name} or {job.name}_mask, with one of "
            f"{' '.join(MASK_SUFFIXES)}"
        )
    return replace(job, problem=problem)


def _mask_suffix(path: Path) -> str:
    """Return the suffix that a mask in a folder may have, "" where it has none of them."""
    return next((suffix for suffix in MASK_SUFFIXES if path.name.lower().endswith(suffix)), "")


def _is_same(a: Path, b: Place) -> bool:
    """Whether two paths are one file: slides may lie among their masks."""
    try:
        return isinstance(b, Path) and a.samefile(b)
    except OSError:
        return False
