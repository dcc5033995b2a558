"""The pictures beside the scan of a slide - label, macro, thumbnail - by name, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from histofast.errors import SlideError


class Associated(Mapping[str, NDArray[np.uint8]]):
    """Names to pictures, (h, w, 3) uint8 RGB; each is decoded whenever it is asked for."""

    def __init__(
        self, names: Sequence[str] = (), read: Callable[[str], NDArray[np.uint8]] | None = None
    ) -> None:
        """Offer `names`, each of which `read` decodes."""
        self._names, self._read = tuple(names), read

    def __getitem__(self, name: str) -> NDArray[np.uint8]:
        """Decode a picture.

        Raises:
            KeyError: there is none of this name.
            SlideError: it is broken, or too large; that says nothing of the others and the scan.
        """
        if name not in self._names or self._read is None:
            raise KeyError(name)
        try:
            return self._read(name)
        except SlideError as error:
            raise SlideError(f"{name}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Associated({', '.join(self._names)})"
