"""What `show` finds of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from histofast.datasets.images import ImageTask
from histofast.datasets.words import findings_of
from histofast.patches import GroupKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The images of one class in one split; "" where none is told.

    Attributes:
        split, label: which.
        images, groups: how many.
        mean_rgb: of the means of the images, 0..255; None: none can be read.
        sd_rgb: their standard deviation between images.
    """

    split: str
    label: str
    images: int
    groups: int
    mean_rgb: tuple[float, ...] | None
    sd_rgb: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The images of one size, one kind of file and one scale.

    Attributes:
        width_px, height_px: their size.
        format, mode, bits: as `slides.ImageForm`.
        mpp: um per pixel; None where not told.
        images: how many.
        labels: how many of each class that has any.
    """

    width_px: int
    height_px: int
    format: str
    mode: str
    bits: int
    mpp: float | None
    images: int
    labels: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """Two images that are one.

    Attributes:
        kind: "same" file content, or "near": equal to the eye.
        turn: what makes a to b, "turned by 90°" to the left, "mirrored" left to right; "": nothing.
        a, b: their names.
        splits, groups, labels: of a and b.
        is_leak: whether they are in two splits; where no split is told, of two groups.
        is_conflict: whether their labels differ.
    """

    kind: Literal["same", "near"]
    turn: str
    a: str
    b: str
    splits: tuple[str, str]
    groups: tuple[str, str]
    labels: tuple[str, str]
    is_leak: bool
    is_conflict: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What `show` found.

    Attributes:
        path: of the folder.
        source: table or folder of the images.
        images, groups: how many.
        task, classes, group_kind: as `Images` has them.
        is_split: whether splits are told.
        shares: of each split and class.
        forms: sizes and kinds of files, the most frequent first.
        copies: pairs, leaks and conflicts first; 10,000 of each kind at most.
        copies_found: how many there are.
        contents: files of different content that can be read.
        searched: of these, how many were held against all others for near copies.
        flat: of these, how many have no structure by which near copies could be found.
        unreadable: name and reason.
        notes: of the images.
    """

    path: Path
    source: Path
    images: int
    groups: int
    task: ImageTask
    classes: tuple[str, ...]
    group_kind: GroupKind
    is_split: bool
    shares: tuple[Share, ...]
    forms: tuple[Form, ...]
    copies: tuple[Copy, ...]
    copies_found: int
    contents: int
    searched: int
    flat: int
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """What matters most, a sentence or two each."""
        return tuple(findings_of(self))

    @property
    def source_name(self) -> str:
        """The table or folder without what lies above: the same on every machine."""
        parts = self.source.absolute().parts
        return "/".join(parts[-2:] if self.source.suffix else parts[-1:])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it but for where it lies, as JSON has it."""
        told = {**asdict(self), "findings": self.findings, "source": self.source_name}
        del told["path"]
        return told
