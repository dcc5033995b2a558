"""What crops are asked to be like, what came of it, and how a table tells their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from histofast._numbers import mpp_number, real_number, whole_number
from histofast._tables import NAMES
from histofast._words import counted
from histofast.datasets.images import Images
from histofast.learning import or_none


@dataclass(frozen=True, kw_only=True, slots=True)
class Standard:
    """What crops are like.

    Attributes:
        patch_px: side.
        mpp: um per pixel; None: that of each picture.
        source_mpp: um per pixel of pictures whose table does not tell it.
        overlap: of neighbours, a share of the side, 0..0.95.
        min_contrast: least distance of the 5th and 99th percentile of a crop's luminance, 0..1, as
            `contrast` has it; crops with less are glass, and dropped.
        allow_upsampling: take pictures that are coarser than `mpp`.

    Raises:
        TypeError: no number.
        ValueError: out of range.
    """

    patch_px: int = 272
    mpp: float | None = None
    source_mpp: float | None = None
    overlap: float = 0.25
    min_contrast: float = 0.1
    allow_upsampling: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        checked = {
            "patch_px": whole_number("patch_px", self.patch_px, at_least=8, at_most=8192),
            "mpp": mpp_number("mpp", self.mpp),
            "source_mpp": mpp_number("source_mpp", self.source_mpp),
            "overlap": real_number("overlap", self.overlap, at_least=0, at_most=0.95),
            "min_contrast": real_number("min_contrast", self.min_contrast, at_least=0, at_most=1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standardised:
    """What `standardise` made.

    Attributes:
        path: of the folder.
        counts: crops by split, and in that by class ("" for pictures without labels).
        dropped: crops without contrast, by class of their pictures.
        unreadable: name and reason of pictures that could not be read.
        notes: a line each, for people.
    """

    path: Path
    counts: Mapping[str, Mapping[str, int]]
    dropped: Mapping[str, int]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def label_cells(images: Images) -> Iterator[tuple[object, ...]]:
    """What a table says of the label of each picture: a name, or 0, 1 or nothing for each label."""
    for i in range(len(images)):
        if not images.has_targets:
            yield ()
        elif images.task == "classification":
            yield (images.classes[images.targets[i]],)
        else:
            yield tuple("" if or_none(v) is None else int(v) for v in images.targets[i].tolist())


def label_columns(images: Images) -> tuple[str, ...]:
    """Return the columns of a table that hold what `label_cells` gives.

    Raises:
        ValueError: a label is called as another column of such a table is.
    """
    if images.task == "classification" or not images.has_targets:
        return ("label",) if images.has_targets else ()
    known = {_plain(name) for names in NAMES.values() for name in (*names, "source")}
    taken = [name for name in images.classes if _plain(name) in known]
    if taken:
        raise ValueError(
            f"labels must not be called as other columns of a table are, got {counted(taken)}: "
            "rename them"
        )
    return images.classes


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def classes_of(images: Images, i: int) -> list[str]:
    """Return the classes that a picture counts for, "" where it has no label."""
    if not images.has_targets:
        return [""]
    if images.task == "classification":
        return [images.classes[images.targets[i]]]
    return [name for name, has in zip(images.classes, images.targets[i] == 1, strict=True) if has]
