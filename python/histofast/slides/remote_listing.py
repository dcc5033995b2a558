"""Which slides an address stands for: an object, a folder of a bucket, a pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

from histofast._remote import Address, Found, store_of
from histofast.errors import SlideError
from histofast.slides.metadata import DICOM_HEAD_BYTES, series_in

_ASK_AT_A_TIME = 16


def find_remote(address: Address, *, recursive: bool, suffixes: frozenset[str]) -> list[Address]:
    """Expand an address as `find_slides` does paths; on a web server it is a slide.

    Raises:
        FileNotFoundError: nothing is there, or matches.
        SlideError: no slide is, or the bucket cannot be listed.
    """
    if address.is_web:
        return [address]
    if address.has_wildcards:
        found = _matching(address)
    else:
        if (itself := _object(address)) is not None:
            return [itself]
        store = store_of(address)
        objects = store.all_below() if recursive else store.below().objects
        found = [_address(address, each) for each in objects]
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
    objects = store.below().objects if is_flat else store.all_below()
    return [_address(folder, found) for found in objects if fits(found.key.split("/"), wanted)]


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
