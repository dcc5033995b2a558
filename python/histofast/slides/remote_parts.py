"""What belongs to a slide of a bucket that is no tiled TIFF, and must be copied before it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from histofast._remote import Address, Found, RemoteFile, store_of, version_of
from histofast.errors import SlideError
from histofast.slides.openslide_files import INDEX_CHARACTERS, named_in_index
from histofast.slides.remote_listing import series_of

_AT_A_TIME = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class RemotePart:
    """One object of a slide: where it is, and its place beside the others."""

    address: Address
    place: str
    size_bytes: int
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteParts:
    """All objects of a slide, the one first that it is opened by."""

    parts: tuple[RemotePart, ...]

    @property
    def size_bytes(self) -> int:
        """Of all together."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def identity(self) -> str:
        """Addresses without credentials, sizes and versions: another text for other bytes."""
        first, *others = self.parts
        text = f"address:{first.address};size:{first.size_bytes};version:{first.version}"
        if others:
            listing = "|".join(f"{p.place}:{p.size_bytes}:{p.version}" for p in others)
            text += f";companions:{hashlib.sha256(listing.encode()).hexdigest()}"
        return text

    def copy_to(self, folder: Path) -> Path:
        """Copy all of them into a folder; return the path of the first.

        Raises:
            StoreError: one cannot be had, or was changed since they were listed.
            OSError: the folder cannot be written.
        """
        for part in self.parts:
            to = folder / part.place
            to.parent.mkdir(parents=True, exist_ok=True)
            file = RemoteFile(part.address, version=part.version)
            try:
                file.copy_to(to)
            finally:
                file.close()
        return folder / self.parts[0].place


def remote_parts(address: Address) -> RemoteParts:
    """List all that belongs to a slide, by the suffix of the one object that is named.

    Raises:
        FileNotFoundError: no such object.
        SlideError: it is in several objects on a web server, which lists none; a key is no place in a folder.
    """
    size_bytes, version = version_of(address)
    first = RemotePart(address=address, place=address.name, size_bytes=size_bytes, version=version)
    others = sorted(_companions(address), key=lambda part: part.place)
    for part in (first, *others):
        _refuse_odd(part)
    return RemoteParts(parts=(first, *others))


def _refuse_odd(part: RemotePart) -> None:
    names = part.place.split("/")
    if any(name in ("", ".", "..") or set(name) & set("\\\0:") for name in names):
        raise SlideError(
            f"{part.address} must have a key that names a file, to be copied: rename it"
        )


def _companions(address: Address) -> Iterable[RemotePart]:
    suffix = address.suffix.lower()
    if suffix not in (".mrxs", ".dcm", ".vms", ".vmu"):
        return []
    if address.is_web:
        raise SlideError(
            f"{address} is a slide in several files, which a web server does not list: put it into a "
            "bucket, or copy it here"
        )
    folder = address.parent
    if suffix == ".mrxs":
        inner = folder.at("/".join(filter(None, (folder.key, address.stem))))
        found = store_of(inner).all_below()
        return [_part(inner, each, f"{address.stem}/{each.key}") for each in found]
    beside = [each for each in store_of(folder).below().objects if each.key != address.name]
    parts = [_part(folder, each, each.key) for each in beside]
    return _of_series(address, parts) if suffix == ".dcm" else _of_index(address, parts)


def _part(folder: Address, found: Found, place: str) -> RemotePart:
    key = "/".join(filter(None, (folder.key, found.key)))
    return RemotePart(
        address=folder.at(key, size_bytes=found.size_bytes),
        place=place,
        size_bytes=found.size_bytes,
        version=found.version,
    )


def _of_series(address: Address, beside: Sequence[RemotePart]) -> list[RemotePart]:
    instances = [part for part in beside if PurePosixPath(part.place).suffix.lower() == ".dcm"]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        series = list(pool.map(series_of, [address, *(part.address for part in instances)]))
    return [
        part for part, one in zip(instances, series[1:], strict=True) if one == series[0] != b""
    ]


def _of_index(address: Address, beside: Sequence[RemotePart]) -> list[RemotePart]:
    text = store_of(address).get_range("", 0, INDEX_CHARACTERS)[0].decode("latin-1")
    named = named_in_index(text)
    return [part for part in beside if part.place in named]
