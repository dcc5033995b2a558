"""A patch of a slide in; the most similar patches of the slide, or of all slides, out."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast.errors import FeatureError, HistofastError
from histofast.viewer.keeping import Kept, bytes_of
from histofast.viewer.neighbours import Alike, alike, lengths_of
from histofast.viewer.of_features import made_by

if TYPE_CHECKING:
    from histofast.features import FeatureFile
    from histofast.viewer.catalogue import Catalogue

Scope = Literal["slide", "cohort"]

MOST_ALIKE = 200
MOST_WAITING = 4  # searches of the cohort, the one that goes on among them
_KEPT_BYTES = 64 << 20  # of lengths: 16 million patches


class Busy(RuntimeError):
    """Too many search the cohort."""


class Cohort:
    """Who is like whom among the patches of a catalogue. Thread-safe.

    There is no index: files are gone through one after the other, mapped, so that memory is bounded by the
    lengths of features, and the first search of a cohort costs one reading of its files. One search goes
    through a cohort at a time, and few wait for it.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        """Take the slides."""
        self._catalogue = catalogue
        self._lengths = Kept[NDArray[np.float32]](most_bytes=_KEPT_BYTES, weigh=bytes_of)
        self._searching, self._waiting = threading.Lock(), threading.BoundedSemaphore(MOST_WAITING)

    def similar(
        self, index: int, row: int, *, k: int = 24, scope: Scope = "slide"
    ) -> dict[str, Any]:
        """Return the patches that are most similar to one by cosine, itself left out.

        Args:
            index: of its slide.
            row: of the patch.
            k: how many at most, 1..200.
            scope: "slide", or "cohort": all slides with features of the same encoder.

        Returns:
            `items` with slide (its index), name, row, x and y (level-0 px of that slide) and cosine, the most
            similar first; of those as similar the earlier slide and row. `same_slide`: how many are of the
            patch's own slide; `searched`: how many were looked at; `unread`: how many files could not be.

        Raises:
            ValueError: a number out of range; a patch that has no direction.
            FeatureError, FileNotFoundError: the features of its slide cannot be read.
            Busy: too many search the cohort.
        """
        whole_number("k", k, at_least=1, at_most=MOST_ALIKE)
        own = self._catalogue.features(index)
        if own is None:
            raise FeatureError(f"{self._catalogue.entries[index].name} has no features to compare")
        whole_number("patch", row, at_least=0, at_most=len(own.features) - 1)
        query = np.array(own.features[row])
        if not np.isfinite(lengths_of(query[None]))[0]:
            raise ValueError(
                f"patch {row} is like no other: its features are all zero, or not finite"
            )
        if scope == "slide":
            return self._answer({index: self._within(index, own, query, k, row)}, index, k)
        if scope != "cohort":
            raise ValueError(f"scope must be slide or cohort, got {scope!r}")
        if not self._waiting.acquire(blocking=False):
            raise Busy("the cohort is being searched: ask again when that is done")
        try:
            with self._searching:
                return self._answer(self._everywhere(index, own, query, k, row), index, k)
        finally:
            self._waiting.release()

    def _everywhere(
        self, index: int, own: FeatureFile, query: NDArray[Any], k: int, row: int
    ) -> dict[int, tuple[Alike, int] | None]:
        found: dict[int, tuple[Alike, int] | None] = {}
        for entry in self._catalogue.entries:
            if entry.features is None:
                continue
            try:
                file = self._catalogue.features(entry.index)
            except (FileNotFoundError, HistofastError):
                found[entry.index] = None
                continue
            if file is not None and made_by(file) == made_by(own):
                without = row if entry.index == index else None
                found[entry.index] = self._within(entry.index, file, query, k, without)
        return found

    def _within(
        self, index: int, file: FeatureFile, query: NDArray[Any], k: int, without: int | None
    ) -> tuple[Alike, int]:
        lengths = self._lengths.get(index, lambda: lengths_of(file.features))
        searched = int(np.isfinite(lengths).sum()) - (without is not None)
        return alike(file.features, lengths, query, k=k, without=without), searched

    def _answer(
        self, found: dict[int, tuple[Alike, int] | None], index: int, k: int
    ) -> dict[str, Any]:
        read = {slide: each for slide, each in found.items() if each is not None}
        places = [
            (-cosine, slide, row)
            for slide, (near, _) in read.items()
            for row, cosine in zip(near.rows.tolist(), near.cosines.tolist(), strict=True)
        ]
        items = [self._item(slide, row, -minus) for minus, slide, row in sorted(places)[:k]]
        return {
            "items": items,
            "same_slide": sum(item["slide"] == index for item in items),
            "k": k,
            "searched": sum(searched for _, searched in read.values()),
            "unread": len(found) - len(read),
        }

    def _item(self, index: int, row: int, cosine: float) -> dict[str, Any]:
        file = self._catalogue.features(index)
        coords = None if file is None else file.coords
        x, y = (None, None) if coords is None else coords[row].tolist()
        name = self._catalogue.entries[index].name
        return {"slide": index, "name": name, "row": row, "x": x, "y": y, "cosine": cosine}
