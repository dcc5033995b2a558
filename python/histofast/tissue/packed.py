"""Files of GeoJSON, plain or packed as QuPath packs them (gzip, zip), in; what they say, within a bound, out."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from histofast._files import refuse_stand_in
from histofast._words import one_line
from histofast.errors import SlideError

GEOJSON_SUFFIXES = (".geojson", ".json")
MOST_BYTES = 1 << 28  # of a GeoJSON: ten million points
# Keys of an object that say what it is and where; of two nobody knows which is meant.
_SAID_ONCE = ("type", "features", "geometry", "geometries", "coordinates")
_PACKED = (".gz", ".zip")
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def is_geojson(path: Path) -> bool:
    """Whether a file is one by its name: `a.geojson`, `a.json.gz`, or `a.zip`, which says no more."""
    name = path.name.lower()
    plain = next((name.removesuffix(end) for end in _PACKED if name.endswith(end)), name)
    return plain.endswith(GEOJSON_SUFFIXES) or name.endswith(".zip")


def read_geojson(path: Path, *, most_bytes: int, kind: str) -> bytes:
    """Return the text of a file of GeoJSON; `kind` is what messages call it.

    Raises:
        SlideError: it is damaged or longer, or an archive of none or several.
        OSError: it cannot be read.
    """
    most = f"{kind} {path} must have at most {most_bytes >> 20} MiB"
    if (size := path.stat().st_size) > most_bytes:
        raise SlideError(f"{most}, got {size >> 20} MiB: simplify its polygons")
    try:
        with _opened(path) as file:
            content = file.read(most_bytes + 1)
    except gzip.BadGzipFile as error:
        raise SlideError(f"{kind} {path} must be packed by gzip, got {error}") from error
    except _DAMAGED as error:
        raise SlideError(f"{kind} {path} is damaged: {error}") from error
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
                raise SlideError(f"{path} must hold one file of GeoJSON, got {len(names)}")
            with archive.open(names[0]) as file:
                yield file
    else:
        with path.open("rb") as file:
            yield file


def parsed_geojson(content: bytes, *, of: Path) -> dict[str, Any]:
    """Return the object that a text of GeoJSON is; a plain list of features as a collection.

    Raises:
        SlideError: it is none.
    """
    try:
        value = json.loads(content, object_pairs_hook=_object, parse_int=float)
    except RecursionError:
        raise SlideError(f"{of} must be GeoJSON, got lists nested too deeply") from None
    except ValueError as error:
        refuse_stand_in(of, error=SlideError)
        raise SlideError(f"{of} must be GeoJSON: {one_line(error)}") from error
    # QuPath's scripts write a plain list of features unless they are asked for a collection.
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return {"type": "FeatureCollection", "features": value}
    if not isinstance(value, dict):
        got = "a list" if isinstance(value, list) else "one value"
        raise SlideError(f"{of} must be a GeoJSON object, got {got}: export a FeatureCollection")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON that says one thing of its place."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        if twice := [key for key in _SAID_ONCE if keys.count(key) > 1]:
            raise ValueError(f"an object must have its {twice[0]} once, got it twice")
    return found
