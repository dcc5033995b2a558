"""Labelled images in; their counts, colours, a sheet of some, and what is twice in them, out.

Copies are what a split by group cannot see: a picture under two names, or of two patients. They are
found by the checksum of the file, and nearly equal ones by a hash of what they look like; turned or
mirrored copies, and nearly equal ones without structure, are not found.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of, replacing, write_error
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import clipped, one_line
from histofast.datasets.cutting import contrast
from histofast.datasets.decoding import resampled
from histofast.datasets.images import Images
from histofast.datasets.standards import classes_of
from histofast.errors import SlideError
from histofast.learning import write_csv, write_json
from histofast.slides import quick_png, read_image

SHEET, COUNTS, COPIES, ABOUT = "sheet.png", "counts.csv", "copies.csv", "look.json"
_HASH_PX = 9  # 8 x 8 differences of neighbours
_BANDS, _NEAR_BITS = 4, 3  # of four bands one is the same where at most three bits differ
_NEAR_LEVELS = 6.0  # mean difference of what is nearly equal, of 255
_FLAT = 0.02  # contrast of an image averaged to 9 px
_GAP_PX = 4
_LUMINANCE = np.array([2125, 7154, 721])


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The images of one class in one split; "" where none is told.

    Attributes:
        split, label: which.
        images, groups: how many.
        mean_rgb: of the means of the images, 0..255.
        sd_rgb: their standard deviation between images.
    """

    split: str
    label: str
    images: int
    groups: int
    mean_rgb: tuple[float, ...]
    sd_rgb: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """Two images that are one.

    Attributes:
        kind: "same" file content, or "near": equal to the eye.
        a, b: their names.
        is_leak: whether they are in two splits; where no split is told, of two groups.
        is_conflict: whether their labels differ.
    """

    kind: Literal["same", "near"]
    a: str
    b: str
    is_leak: bool
    is_conflict: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What `show` found.

    Attributes:
        path: of the folder.
        shares: of each split and class.
        copies: pairs that leak, or whose labels differ.
        unreadable: name and reason.
    """

    path: Path
    shares: tuple[Share, ...]
    copies: tuple[Copy, ...]
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What one image looks like."""

    content: str
    mean_rgb: NDArray[np.float64]
    small: NDArray[np.uint8]
    thumb: NDArray[np.uint8] | None


