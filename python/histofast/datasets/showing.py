"""Labelled images in; their counts, forms, colours, and what is twice in them, out.

Copies are what a split by group cannot see: a picture under two names, or of two patients. They are
found by the checksum of the file, and nearly equal ones, turned or mirrored too, by what they look
like (`copies.py`). Crops of a picture, and copies that were recoloured, are not found.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histofast import report
from histofast._files import make_folder, path_of
from histofast._notes import noted
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast._words import clipped, one_line
from histofast.datasets.answers import Thumbs, answer_of
from histofast.datasets.copies import PRINT_PX, NearCopies, near_copies
from histofast.datasets.decoding import resampled
from histofast.datasets.images import Images
from histofast.datasets.looks import Copy, Form, Look, Share
from histofast.datasets.standards import classes_of
from histofast.errors import SlideError
from histofast.slides import ImageForm, read_image, read_image_and_form

_PAIRS_SHOWN = 8
_FIGURES = {"pairs", "sheet", "counts", "colours"}
_MOST_SAME = 10_000  # pairs of one content that are told; all are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What one image looks like."""

    content: bytes
    form: tuple[int, int, ImageForm]
    mean_rgb: NDArray[np.float64]
    small: NDArray[np.uint8]
    thumb: NDArray[np.uint8] | None


