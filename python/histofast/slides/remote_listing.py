"""Which slides an address stands for: an object, a folder of a bucket, a pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

from histofast._remote import Address, Found, Store, store_of
from histofast.errors import SlideError
from histofast.slides.metadata import DICOM_HEAD_BYTES, series_in
from histofast.slides.zarr_store import SUFFIX, is_zarr

_ASK_AT_A_TIME = 16


def find_remote(address: Address, *, recursive: bool, suffixes: frozenset[str]) -> list[Address]:
    """Expand an address as `find_slides` does paths; on a web server it is a slide.

    Raises:
        FileNotFoundError: nothing is there, or matches.
        SlideError: no slide is, or the bucket cannot be listed.
    """
    if address.is_web or (is_zarr(address) and not address.has_wildcards):
        return [address]
    if address.has_wildcards:
        found = _matching(address)
    else:
        if (itself := _object(address)) is not None:
            return [itself]
        store = store_of(address)
        found = [_address(address, each) for each in _inside(store, recursive=recursive)]
    if not found:
        raise FileNotFoundError(f"no such slide: {address}")
    slides = [
        each
        for each in sorted(found, key=str)
        if each.suffix.lower() in suffixes and not each.name.startswith(".")
    ]
    if not slides:
        below = "" if recursive or address.has_wildcards else ", not in its subfolders"
        raise SlideError(f"no slide in {address}: looked for {' '.join(sorted(suffixes))}{below}")
    return _once_a_series(slides)


def _object(address: Address) -> Address | None:
    """The object of this very key, if there is one."""
    if not address.key or str(address).endswith("/"):
        return None
    try:
        size_bytes = store_of(address).head().size_bytes
    except FileNotFoundError:
        return None
    return address.at(address.key, size_bytes=size_bytes)


def _address(folder: Address, found: Found) -> Address:
    key = "/".join(part for part in (folder.key, found.key) if part)
    return folder.at(key, size_bytes=found.size_bytes)


def _matching(pattern: Address) -> list[Address]:
    parts = pattern.key.split("/")
    known = next(i for i, part in enumerate(parts) if any(sign in part for sign in "*?["))
    folder, wanted = pattern.at("/".join(parts[:known])), parts[known:]
    store = store_of(folder)
    is_flat = len(wanted) == 1 and wanted != ["**"]
    objects = _inside(store, recursive=not is_flat)
    return [_address(folder, found) for found in objects if fits(found.key.split("/"), wanted)]


def _inside(store: Store, *, recursive: bool) -> list[Found]:
    """Objects in a folder, if recursive below it too; of OME-Zarr the folder stands for all in it."""
    if not recursive:
        objects, folders = store.below()
        return [*objects, *(_folder(key) for key in folders if key.lower().endswith(SUFFIX))]
    found = {}
    for each in store.all_below():
        parts = each.key.split("/")
        depth = next(
            (i for i, part in enumerate(parts[:-1]) if part.lower().endswith(SUFFIX)), None
        )
        whole = each if depth is None else _folder("/".join(parts[: depth + 1]))
        found[whole.key] = whole
    return list(found.values())


def _folder(key: str) -> Found:
    return Found(key=key, size_bytes=0, version="")


def fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a key match those of a pattern; "**" stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:]
        return bool(rest) and any(fits(parts[i:], rest) for i in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])


def _once_a_series(slides: Iterable[Address]) -> list[Address]:
    """Leave out the further instances of a DICOM series in one folder."""
    slides = list(slides)
    instances = [slide for slide in slides if slide.suffix.lower() == ".dcm"]
    with ThreadPoolExecutor(_ASK_AT_A_TIME) as pool:
        series = dict(zip(instances, pool.map(series_of, instances), strict=True))
    kept: list[Address] = []
    seen: set[tuple[Address, bytes]] = set()
    for slide in slides:
        if series.get(slide):
            if (which := (slide.parent, series[slide])) in seen:
                continue
            seen.add(which)
        kept.append(slide)
    return kept


def series_of(instance: Address) -> bytes:
    """SeriesInstanceUID of a DICOM file, as `dicom_series`."""
    return series_in(store_of(instance).get_range("", 0, DICOM_HEAD_BYTES)[0])
