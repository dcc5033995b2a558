"""Tables of values that lie in a folder in, values of the patches of a slide out.

`histofast heatmap` leaves them (attention.csv, cam.csv and that of the null), `histofast predict --attention` and
`histofast explain measure` do, and whoever writes x, y and a value. A table does not say of which slide it is. One in a folder of the
slide's name, or of that name itself, is of that slide; any other is of the slide whose patches lie exactly at
its places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._words import one_line
from histofast.explain import PatchValues, read_values
from histofast.viewer.keeping import Kept

_NULL = "null"  # the folder of what `histofast heatmap --method` computes with weights drawn anew
_UNNAMED = "value"  # the head of the column that `histofast heatmap` writes
_KEPT_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mapped:
    """Values of the patches of one slide, from a table.

    Attributes:
        path: of the table.
        name: what they are.
        values: (n,) float32; NaN where the table has none.
        places: of the table in each patch, whose mean the values are.
    """

    path: Path
    name: str
    values: NDArray[np.float32]
    places: int


class Maps:
    """The tables of a folder. Thread-safe."""

    def __init__(self, folder: str | Path) -> None:
        """List the tables in the folder and in those within it.

        Raises:
            FileNotFoundError: no such folder, or no table in it.
        """
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise FileNotFoundError(f"no such folder of maps: {folder}")
        self._tables = sorted(
            path
            for pattern in ("*.csv", "*/*.csv", f"*/{_NULL}/*.csv")
            for path in self._folder.glob(pattern)
            if path.is_file()
        )
        if not self._tables:
            raise FileNotFoundError(
                f"no table of values (.csv) in {folder}: name what `histofast heatmap` wrote"
            )
        self._read = Kept[PatchValues](most_bytes=_KEPT_BYTES, weigh=_bytes_of)

    def of(
        self, slide: str, coords_l0: NDArray[np.int64], side_l0: float | None
    ) -> tuple[list[Mapped], list[str]]:
        """Return what there is of a slide, and a sentence for each table that is its own and does not fit.

        Args:
            slide: its name.
            coords_l0: (n, 2) of its patches.
            side_l0: of a patch.
        """
        found, notes = [], []
        for path, is_own in self._of(slide):
            try:
                table = self._read.get(path, lambda path=path: read_values(path))  # type: ignore[misc]
            except (OSError, ValueError) as error:
                notes += [one_line(error)] if is_own else []
                continue
            placed = placed_on(table.coords_l0, table.values, coords_l0, side_l0, some=is_own)
            if placed is not None:
                values, places = placed
                name = _name_of(table, path, slide)
                found.append(Mapped(path=path, name=name, values=values, places=places))
            elif is_own:
                notes.append(
                    f"{path} is not shown: its places are not those of the patches of {slide}"
                )
        return found, notes

    def _of(self, slide: str) -> Iterator[tuple[Path, bool]]:
        """Yield the tables that may be of a slide, and whether they are by their names."""
        for path in self._tables:
            first, *rest = path.relative_to(self._folder).parts
            if path.stem == slide or (rest and first == slide):
                yield path, True
            elif not rest or first == _NULL:
                yield path, False


def _name_of(table: PatchValues, path: Path, slide: str) -> str:
    name = path.stem if table.name == _UNNAMED and path.stem != slide else table.name
    return f"{name}, weights drawn anew" if path.parent.name == _NULL else name


def placed_on(
    places_l0: NDArray[np.int64],
    values: NDArray[np.float64],
    coords_l0: NDArray[np.int64],
    side_l0: float | None,
    *,
    some: bool,
) -> tuple[NDArray[np.float32], int] | None:
    """Give patches the values at their places.

    A patch has the value at its corner, or the mean of the places within it where each patch has as many,
    one after the other from its corner on, as class activation maps have.

    Args:
        places_l0: (m, 2) top-left corners of the values.
        values: (m,).
        coords_l0: (n, 2) top-left corners of the patches.
        side_l0: of a patch; None where it is not known.
        some: whether patches may be without.

    Returns:
        (n,) float32, NaN where there is none, and how many places each is the mean of; None if the places
        are not those of the patches.
    """
    n, m = len(coords_l0), len(places_l0)
    if n and m % n == 0 and m > n and side_l0 is not None:
        within = places_l0.reshape(n, m // n, 2) - coords_l0[:, None]
        if (within[:, 0] == 0).all() and ((within >= 0) & (within < side_l0)).all():
            return values.reshape(n, m // n).mean(axis=1).astype(np.float32), m // n
    patches, places = (np.lexsort((at[:, 1], at[:, 0])) for at in (coords_l0, places_l0))
    if n == m and (coords_l0[patches] == places_l0[places]).all():
        found = np.empty(n, np.float32)
        found[patches] = values[places]  # of patches at one place each its own, in order
        return found, 1
    return _of_some(places_l0, values, coords_l0) if some else None


def _of_some(
    places_l0: NDArray[np.int64], values: NDArray[np.float64], coords_l0: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int] | None:
    at = {(x, y): value for (x, y), value in zip(places_l0.tolist(), values.tolist(), strict=True)}
    corners = [(x, y) for x, y in coords_l0.tolist()]
    if not at.keys() <= set(corners):
        return None
    return np.array([at.get(corner, np.nan) for corner in corners], np.float32), 1


def _bytes_of(table: PatchValues) -> int:
    return table.coords_l0.nbytes + table.values.nbytes