@noted
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
    """Look at all images once: how many of what, of which form and colours, which are there twice.

    Writes a page, `index.html`, that needs nothing beside it, and what is on it: `counts.csv`,
    `forms.csv`, `copies.csv`, `unreadable.csv`, figures as PNG and PDF, all numbers as `look.json`.

    Args:
        images: from `open_images`.
        out: folder, made where there is none; files of these names in it are replaced.
        columns: images of each split and class that are shown, drawn at random.
        thumb_px: side of an image that is shown; of one that is no square its middle.
        seed: of the draw.
        threads: that decode.
        on_progress: called with the number of images that are done, and of all.

    Returns:
        What was found. Memory grows by about 2 kB for each image, not with pairs of them.

    Raises:
        ModuleNotFoundError: matplotlib or jinja2 is not installed.
        ValueError: numbers out of range.
        WriteError: the folder cannot be written, or its disk is full.

    Determinism: the same tables on every machine; figures by the version of matplotlib.
    """
    columns = whole_number("columns", columns, at_least=1, at_most=100)
    thumb_px = whole_number("thumb_px", thumb_px, at_least=8, at_most=1024)
    threads = whole_number("threads", threads, at_least=1)
    out = path_of("out", out)
    report.check_installed()  # before all is decoded
    make_folder(out)
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
    look = _look_of(images, out, cells, seen, unreadable)
    thumbs = {
        cell: tuple(t for i in rows if i in seen and (t := seen[i].thumb) is not None)
        for cell, rows in drawn.items()
    }
    pairs = _thumbs_of_pairs(images, look.copies[:_PAIRS_SHOWN], thumb_px)
    answer = answer_of(look, sheet=thumbs, pairs=pairs)
    for name in _FIGURES - {figure.name for figure in answer.figures}:  # of a look before this
        for suffix in (".png", ".pdf"):
            (out / f"{name}{suffix}").unlink(missing_ok=True)
    report.save(answer, out)
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
            image, form = read_image_and_form(images.files[i])
            content = hashlib.sha256(images.files[i].read_bytes()).digest()
        except (SlideError, OSError) as error:
            return clipped(one_line(error).replace(str(images.files[i]), images.files[i].name), 300)
        return _Seen(
            content=content,
            form=(image.shape[1], image.shape[0], form),
            mean_rgb=image.reshape(-1, 3).mean(axis=0),
            small=resampled(image, PRINT_PX),
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


# --- Counts ------------------------------------------------------------------------------------


def _look_of(
    images: Images,
    out: Path,
    cells: Mapping[tuple[str, str], Sequence[int]],
    seen: Mapping[int, _Seen],
    unreadable: Sequence[tuple[str, str]],
) -> Look:
    firsts, same = _same(seen)
    prints = [seen[i].small for i in firsts]
    near = near_copies(np.array(prints, np.uint8).reshape(-1, PRINT_PX, PRINT_PX, 3))
    copies = sorted(_copies(images, firsts, same, near), key=_severity)
    return Look(
        path=out,
        source=images.path,
        images=len(images),
        task=images.task,
        classes=images.classes,
        groups=len(set(images.groups)),
        group_kind=images.group_kind,
        is_split=any(images.splits),
        shares=tuple(_share(images, cell, rows, seen) for cell, rows in cells.items()),
        forms=_forms(images, seen),
        copies=tuple(copies),
        copies_found=len(same) + near.found,
        searched=near.searched,
        flat=near.flat,
        contents=len(firsts),
        unreadable=tuple(unreadable),
        notes=images.notes,
    )


def _share(
    images: Images, cell: tuple[str, str], rows: Sequence[int], seen: Mapping[int, _Seen]
) -> Share:
    means = np.array([seen[i].mean_rgb for i in rows if i in seen])
    known = len(means) > 0
    return Share(
        split=cell[0],
        label=cell[1],
        images=len(rows),
        groups=len({images.groups[i] for i in rows}),
        mean_rgb=tuple(np.round(means.mean(axis=0), 2).tolist()) if known else None,
        sd_rgb=tuple(np.round(means.std(axis=0), 2).tolist()) if known else None,
    )


def _forms(images: Images, seen: Mapping[int, _Seen]) -> tuple[Form, ...]:
    """Return the forms that pictures have, the most frequent first."""
    found: dict[tuple[int, int, ImageForm, float | None], list[int]] = defaultdict(list)
    for i, look in seen.items():
        found[*look.form, images.mpp[i]].append(i)
    forms = []
    for (width, height, form, mpp), rows in found.items():
        labels = Counter(label for i in rows for label in classes_of(images, i) if label)
        forms.append(
            Form(
                width_px=width,
                height_px=height,
                format=form.format,
                mode=form.mode,
                bits=form.bits,
                mpp=mpp,
                images=len(rows),
                labels={name: labels[name] for name in images.classes if labels[name]},
            )
        )
    return tuple(sorted(forms, key=lambda form: -form.images))


# --- Copies ------------------------------------------------------------------------------------


def _same(seen: Mapping[int, _Seen]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the first of each content, and (first, other) of those that are there again."""
    firsts: dict[bytes, int] = {}
    pairs = []
    for i, look in seen.items():
        first = firsts.setdefault(look.content, i)
        if first != i:
            # If any two of one content are apart, one is apart from the first.
            pairs.append((first, i))
    return list(firsts.values()), pairs


def _copies(
    images: Images,
    firsts: Sequence[int],
    same: Sequence[tuple[int, int]],
    near: NearCopies,
) -> Iterator[Copy]:
    for i, j in same[:_MOST_SAME]:
        yield _copy(images, i, j, kind="same", turn="")
    # Those of one content are one for what is nearly equal to them.
    for a, b, turn in near.pairs:
        yield _copy(images, firsts[a], firsts[b], kind="near", turn=turn)


def _copy(images: Images, i: int, j: int, *, kind: Literal["same", "near"], turn: str) -> Copy:
    told = images.splits if images.splits[i] or images.splits[j] else images.groups
    labels = tuple(";".join(classes_of(images, k)) for k in (i, j))
    return Copy(
        kind=kind,
        turn=turn,
        a=images.names[i],
        b=images.names[j],
        splits=(images.splits[i], images.splits[j]),
        groups=(images.groups[i], images.groups[j]),
        labels=(labels[0], labels[1]),
        is_leak=told[i] != told[j],
        is_conflict=labels[0] != labels[1],
    )


def _severity(copy: Copy) -> tuple[bool, bool, bool]:
    return not copy.is_leak, not copy.is_conflict, copy.kind == "near"


# --- What is seen ------------------------------------------------------------------------------


def _thumbs_of_pairs(images: Images, copies: Sequence[Copy], thumb_px: int) -> tuple[Thumbs, ...]:
    """Return the two pictures of each copy, decoded once more."""
    place = {name: i for i, name in enumerate(images.names)} if copies else {}
    return tuple(
        tuple(resampled(read_image(images.files[place[name]]), thumb_px) for name in (c.a, c.b))
        for c in copies
    )
