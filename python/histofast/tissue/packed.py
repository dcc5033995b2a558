"""Files of GeoJSON, plain or packed as QuPath packs them (gzip, zip), in; their bytes, within a bound, out."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from histofast.errors import SlideError

GEOJSON_SUFFIXES = (".geojson", ".json")
_PACKED = (".gz", ".zip")
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def is_geojson(path: Path) -> bool:
    """Whether a file is one by its name: `a.geojson`, `a.json.gz`, or `a.zip`, which says no more."""
    name = path.name.lower()
    plain = next((name.removesuffix(end) for end in _PACKED if name.endswith(end)), name)
    return plain.endswith(GEOJSON_SUFFIXES) or name.endswith(".zip")


def read_geojson(path: Path, *, most_bytes: int) -> bytes:
    """Return the text of a file of GeoJSON.

    Raises:
        SlideError: it is damaged or longer, or an archive of none or several.
        OSError: it cannot be read.
    """
    most = f"mask {path} must have at most {most_bytes >> 20} MiB"
    if (size := path.stat().st_size) > most_bytes:
        raise SlideError(f"{most}, got {size >> 20} MiB: simplify its polygons")
    try:
        with _opened(path) as file:
            content = file.read(most_bytes + 1)
    except gzip.BadGzipFile as error:
        raise SlideError(f"mask {path} must be packed by gzip, got {error}") from error
    except _DAMAGED as error:
        raise SlideError(f"mask {path} is damaged: {error}") from error
    if len(content) > most_bytes:
        raise SlideError(f"{most}, got more of it packed: simplify its polygons")
    return content


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.open(path) as file:
            yield cast("IO[bytes]", file)
    elif suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(GEOJSON_SUFFIXES)]
            if len(names) != 1:
                raise SlideError(f"mask {path} must hold one file of GeoJSON, got {len(names)}")
            with archive.open(names[0]) as file:
                yield file
    else:
        with path.open("rb") as file:
            yield file
