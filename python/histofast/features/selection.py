"""Which of a slide's patches a feature file holds, where it does not hold all, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check

ATTENTION, RANDOM = "attention", "random"  # reasons

_REASON, _SCORE, _ROW = "selection", "selection_attention", "selection_row"
_TEXT = h5py.string_dtype("utf-8", len(ATTENTION))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SelectedRows:
    """The patches that were encoded, of all of a slide.

    Attributes:
        rows: (k,) int64 their rows among all, rising.
        attention: (k,) float64 what they were ranked by.
        by_attention: (k,) bool, whether they are among the highest; the others were drawn at random.
        patches: n, how many there are in all.
        told: how they were chosen, by name; texts and numbers.
    """

    rows: NDArray[np.int64]
    attention: NDArray[np.float64]
    by_attention: NDArray[np.bool_]
    patches: int
    told: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def check(self, n: int) -> None:
        """Refuse what does not fit a file of `n` patches.

        Raises:
            TypeError, ValueError: it does not.
        """
        check("rows of the selection", self.rows, "int64", (n,))
        check("attention of the selection", self.attention, "float64", (n,))
        check("reasons of the selection", self.by_attention, "bool", (n,))


def write_selection(file: h5py.File, selection: SelectedRows) -> None:
    """Put it into a file that is being made."""
    reasons = np.where(selection.by_attention, ATTENTION, RANDOM).astype("S")
    dataset = file.create_dataset(_REASON, data=reasons.astype(_TEXT))
    dataset.attrs.update(dict(sorted(selection.told.items())))
    dataset.attrs["patches"] = selection.patches
    file.create_dataset(_SCORE, data=selection.attention.astype("<f8"))
    file.create_dataset(_ROW, data=selection.rows.astype("<i8"))


def read_selection(file: h5py.File) -> SelectedRows | None:
    """Return that of a file of ours that is as it was written; None: it holds all patches."""
    if _REASON not in file:
        return None
    dataset = file[_REASON]
    told = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in dataset.attrs.items()
    }
    return SelectedRows(
        rows=file[_ROW][()].astype(np.int64),
        attention=file[_SCORE][()].astype(np.float64),
        by_attention=dataset.asstr()[()] == ATTENTION,
        patches=int(told.pop("patches")),
        told=told,
    )


def misfit_of_selection(file: h5py.File, n: int) -> str | None:
    """Say what of the selection in a file of `n` patches does not fit it."""
    found = read_selection(file)
    if found is None:
        return None
    lengths = [len(found.rows), len(found.attention), len(found.by_attention)]
    if lengths != [n, n, n]:
        return f"selection of {lengths} rows does not fit {n} patches"
    ends = (*found.rows[:1], *found.rows[-1:])
    if not (np.diff(found.rows) > 0).all() or any(not 0 <= row < found.patches for row in ends):
        return f"selected rows are not rising rows of {found.patches} patches"
    return None
