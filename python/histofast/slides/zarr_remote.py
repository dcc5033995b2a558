"""An OME-Zarr in a bucket or on a web server: keys in, bytes out, one request each."""

from __future__ import annotations

from histofast._remote import Address, Found, store_of
from histofast.errors import StoreError


class RemoteStore:
    """An OME-Zarr below an address."""

    reads_ahead = True

    def __init__(self, address: Address) -> None:
        """Make ready to ask.

        Raises:
            StoreError: obstore is not installed.
        """
        self._store = store_of(address)
        self._can_list = not address.is_web
        self._known: dict[
            str, tuple[int, str]
        ] = {}  # size and version of files that are read in parts

    def read(self, key: str, *, most_bytes: int) -> bytes | None:
        try:
            data, found = self._store.get_range(key, 0, most_bytes)
        except FileNotFoundError:
            return None
        if found.size_bytes > most_bytes:
            raise ValueError(
                f"{key} must have at most {most_bytes:,} bytes, got {found.size_bytes:,}"
            )
        return data

    def read_part(self, key: str, start: int, count: int) -> bytes | None:
        try:
            size, version = self._known.get(key) or self._looked_at(key)
            start = max(0, size + start) if start < 0 else start
            count = min(count, size - start)
            if count <= 0:
                return b""
            return self._store.get_range(key, start, count, version=version)[0]
        except FileNotFoundError:
            return None

    def _looked_at(self, key: str) -> tuple[int, str]:
        found = self._about(key)
        self._known[key] = found.size_bytes, found.version
        return self._known[key]

    def _about(self, key: str) -> Found:
        try:
            return self._store.head(key)
        except StoreError:  # a signature may be for GET alone
            return self._store.get_range(key, 0, 1)[1]

    def folders(self, key: str) -> list[str]:
        if not self._can_list:
            return []
        return sorted(folder.rpartition("/")[2] for folder in self._store.below(key).folders)

    def has_chunks(self, key: str) -> bool:
        return True  # to list a million of them would take long

    def mark(self, key: str) -> bytes:
        try:
            found = self._about(key)
        except FileNotFoundError:
            return b"absent"
        return f"{found.size_bytes}:{found.version}".encode()