def show(
    images: Images,
    *,
    out: str | Path,
    columns: int = 8,
    thumb_px: int = 96,
    seed: int = 0,
    threads: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Look:
    """Look at all images once: how many of what, which colours, which are there twice.

    Writes `counts.csv`, `copies.csv`, `sheet.png` (a row for each split and class, in the order of
    counts.csv, of `columns` images drawn at random) and `look.json`.

    Args:
        images: from `open_images`.
        out: folder, made where there is none; files of these names in it are replaced.
        columns: images of a row.
        thumb_px: side of an image in the sheet; of one that is no square its middle.
        seed: of the draw.
        threads: that decode.
        on_progress: called with the number of images that are done, and of all.

    Returns:
        What was found. A copy leaks if it is in two splits or, where no split is told, of two groups.

    Raises:
        ValueError: numbers out of range.
        WriteError: the folder cannot be written, or its disk is full.

    Determinism: the same bytes on every machine.
    """
    columns = whole_number("columns", columns, at_least=1, at_most=100)
    thumb_px = whole_number("thumb_px", thumb_px, at_least=8, at_most=1024)
    threads = whole_number("threads", threads, at_least=1)
    out = path_of("out", out)
    cells = _cells(images)
    rng = np.random.default_rng(seed)
    drawn = {
        cell: np.sort(rng.permutation(rows)[:columns]).tolist() for cell, rows in cells.items()
    }
    chosen = {i for rows in drawn.values() for i in rows}
    seen: dict[int, _Seen] = {}
    unreadable = []
    for i, found in enumerate(_looks(images, chosen, thumb_px, threads)):
        if isinstance(found, str):
            unreadable.append((images.names[i], found))
        else:
            seen[i] = found
        if on_progress is not None:
            on_progress(i + 1, len(images))
    look = Look(
        path=out,
        shares=tuple(_share(images, cell, rows, seen) for cell, rows in cells.items()),
        copies=tuple(_copies(images, seen)),
        unreadable=tuple(unreadable),
    )
    _write(look, _sheet(drawn, seen, columns, thumb_px))
    return look


def _cells(images: Images) -> dict[tuple[str, str], list[int]]:
    """Return the rows of each split and class; of several labels, of each that an image has."""
    found: dict[tuple[str, str], list[int]] = {
        (part, label): []
        for part in ("train", "validation", "test", "")
        if part in images.splits
        for label in images.classes or ("",)
    }
    for i, part in enumerate(images.splits):
        for label in classes_of(images, i):
            found[part, label].append(i)
    return {cell: rows for cell, rows in found.items() if rows}


def _looks(images: Images, chosen: set[int], thumb_px: int, threads: int) -> Iterator[_Seen | str]:
    def look(i: int) -> _Seen | str:
        try:
            content = hashlib.sha256(images.files[i].read_bytes()).hexdigest()
            image = read_image(images.files[i])
        except (SlideError, OSError) as error:
            return clipped(one_line(error), 300)
        return _Seen(
            content=content,
            mean_rgb=image.reshape(-1, 3).mean(axis=0),
            small=resampled(image, _HASH_PX),
            thumb=resampled(image, thumb_px) if i in chosen else None,
        )

    todo = iter(range(len(images)))
    with ThreadPoolExecutor(threads, "looks") as pool:
        waiting = deque(pool.submit(look, i) for i in islice(todo, 2 * threads))
        try:
            while waiting:
                stop_if_asked()
                found = waiting.popleft().result()
                waiting.extend(pool.submit(look, i) for i in islice(todo, 1))
                yield found
        finally:
            for future in waiting:
                future.cancel()


def _share(
    images: Images, cell: tuple[str, str], rows: Sequence[int], seen: Mapping[int, _Seen]
) -> Share:
    means = np.array([seen[i].mean_rgb for i in rows if i in seen]).reshape(-1, 3)
    mean, sd = (means.mean(axis=0), means.std(axis=0)) if len(means) else (np.zeros(3),) * 2
    return Share(
        split=cell[0],
        label=cell[1],
        images=len(rows),
        groups=len({images.groups[i] for i in rows}),
        mean_rgb=tuple(np.round(mean, 2).tolist()),
        sd_rgb=tuple(np.round(sd, 2).tolist()),
    )


# --- Copies ------------------------------------------------------------------------------------


def look_hash(small: NDArray[np.uint8]) -> int:
    """Return 64 bits of what an image looks like: where its luminance rises from left to right.

    Args:
        small: (9, 9, 3) uint8, the image averaged; its last row is left out.

    Reference: the difference hash (dHash) of N. Krawetz, 2013.
    """
    luminance = small[:8].astype(np.int64) @ _LUMINANCE
    bits = (luminance[:, 1:] > luminance[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes())


def _copies(images: Images, seen: Mapping[int, _Seen]) -> Iterator[Copy]:
    pairs: dict[tuple[int, int], Literal["same", "near"]] = {}
    by_content: dict[str, list[int]] = defaultdict(list)
    for i, look in seen.items():
        by_content[look.content].append(i)
    for rows in by_content.values():
        # If any two of them are apart, one is apart from the first.
        pairs.update({(rows[0], other): "same" for other in rows[1:]})
    # Those of one content are one for what is nearly equal to them.
    firsts = [rows[0] for rows in by_content.values()]
    for pair in _near_pairs(firsts, seen):
        pairs.setdefault(pair, "near")
    for (i, j), kind in sorted(pairs.items()):
        told = images.splits if images.splits[i] or images.splits[j] else images.groups
        is_leak = told[i] != told[j]
        is_conflict = classes_of(images, i) != classes_of(images, j)
        if is_leak or is_conflict:
            yield Copy(
                kind=kind,
                a=images.names[i],
                b=images.names[j],
                is_leak=is_leak,
                is_conflict=is_conflict,
            )


def _near_pairs(rows: Sequence[int], seen: Mapping[int, _Seen]) -> Iterator[tuple[int, int]]:
    """Yield pairs whose hashes differ in few bits, and whose pixels hardly."""
    # The hash of a picture without structure is noise.
    hashes = {i: look_hash(seen[i].small) for i in rows if contrast(seen[i].small) >= _FLAT}
    width = 64 // _BANDS
    done: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        alike: dict[int, list[int]] = defaultdict(list)
        for i in hashes:
            alike[hashes[i] >> (band * width) & ((1 << width) - 1)].append(i)
        for members in alike.values():
            stop_if_asked()
            for i, j in combinations(members, 2):
                if (hashes[i] ^ hashes[j]).bit_count() > _NEAR_BITS or (i, j) in done:
                    continue
                done.add((i, j))
                apart = seen[i].small.astype(np.float64) - seen[j].small
                if np.abs(apart).mean() <= _NEAR_LEVELS:
                    yield i, j


# --- Files -------------------------------------------------------------------------------------


def _sheet(
    drawn: Mapping[tuple[str, str], Sequence[int]],
    seen: Mapping[int, _Seen],
    columns: int,
    thumb_px: int,
) -> NDArray[np.uint8]:
    """Return the thumbs, a row for each split and class, on white."""
    step = thumb_px + _GAP_PX
    sheet = np.full((len(drawn) * step + _GAP_PX, columns * step + _GAP_PX, 3), 255, np.uint8)
    for row, members in enumerate(drawn.values()):
        for column, i in enumerate(members):
            thumb = seen[i].thumb if i in seen else None
            if thumb is not None:
                top, left = row * step + _GAP_PX, column * step + _GAP_PX
                sheet[top : top + thumb_px, left : left + thumb_px] = thumb
    return sheet


def _write(look: Look, sheet: NDArray[np.uint8]) -> None:
    try:
        look.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(look.path, error) from error
    colours = [f"{what}_{channel}" for what in ("mean", "sd") for channel in ("r", "g", "b")]
    counts: list[Sequence[object]] = [["split", "label", "images", "groups", *colours]]
    counts += [
        [share.split, share.label, share.images, share.groups, *share.mean_rgb, *share.sd_rgb]
        for share in look.shares
    ]
    write_csv(look.path / COUNTS, counts)
    copies: list[Sequence[object]] = [["kind", "a", "b", "leak", "labels_differ"]]
    copies += [[c.kind, c.a, c.b, int(c.is_leak), int(c.is_conflict)] for c in look.copies]
    write_csv(look.path / COPIES, copies)
    with replacing(look.path / SHEET, overwrite=True) as pending:
        pending.write_bytes(quick_png(sheet))
    write_json(look.path / ABOUT, {**asdict(look), "path": look.path.name})
