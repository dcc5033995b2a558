"""Where an object lies: a text that may be shown, and what of it may not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from histofast._words import one_line

SCHEMES = ("s3", "gs", "az", "https", "http")
# A `Path` keeps one slash of two.
_BEGIN = re.compile(rf"({'|'.join(SCHEMES)}):(/+)", re.IGNORECASE)
_WILDCARDS = "*?["


@dataclass(frozen=True, slots=True)
class Address:
    """The place of an object, or of a folder of them, in a bucket or on a web server.

    `str` is the address without user, password, query and fragment: signatures are in the query.

    Attributes:
        text: what may be shown, stored and compared.
        size_bytes: of the object, where a listing has told; else 0.
    """

    text: str
    size_bytes: int = field(default=0, repr=False, compare=False)
    _user: str = field(default="", repr=False, compare=False)  # "name:password"
    _query: str = field(default="", repr=False, compare=False)

    @classmethod
    def of(cls, text: str) -> Address:
        """Read an address.

        Raises:
            ValueError: it names no bucket or server.
        """
        begin = _BEGIN.match(text)
        if begin is None:
            raise ValueError(f"{_shown(text)} is no address: it must begin with {_schemes()}")
        scheme, rest = begin[1].lower(), text[begin.end() :]
        query = ""
        if scheme.startswith("http"):  # elsewhere ? and # are signs like others
            rest, _, _ = rest.partition("#")
            rest, _, query = rest.partition("?")
        server, _, key = rest.partition("/")
        user, _, server = server.rpartition("@")
        if not server or len(begin[2]) > 2:
            raise ValueError(f"{scheme}:// must be followed by a bucket or a server, got none")
        if user and not scheme.startswith("http"):
            raise ValueError(
                f"{scheme}://{server} must be without credentials: give them in the environment"
            )
        text = f"{scheme}://{server}/{key}"
        return cls(text=text, _user=user, _query=query)

    @property
    def scheme(self) -> str:
        """How it is read: s3, gs, az, https or http."""
        return self.text.partition(":")[0]

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which lists nothing."""
        return self.scheme.startswith("http")

    @property
    def bucket(self) -> str:
        """The bucket, container or server."""
        return self.text.split("/", 3)[2]

    @property
    def key(self) -> str:
        """What follows the bucket, without slashes around it."""
        return self.text.split("/", 3)[3].strip("/")

    @property
    def name(self) -> str:
        """The last part of the key."""
        last = self.key.rpartition("/")[2]
        return unquote(last).rpartition("/")[2] if self.is_web else last

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def has_wildcards(self) -> bool:
        """Whether the key is a pattern."""
        return not self.is_web and any(sign in self.key for sign in _WILDCARDS)

    @property
    def parent(self) -> Address:
        """The folder that it lies in."""
        return self.at(self.key.rpartition("/")[0])

    def at(self, key: str, *, size_bytes: int = 0) -> Address:
        """Return the address of another key of the bucket."""
        text = f"{self.scheme}://{self.bucket}/{key}"
        return Address(text=text, size_bytes=size_bytes, _user=self._user, _query=self._query)

    def secrets(self) -> tuple[str, str]:
        """Return user with password, and query: for whoever asks the server, and nobody else."""
        return self._user, self._query

    def __str__(self) -> str:
        return self.text


Place = Path | Address


def place_of(name: str, value: object) -> Place:
    """Return an argument that is a path or an address.

    Raises:
        TypeError: it is neither.
        ValueError: an address without a bucket or server.
    """
    if isinstance(value, Address):
        return value
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} must be a path, got {value!r}")
    text = os.fspath(value)
    return Address.of(text) if _BEGIN.match(text) else Path(value)


def places_of(name: str, value: object) -> list[Place]:
    """Return an argument that is a path or an address, or several.

    Raises:
        TypeError: it is neither.
        ValueError: as `place_of`.
    """
    if isinstance(value, str | os.PathLike | Address):
        return [place_of(name, value)]
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise TypeError(f"{name} must be a path or several, got {value!r}")
    return [place_of(name, each) for each in value]


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in SCHEMES)


def _shown(text: str) -> str:
    """A text that may be an address, without what may be a secret."""
    parts = urlsplit(text)
    return one_line(f"{parts.scheme}://...") if parts.scheme else one_line(text)
