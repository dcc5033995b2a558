"""The slides of a viewer by index, what is known of each before it is opened, and those that are open.

No path and no name of a file comes from the page: it asks for the slide of an index.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from histofast._notes import log_of
from histofast._remote import Place
from histofast._words import count, one_line
from histofast.errors import SlideError
from histofast.features import FeatureFile, open_features
from histofast.slides import Slide, open_slide
from histofast.viewer.pyramid import Pyramid
from histofast.viewer.tiles import IsWanted, Tiled, TileFile, Tiles

_log = log_of(__name__)

MOST_OPEN = 16
MOST_BYTES = 512 << 20  # of slides that are decoded whole, and of features that cannot be mapped


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A slide of a viewer.

    Attributes:
        index: what the page calls it.
        name: what may be shown: its name, or "slide 3" where names are hidden.
        slide: its true name, for joining with tables; never shown where names are hidden.
        path: of its file, or its address.
        mpp: level-0 um per pixel; None: what the file says.
        features: its feature file, if there is one.
        label: from the table of labels.
        error: why it cannot be opened, where that is known from the start, as it may be shown.
    """

    index: int
    name: str
    slide: str
    path: Place
    mpp: float | None = None
    features: Path | None = None
    label: str | None = None
    error: str | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class _Open:
    """A slide that is open, and by how many."""

    tiled: Tiled
    identity: str
    n_bytes: int
    users: int = 0
    scale_problem: str = ""
    bad: set[tuple[int, int, int]] = field(default_factory=set)
    reason: str = ""


