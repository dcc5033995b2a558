"""What a labelled set of images is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from histofast.patches import GroupKind

ImageTask = Literal["classification", "multilabel"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Images:
    """Pictures with what they show and whose they are; `learning.folds` deals them by group.

    Attributes:
        path: of the table or folder that they come from.
        names: (n) as the table spells them, or paths within the folder; each once.
        files: (n) where they lie.
        task: "classification": each is of one class; "multilabel": each has any of the labels.
        classes: (c) names of the classes, or of the labels; () without targets.
        targets: (n,) int64 class; (n, c) float64 of 0 and 1, NaN where not known; (0,) int64 where
            the pictures are without labels.
        groups: (n) whose each is.
        group_kind: what groups are; "image" where neither patients nor slides are told, and then
            pictures of one patient may be on both sides of a split.
        splits: (n) "train", "validation" or "test"; "" where not told.
        mpp: (n) um per pixel, None where not told.
        notes: what was left out or is unusual, a line each.
    """

    path: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    task: ImageTask
    classes: tuple[str, ...]
    targets: NDArray[Any]
    groups: tuple[str, ...]
    group_kind: GroupKind
    splits: tuple[str, ...]
    mpp: tuple[float | None, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_targets(self) -> bool:
        """Whether it is told what the pictures show."""
        return bool(self.classes)

    def part(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Self:
        """Return some of the images, in the order of `rows`; classes stay."""
        index = np.asarray(rows, np.int64)

        def of(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in index)

        return type(self)(
            path=self.path,
            names=of(self.names),
            files=of(self.files),
            task=self.task,
            classes=self.classes,
            targets=self.targets[index] if self.has_targets else self.targets,
            groups=of(self.groups),
            group_kind=self.group_kind,
            splits=of(self.splits),
            mpp=of(self.mpp),
            notes=self.notes,
        )
