"""Which slides files, folders and patterns stand for; what is in the way is listed, not left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from histofast._remote import Address, Place, places_of
from histofast._words import one_line
from histofast.errors import SlideError
from histofast.slides.metadata import dicom_series
from histofast.slides.remote_listing import find_remote
from histofast.slides.zarr_store import SUFFIX, has_other_things, is_zarr, slide_name

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".btf", ".tf8", ".qptiff", ".ndpi", ".mrxs", ".scn", ".bif"}
    | {".vms", ".vmu", ".svslide", ".dcm", ".zarr", ".png", ".jpg", ".jpeg"}
)
"""What a folder scan takes for a slide: lower-case suffixes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedSlide:
    """A slide as it was found, or a place where slides may be and cannot be looked for.

    `problem` says why there is nothing to open; it is empty where there is.
    """

    path: Place
    problem: str = ""


def find_slides(paths: Iterable[str | Place], *, recursive: bool = False) -> list[ListedSlide]:
    """Expand files, folders and glob patterns into a list of slides.

    A file stands for itself, whatever its suffix. A folder or pattern stands for all in it that has
    one of `SLIDE_SUFFIXES`, hidden names excepted. Of the instances of a DICOM series in one folder
    the first by name stands for all. A folder of OME-Zarr is one slide; Zarr folders that say they hold
    other things are passed over, and none is looked into. Folders that are links are looked into, each once.
    The same holds for addresses of buckets (s3://, gs://, az://); one of a web server stands for itself.

    Args:
        paths: what to expand.
        recursive: look into the folders of folders too.

    Returns:
        The slides sorted by name, each once. With a problem are links to nothing, second names of a
        slide, and folders that cannot be read.

    Raises:
        FileNotFoundError: a path that does not exist, a pattern that nothing matches.
        SlideError: a folder or pattern without any slide.
    """
    found: dict[str, Path] = {}
    remote: dict[Address, ListedSlide] = {}
    search = _Search()
    for path in places_of("paths", paths):
        if isinstance(path, Address):
            slides_there = find_remote(path, recursive=recursive, suffixes=SLIDE_SUFFIXES)
            remote |= {slide: ListedSlide(path=slide) for slide in slides_there}
            continue
        known = len(search.problems)
        if is_zarr(path):
            slides = [path]
        elif path.is_dir():
            inside = search.within(path, recursive=recursive)
            slides = _slides_among(entry.path for entry in inside)
        elif path.exists() or path.is_symlink():
            slides = [path]
        else:
            matches = list(search.matches(Path(path.anchor or "."), _parts(path)))
            if not matches and len(search.problems) == known:
                raise FileNotFoundError(f"no such slide: {path}")
            slides = _slides_among(matches)
        if not slides and len(search.problems) == known:
            raise SlideError(
                f"no slide in {path}: looked for {' '.join(sorted(SLIDE_SUFFIXES))}"
                + ("" if recursive or not path.is_dir() else ", not in its subfolders")
            )
        for slide in slides:
            found.setdefault(os.path.abspath(slide), slide)  # noqa: PTH100  # links are judged below
    listed = [*_judged(found.values()), *remote.values(), *search.problems.values()]
    return sorted(listed, key=lambda slide: (slide.path.name, str(slide.path)))


def _parts(pattern: Path) -> tuple[str, ...]:
    return pattern.relative_to(pattern.anchor).parts


class _Entry(NamedTuple):
    """What is in a folder, as far as the folder tells."""

    path: Path
    is_folder: bool  # or a link to one; not one of Zarr's, which is one slide
    is_link: bool


class _Search:
    """Looks into folders, and keeps those that it could not look into."""

    def __init__(self) -> None:
        self.problems: dict[Path, ListedSlide] = {}

    def entries(self, folder: Path) -> list[_Entry]:
        """What is in a folder, sorted; of thousands of files none is looked at."""
        try:
            with os.scandir(folder) as entries:
                return sorted(
                    _Entry(folder / entry.name, _is_folder(entry), entry.is_symlink())
                    for entry in entries
                )
        except OSError as error:
            self._note(folder, error)
            return []

    def _note(self, folder: Path, error: OSError) -> None:
        reason = error.strerror or one_line(error)
        self.problems[folder] = ListedSlide(
            path=folder, problem=f"{folder} cannot be looked into for slides: {reason}"
        )

    def within(self, folder: Path, *, recursive: bool) -> Iterator[_Entry]:
        """Yield what is in a folder; if recursive, below it too."""
        seen: set[tuple[int, int]] = set()
        # Links last: a slide is known by its place in the tree rather than by a way around.
        left, links = [folder], list[Path]()
        while left or links:
            here = left.pop() if left else links.pop(0)
            try:
                status = here.stat()
            except OSError as error:
                self._note(here, error)
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = self.entries(here)
            yield from entries
            if recursive:
                for entry in entries:
                    if entry.is_folder:
                        (links if entry.is_link else left).append(entry.path)

    def matches(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """Yield what a pattern, given by its parts, matches below a folder."""
        part, rest = parts[0], parts[1:]
        if part == "**":
            inside = self.within(folder, recursive=True)
            below = [folder, *(entry.path for entry in inside if entry.is_folder)]
            for inner in below if rest else ():
                yield from self.matches(inner, rest)
            return
        if any(sign in part for sign in "*?["):
            names = (entry.path for entry in self.entries(folder))
            found = [path for path in names if fnmatchcase(path.name, part)]
        else:
            found = [path for path in [folder / part] if path.exists() or path.is_symlink()]
        for path in found:
            if not rest:
                yield path
            elif _is_folder(path):
                yield from self.matches(path, rest)


def _is_folder(path: Path | os.DirEntry[str]) -> bool:
    try:
        return path.is_dir() and not path.name.lower().endswith(SUFFIX)
    except OSError:  # a slide by its name is told of when it is opened
        return False


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _slides_among(paths: Iterable[Path]) -> list[Path]:
    """Those that are slides by their names; what is no file is refused by who opens it."""
    slides: list[Path] = []
    series_seen: set[tuple[Path, bytes]] = set()
    for path in sorted(paths):
        suffix = path.suffix.lower()
        if suffix not in SLIDE_SUFFIXES or path.name.startswith("."):
            continue
        if suffix == SUFFIX and has_other_things(path):
            continue
        if suffix == ".dcm" and (series := _series(path)):
            if (path.parent, series) in series_seen:
                continue
            series_seen.add((path.parent, series))
        slides.append(path)
    return slides


def _series(path: Path) -> bytes:
    try:
        return dicom_series(path) if _is_file(path) else b""
    except OSError:
        return b""


def _judged(paths: Iterable[Path]) -> Iterator[ListedSlide]:
    """Say of each path whether there is a slide of its own behind it."""
    known: dict[str, Path] = {}
    # A file itself comes before links to it.
    for path in sorted(paths, key=lambda path: path.is_symlink()):
        target = os.path.realpath(path)
        first = known.setdefault(target, path)
        if path.is_symlink() and (problem := _problem_of_link(path)):
            yield ListedSlide(path=path, problem=problem)
        elif first is path:
            yield ListedSlide(path=path)
        elif slide_name(first) != slide_name(path):  # else its features are there under this name
            yield ListedSlide(
                path=path,
                problem=f"{path} is a second name of {first}: give one of them, or make it a copy",
            )


def _problem_of_link(path: Path) -> str:
    try:
        path.stat()
    except OSError as error:
        target = os.readlink(path)  # noqa: PTH115  # as it was written
        return f"{path} is a link to {target}, which cannot be reached: {error.strerror}"
    return ""
