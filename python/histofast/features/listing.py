"""A folder in, the feature files in it and below out; what other tools keep beside them is told apart."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from histofast._files import paths_of, regular_file
from histofast._notes import noted
from histofast._words import counted, one_line
from histofast.errors import FeatureError
from histofast.features.opening import holds_features
from histofast.features.plain import OTHER_SUFFIXES, PLAIN_SUFFIXES, REMEDY, holds_rows

OnError = Callable[[Path, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFeatures:
    """What `find_features` found.

    Attributes:
        files: of features of patches, sorted.
        others: files that hold coordinates only, or features of whole slides, sorted.
        beside: plain arrays (`.pt`, `.npy`) beside files of a better kind, none of which has their name,
            sorted.
    """

    files: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    beside: tuple[Path, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was passed over."""
        notes = []
        if self.others:
            notes.append(f"passed over files without features of patches: {_counted(self.others)}")
        if self.beside:
            read = ", ".join(sorted({path.suffix for path in self.files}))
            notes.append(
                f"passed over arrays, for {read} files were read: {_counted(self.beside)}: name "
                "their own folder to read them"
            )
        return tuple(notes)


@noted
def find_features(folder: Path | str, *, on_error: OnError | None = None) -> FoundFeatures:
    """Find the feature files in a folder and below it, whoever wrote them.

    These are the `.h5` files that hold features of patches; `.pt` files (CLAM's) where there are none,
    and `.npy` files where there are none of both. Arrays that are left out so are told, but for those of
    the name of a file that is taken (CLAM writes both).

    Args:
        folder: the folder; a whole job of TRIDENT or CLAM will do.
        on_error: see `feature_files`.

    Raises:
        FileNotFoundError: there is none.
        FeatureError: a folder cannot be read.
    """
    named = feature_files(folder, suffix=(".h5", *PLAIN_SUFFIXES), on_error=on_error)
    hdf5 = [path for path in named if path.suffix == ".h5"]
    files = [path for path in hdf5 if holds_features(path)]
    others = tuple(sorted(set(hdf5) - set(files)))
    for suffix in PLAIN_SUFFIXES if not files else ():
        if plain := [path for path in named if path.suffix == suffix]:
            files = [path for path in plain if holds_rows(path)]
            others = tuple(sorted({*others, *plain} - set(files)))
        if files:
            break
    stems = {path.stem for path in files}
    arrays = set(named) - set(hdf5) - set(files) - set(others)
    beside = tuple(sorted(path for path in arrays if path.stem not in stems))
    if not files:
        raise FileNotFoundError(
            f"no feature file (.h5, .pt, .npy) in {folder}{_instead(folder, others)}"
        )
    return FoundFeatures(files=tuple(files), others=others, beside=beside)


def list_features(features: object) -> tuple[list[Path], list[str]]:
    """Return feature files, sorted by slide, and what is to be noted of what lies beside them.

    Args:
        features: files, or folders that are searched through as `find_features` does, one or several.

    Raises:
        FileNotFoundError, FeatureError: nothing is there, or what is no file.
        TypeError, ValueError: no paths.
    """
    given = paths_of("features", features)
    if not given:
        raise ValueError("features must name at least one file or folder, got none")
    files, notes = list[Path](), list[str]()
    for path in given:
        if path.is_dir():
            found = find_features(path)
            files += found.files
            notes += found.notes
        else:
            files.append(regular_file(path, kind="feature file or folder", error=FeatureError))
    once = {path.resolve(): path for path in reversed(files)}
    return sorted(once.values(), key=lambda path: (path.stem, str(path))), notes


def _instead(folder: Path | str, others: tuple[Path, ...]) -> str:
    """Say what is there where no features are."""
    if others:
        return f": got {_counted(others)} without features of patches"
    is_store = str(folder).endswith(OTHER_SUFFIXES)
    found = [Path(folder)] if is_store else feature_files(folder, suffix=OTHER_SUFFIXES)
    return f", got {_counted(tuple(found))}: {REMEDY}" if found else ""


def _counted(files: tuple[Path, ...]) -> str:
    return counted([path.name for path in files])


def feature_files(
    folder: Path | str, *, suffix: str | tuple[str, ...] = ".h5", on_error: OnError | None = None
) -> list[Path]:
    """Return the `.h5` files in a folder and below it, but for hidden ones, sorted.

    Links to folders are followed, each folder is entered once.

    Args:
        folder: the folder.
        suffix: of the files, one or several.
        on_error: told of a folder that cannot be read, and in one line why; raised without it.

    Raises:
        FeatureError: a folder cannot be read.
    """
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # nothing is there
        problem = f"cannot look for feature files in {one_line(error.filename)}: {error.strerror}"
        if on_error is None:
            raise FeatureError(problem)
        on_error(Path(error.filename), problem)

    for name, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        about = Path(name).stat()
        if (about.st_dev, about.st_ino) in entered:
            folders.clear()
            continue
        entered.add((about.st_dev, about.st_ino))
        folders.sort()  # so that of two ways to a folder the first is taken
        names = (each for each in folders + files if each.endswith(suffix) and each[0] != ".")
        found += (Path(name, each) for each in names)
    return sorted(found)
