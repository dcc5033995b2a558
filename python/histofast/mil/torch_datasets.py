"""Bags and patches as data sets of torch, for training loops of one's own.

Both are map-style and go to the workers of a `DataLoader` by fork or spawn: nothing open goes with
them, each process maps and opens what it reads.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from histofast._remote import Place
from histofast.learning import LabelsOfPatients, Missing, Task
from histofast.mil.bags import Bags, Paths, open_bags
from histofast.pipeline import PlanArguments, planned_slides
from histofast.slides import Slide

_OPEN = 16  # slides, in each process


class BagItem(TypedDict, total=False):
    """One slide of a `BagDataset`.

    features: (n, d) float32. target: () int64 class or float32 value, or (2,) float32 time and event;
    absent without labels. name: of the slide.
    """

    features: Tensor
    target: Tensor
    name: str


class BagBatch(TypedDict, total=False):
    """Several slides. features: (b, n, d) float32, zeros where `mask`, (b, n) bool, is False; target: (b, ...); name: b."""

    features: Tensor
    mask: Tensor
    target: Tensor
    name: list[str]


class BagDataset(Dataset[BagItem]):  # type: ignore[misc]
    """Slides as bags of patch features, and what is to be learnt of them.

    Attributes:
        bags: with names, targets, classes, patients and splits of the slides; `groups` says what must
            stay on one side of a split.

    Example:
        >>> import tempfile, numpy as np, torch
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> for i in range(4):
        ...     np.save(folder / f"s{i}.npy", np.full((3 + i, 8), i, np.float32))
        >>> _ = (folder / "labels.csv").write_text("slide,label\\ns0,no\\ns1,yes\\ns2,no\\ns3,yes\\n")
        >>> dataset = BagDataset(folder, folder / "labels.csv")
        >>> len(dataset), dataset[2]["features"].shape, int(dataset[2]["target"]), dataset[2]["name"]
        (4, torch.Size([5, 8]), 0, 's2')
        >>> loader = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=dataset.collate)
        >>> batch = next(iter(loader))
        >>> batch["features"].shape, batch["mask"].sum(1).tolist(), batch["target"].tolist()
        (torch.Size([4, 6, 8]), [3, 4, 5, 6], [0, 1, 0, 1])
    """

    def __init__(
        self,
        features: Paths | Bags,
        labels: str | Path | LabelsOfPatients | None = None,
        *,
        task: Task = "classification",
        missing: Missing = "error",
        label_column: str = "label",
    ) -> None:
        """Look at files and labels; features are read when they are asked for.

        Args:
            features: a folder of feature files (ours, TRIDENT's, CLAM's, STAMP's, `.npy`), files, or `Bags`,
                which have their labels.
            labels: CSV (slide, label[, patient, split]); None: there are none.
            task, missing, label_column: see `open_bags`.

        Raises:
            As `open_bags`; ValueError: labels for bags that have theirs.
        """
        if isinstance(features, Bags):
            if labels is not None:
                raise ValueError("labels must not be given with Bags, which have theirs")
            self.bags = features
        else:
            self.bags = open_bags(
                features, labels, task=task, missing=missing, label_column=label_column
            )

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> BagItem:
        """Read one bag; see `BagItem`.

        Raises:
            IndexError: no such bag.
            FeatureError, FileNotFoundError: as `Bags.read`.
        """
        index = _within(index, len(self))
        features = np.array(
            self.bags.read(index), np.float32
        )  # a copy: torch writes where it likes
        item: BagItem = {"features": torch.from_numpy(features), "name": self.bags.names[index]}
        if self.bags.has_targets:
            target = torch.as_tensor(self.bags.targets[index])
            item["target"] = target.float() if target.is_floating_point() else target
        return item

    @staticmethod
    def collate(items: Sequence[BagItem]) -> BagBatch:
        """Put bags of several sizes into one batch, padded with zeros; see `BagBatch`."""
        longest = max(len(item["features"]) for item in items)
        features = torch.zeros(len(items), longest, items[0]["features"].shape[1])
        mask = torch.zeros(len(items), longest, dtype=torch.bool)
        for i, item in enumerate(items):
            n = len(item["features"])
            features[i, :n], mask[i, :n] = item["features"], True
        batch: BagBatch = {
            "features": features,
            "mask": mask,
            "name": [item["name"] for item in items],
        }
        if "target" in items[0]:
            batch["target"] = torch.stack([item["target"] for item in items])
        return batch


class PatchItem(TypedDict):
    """One patch of a `PatchDataset`.

    pixels: (3, p, p) uint8 RGB, or what the transform made of it. coords: (2,) int64 level-0 corner.
    slide: name. index: of the patch.
    """

    pixels: Any
    coords: Tensor
    slide: str
    index: int


class PatchDataset(Dataset[PatchItem]):  # type: ignore[misc]
    """The patches of slides that `extract` would encode, at an exact scale, read one by one.

    Every patch decodes the tiles under it by itself: made for shuffling. To go through whole slides in
    order `iter_patches` is several times as fast.

    Attributes:
        slides: planned, in order: names, coordinates, notes.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from histofast.patches import make_slide
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> make_slide(path, width_px=2048, height_px=2048, mpp=1.0)
        >>> dataset = PatchDataset(path, mpp=1.0, patch_px=224)
        >>> dataset[0]["pixels"].shape, dataset[0]["slide"]
        (torch.Size([3, 224, 224]), 'a')
    """

    def __init__(
        self,
        slides: str | Place | Sequence[str | Place],
        *,
        transform: Callable[[Tensor], Any] | None = None,
        **plan: Unpack[PlanArguments],
    ) -> None:
        """Find the tissue of all slides and plan their patches.

        Args:
            slides: as of `extract`.
            transform: of pixels, (3, p, p) uint8; must be picklable where workers are spawned.
            plan: mpp, mag, patch_px, overlap_px, min_tissue, tissue, mask, coords, stain ... as in `extract`;
                0.5 um per pixel and 256 px unless given.

        Raises:
            As `pipeline.planned_slides`.
        """
        self.slides = planned_slides(slides, **plan)
        self._transform = transform
        self._ends = np.cumsum([len(slide) for slide in self.slides])
        self._process, self._open, self._pool = self._nothing_open()

    @staticmethod
    def _nothing_open() -> tuple[int, OrderedDict[int, Slide], ThreadPoolExecutor]:
        return os.getpid(), OrderedDict(), ThreadPoolExecutor(1)

    def __getstate__(self) -> dict[str, Any]:
        opened = ("_process", "_open", "_pool")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process, self._open, self._pool = self._nothing_open()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> PatchItem:
        """Read one patch; see `PatchItem`.

        Raises:
            IndexError: no such patch.
            SlideError, TileError: it cannot be read.
        """
        index = _within(index, len(self))
        number = int(np.searchsorted(self._ends, index, side="right"))
        planned = self.slides[number]
        row = index - int(self._ends[number]) + len(planned)
        (pixels,) = planned.read(self._opened(number), np.array([row]), workers=self._pool)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return {
            "pixels": tensor if self._transform is None else self._transform(tensor),
            "coords": torch.from_numpy(planned.coords_l0[row].copy()),
            "slide": planned.job.name,
            "index": index,
        }

    def _opened(self, number: int) -> Slide:
        """Return a slide, opened by this very process."""
        if (
            self._process != os.getpid()
        ):  # a fork: it has copies of its parent's, without the threads
            self.close()
            self._process, self._open, self._pool = self._nothing_open()
        slide = self._open.pop(number, None) or self.slides[number].open()
        self._open[number] = slide  # the last one used
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)[1].close()
        return slide

    def close(self) -> None:
        """Close slides that this process has opened; they are opened again when asked for."""
        while self._open:
            self._open.popitem()[1].close()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()
            self._pool.shutdown(wait=False)


def _within(index: int, n: int) -> int:
    """Take an index that may count from the end.

    Raises:
        IndexError: it is none of `n`.
    """
    if not -n <= index < n:
        raise IndexError(f"index must be within {-n}..{n - 1}, got {index}")
    return int(index) % n
