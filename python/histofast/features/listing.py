"""A folder in, the feature files in it and below out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from histofast._words import one_line
from histofast.errors import FeatureError


def feature_files(
    folder: Path | str, *, on_error: Callable[[Path, str], None] | None = None
) -> list[Path]:
    """Return the `.h5` files in a folder and below it, but for hidden ones, sorted.

    Links to folders are followed, each folder is entered once.

    Args:
        folder: the folder.
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
        names = (each for each in folders + files if each.endswith(".h5") and each[0] != ".")
        found += (Path(name, each) for each in names)
    return sorted(found)