class Catalogue:
    """Slides by index; those used last are kept open. Thread-safe, a context manager.

    Attributes:
        entries: by index.
        anonymous: whether names are hidden.
        title: what is looked at, as it may be shown.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        title: str = "",
        anonymous: bool = False,
        encoder: str | None = None,
        tiles: Tiles | None = None,
        words: Callable[[object], str] = one_line,
    ) -> None:
        """Keep `entries`; `encoder` is whose features they have, `words` puts an error for the page."""
        self.entries = tuple(entries)
        self.title, self.anonymous, self.encoder = title, anonymous, encoder
        self._words = words
        self._tiles = Tiles() if tiles is None else tiles
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._opening = [threading.Lock() for _ in self.entries]
        self._features: OrderedDict[int, FeatureFile] = OrderedDict()
        self._n_patches: dict[int, int] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    # --- slides ---------------------------------------------------------------------------------

    @contextmanager
    def slide(self, index: int) -> Iterator[Slide]:
        """Have a slide open; it is not to be used after the block.

        Raises:
            FileNotFoundError, SlideError: as `open_slide`.
        """
        with self._use(index) as opened:
            yield opened.tiled.slide

    def identity(self, index: int) -> str:
        """Return what changes when the content of the slide's file does. Raises as `slide`."""
        with self._use(index) as opened:
            return opened.identity

    def mpp(self, index: int) -> float | None:
        """Return level-0 um per pixel; None where nobody says it. Raises as `slide`."""
        with self._use(index) as opened:
            return None if opened.scale_problem else opened.tiled.slide.mpp

    def pyramid(self, index: int) -> Pyramid:
        """Return the zooms of a slide. Raises as `slide`."""
        with self._use(index) as opened:
            return opened.tiled.pyramid

    def tile(
        self, index: int, z: int, column: int, row: int, *, is_wanted: IsWanted = lambda: True
    ) -> TileFile | None:
        """Return a tile as JPEG; None where there is none.

        Raises:
            FileNotFoundError, SlideError: the slide cannot be opened.
            Abandoned: `is_wanted` said no.
        """
        with self._use(index) as opened:
            tile = self._tiles.jpeg(opened.tiled, z, column, row, is_wanted=is_wanted)
            if tile is not None and tile.unreadable:
                with self._lock:
                    opened.bad |= tile.unreadable
                    opened.reason = opened.reason or tile.reason
            return tile

    def notes(self, index: int) -> tuple[str, ...]:
        """Say what an open slide lacks: its scale, and what could not be decoded so far."""
        with self._lock:
            opened = self._open.get(index)
            if opened is None:
                return ()
            notes = []
            if opened.scale_problem:
                why = "" if self.anonymous else f": {self._words(opened.scale_problem)}"
                notes.append(f"shown without a scale{why}")
            if opened.bad:
                what = count(len(opened.bad), "part")
                why = "" if self.anonymous else f": {self._words(opened.reason)}"
                notes.append(f"{what} of the slide cannot be decoded, shown in grey{why}")
            return tuple(notes)

    @contextmanager
    def _use(self, index: int) -> Iterator[_Open]:
        with self._opening[index]:
            with self._lock:
                opened = self._open.get(index)
                if opened is not None:
                    opened.users += 1
            if opened is None:
                opened = self._opened(self.entries[index])
                with self._lock:
                    opened.users += 1
                    self._open[index] = opened
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                if index in self._open:
                    self._open.move_to_end(index)
                closed = self._superfluous()
            self._close(closed)

    def _opened(self, entry: Entry) -> _Open:
        slide, scale_problem = _open_with_or_without_scale(entry)
        try:
            identity = slide.identity
        except BaseException:
            slide.close()
            raise
        tiled = Tiled(number=next(self._numbers), slide=slide, pyramid=Pyramid(slide.levels))
        whole = slide.properties.get("door") == "image"
        n_bytes = slide.dimensions[0] * slide.dimensions[1] * 3 if whole else 0
        return _Open(tiled=tiled, identity=identity, n_bytes=n_bytes, scale_problem=scale_problem)

    def _superfluous(self) -> list[_Open]:
        """Take out the slides that nobody uses and that are too many, those first that were used first."""
        closed = []
        n_bytes = sum(opened.n_bytes for opened in self._open.values())
        for index in list(self._open)[:-1]:
            if len(self._open) <= MOST_OPEN and n_bytes <= MOST_BYTES:
                break
            if not self._open[index].users:
                closed.append(self._open.pop(index))
                n_bytes -= closed[-1].n_bytes
        return closed

    def _close(self, closed: Sequence[_Open]) -> None:
        for opened in closed:
            opened.tiled.slide.close()
            self._tiles.blocks.drop(opened.tiled.number)

    # --- features -------------------------------------------------------------------------------

    def features(self, index: int) -> FeatureFile | None:
        """Return what the feature file of a slide holds, mapped where it can be.

        Raises:
            FileNotFoundError, FeatureError: as `read_features`.
        """
        path = self.entries[index].features
        if path is None:
            return None
        with self._lock:
            if (found := self._features.get(index)) is not None:
                self._features.move_to_end(index)
                return found
        found = open_features(path)
        with self._lock:
            self._features[index] = found
            self._n_patches[index] = len(found.features)
            n_bytes = sum(map(_bytes_read, self._features.values()))
            while len(self._features) > 1 and (
                len(self._features) > MOST_OPEN or n_bytes > MOST_BYTES
            ):
                n_bytes -= _bytes_read(self._features.popitem(last=False)[1])
        return found

    def n_patches(self, index: int) -> int | None:
        """Return how many patches a slide has, None where nobody has looked yet."""
        return self._n_patches.get(index)

    # --- words ----------------------------------------------------------------------------------

    def told(self, index: int | None, error: object) -> str:
        """Return what to show of an error of a slide; where names are hidden, none of its words."""
        if not self.anonymous:
            return self._words(error)
        name = "this" if index is None else self.entries[index].name
        _log.warning("%s: %s", name, one_line(error))
        return f"{name} cannot be shown: `histofast --log FILE view ...` keeps why"

    def shown(self, index: int, note: str) -> str:
        """Return a note on a slide without names where they are hidden."""
        entry = self.entries[index]
        names = {entry.slide, entry.path.name, entry.path.stem}
        if entry.features is not None:
            names |= {entry.features.name, entry.features.stem}
        if self.anonymous and any(name in note for name in names):
            return self.told(index, note)
        return note

    def close(self) -> None:
        """Close all slides."""
        with self._lock:
            closed = list(self._open.values())
            self._open.clear()
        self._close(closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open_with_or_without_scale(entry: Entry) -> tuple[Slide, str]:
    """Return a slide, and what is wrong with its scale: then it is of 1 um per pixel, which nobody may tell."""
    try:
        return open_slide(entry.path, mpp_override=entry.mpp), ""
    except SlideError as error:
        if entry.mpp is not None:
            raise
        try:
            return open_slide(entry.path, mpp_override=1.0), str(error)
        except SlideError:
            raise error from None


def _bytes_read(file: FeatureFile) -> int:
    return 0 if isinstance(file.features, np.memmap) else file.features.nbytes
