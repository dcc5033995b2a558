"""Patches in order, from a slide and a plan or from a table of ready-made patch images.

Both are the same stream to everything downstream: batches of (n, p, p, 3) uint8 RGB with (n, 2)
int64 level-0 coordinates, row by row for slides, in the table's order for patch images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofast._machine import available_cpus
from histofast._stopping import stop_if_asked
from histofast._tables import read_table
from histofast.errors import SlideError, TileError
from histofast.slides import Slide, read_image, stream_boxes
from histofast.tiling import PatchPlan, cut_patches

# Small: memory of a few MB is used again by the allocator, larger pieces are cleared every time.
BATCH_SIZE = 8


class PatchBatch(NamedTuple):
    """Some consecutive patches.

    Attributes:
        pixels: (n, p, p, 3) uint8 RGB.
        coords_l0: (n, 2) int64 top-left corners, level-0 pixels.
        unreadable_l0: (k, 4) int64 boxes (x, y, width, height) newly found unreadable, level 0.
        damaged: (m,) int64 positions in the plan of patches of this batch that show such a box.
        reason: why the first of them was unreadable; empty when nothing was.
    """

    pixels: NDArray[np.uint8]
    coords_l0: NDArray[np.int64]
    unreadable_l0: NDArray[np.int64]
    damaged: NDArray[np.int64]
    reason: str


@contextmanager
def _workers(given: Executor | None) -> Iterator[Executor]:
    if given is not None:
        yield given
        return
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="histofast-decode") as own:
        yield own


def iter_patches(
    slide: Slide,
    plan: PatchPlan,
    *,
    batch_size: int = BATCH_SIZE,
    workers: Executor | None = None,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield the patches of a plan: (n, p, p, 3) uint8 pixels and (n, 2) int64 level-0 corners.

    Every compressed tile under a patch is decoded exactly once, others never; memory is bounded by
    the tiles under two rows of patches.

    Args:
        slide: the slide the plan was made for.
        plan: from `plan_patches`.
        batch_size: patches per batch; the last may be smaller.
        workers: threads that decode; one per available CPU when None.

    Raises:
        TileError: a tile under a patch cannot be decoded (`extract` counts and lists them instead).
        ValueError: batch_size below 1.

    Determinism: bitwise, whatever the threads and the batch size.
    """
    for batch in stream_slide(slide, plan, batch_size=batch_size, workers=workers):
        if len(batch.unreadable_l0):
            raise TileError(batch.reason)
        yield batch.pixels, batch.coords_l0


def stream_slide(
    slide: Slide,
    plan: PatchPlan,
    *,
    batch_size: int = BATCH_SIZE,
    workers: Executor | None = None,
) -> Iterator[PatchBatch]:
    """As `iter_patches`, but unreadable tiles are reported in the batch and shown in white."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    with _workers(workers) as pool:
        for batch in stream_boxes(
            slide,
            plan.level,
            plan.boxes_level,
            patch_px=plan.patch_px,
            batch_size=batch_size,
            workers=pool,
        ):
            at = np.array([(t.column, t.row) for t in batch.unreadable], np.int64).reshape(-1, 2)
            yield PatchBatch(
                pixels=batch.pixels,
                coords_l0=plan.coords_l0[batch.start : batch.start + len(batch.pixels)],
                unreadable_l0=slide.tile_boxes_l0(plan.level, at),
                damaged=batch.damaged,
                reason=batch.unreadable[0].reason if batch.unreadable else "",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchBag:
    """Ready-made patch images that belong together (a slide's, a patient's).

    Attributes:
        name: of the bag.
        files: (n) image files, all of one square size.
        coords_l0: (n, 2) int64 from the x and y columns; None when the table has none.
        labels: (n) label of each row as text, "" where the table has none.
        split: "train", "valid", ...; "" when the table has none.
        patient: whose they are; "" when the table has no column of patients.
    """

    name: str
    files: tuple[Path, ...]
    coords_l0: NDArray[np.int64] | None
    labels: tuple[str, ...]
    split: str
    patient: str = ""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def coords(self) -> NDArray[np.int64]:
        """(n, 2) int64 `coords_l0`, zeros where they are not known."""
        return np.zeros((len(self), 2), np.int64) if self.coords_l0 is None else self.coords_l0

    @property
    def identity(self) -> str:
        """Changes when a file's content, or the order of the files, does."""
        digest = hashlib.sha256()
        for file in self.files:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise SlideError(f"cannot read {file}: {error.strerror}") from error
            digest.update(hashlib.sha256(content).digest())
        if self.coords_l0 is not None:
            digest.update(self.coords_l0.astype("<i8").tobytes())
        return f"patches:{len(self)};sha256:{digest.hexdigest()}"


def read_patch_table(path: str | Path) -> list[PatchBag]:
    """Read a CSV of patch images: file, slide[, patient, label, x, y, split].

    `file` is relative to the CSV's folder. Without a column of slides a patient is a bag. Columns
    may be called otherwise: see `histofast._tables`.

    Returns:
        The bags in the order of their first row, rows in the table's order.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a missing column or one that is there twice, an empty table or cell, a repeated
            file, a coordinate that is no number or does not fit 64 bits, a bag that is of two
            patients or in two splits.
    """
    table = read_table(Path(path))
    file_column, bag_column = table.needed("file"), table.needed("slide", "patient")
    patient, split, label = (table.column(role) for role in ("patient", "split", "label"))
    axes = [table.column("x"), table.column("y")]
    if (axes[0] is None) != (axes[1] is None):
        raise ValueError(f"{path} must have both of the columns x and y, or neither")
    grouped: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
    seen: dict[str, int] = {}
    for line, row in table.lines():
        for column in (file_column, bag_column, patient):
            if column is not None and not row[column]:
                raise ValueError(f"{path}, line {line}: {column} is empty")
        file = row[file_column]
        if file in seen:
            raise ValueError(
                f"{path}, line {line}: {file} is there twice (first in line {seen[file]})"
            )
        seen[file] = line
        grouped.setdefault(row[bag_column], []).append((line, row))

    bags = []
    for name, members in grouped.items():
        coords = None
        if None not in axes:
            coords = np.array(
                [
                    [_whole(table.path, line, row, str(axis)) for axis in axes]
                    for line, row in members
                ],
                np.int64,
            )
        bags.append(
            PatchBag(
                name=name,
                files=tuple(table.path.parent / row[file_column] for _, row in members),
                coords_l0=coords,
                labels=tuple(row[label] if label else "" for _, row in members),
                split=_of_bag(table.path, name, "in one split", members, split),
                patient=_of_bag(table.path, name, "of one patient", members, patient),
            )
        )
    return bags


def _of_bag(
    path: Path,
    name: str,
    wanted: str,
    members: Sequence[tuple[int, Mapping[str, str]]],
    column: str | None,
) -> str:
    """Return what all rows of a bag say."""
    found = sorted({row[column] for _, row in members}) if column else [""]
    if len(found) > 1:
        raise ValueError(f"{path}: bag {name} must be {wanted}, got {', '.join(found)}")
    return found[0]


def _whole(path: Path, line: int, row: Mapping[str, str], axis: str) -> int:
    try:
        value = round(float(row[axis]))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{path}, line {line}: {axis} must be a number, got {row[axis]!r}"
        ) from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(
            f"{path}, line {line}: {axis} must be a level-0 pixel below 2**63, got {row[axis]!r}"
        )
    return value


def stream_bag(
    bag: PatchBag,
    *,
    patch_px: int | None = None,
    batch_size: int = BATCH_SIZE,
    allow_upsampling: bool = False,
    workers: Executor | None = None,
) -> Iterator[PatchBatch]:
    """Yield the images of a bag as batches of patches.

    Args:
        bag: from `read_patch_table`.
        patch_px: side to average them down to; their own when None.
        batch_size: patches per batch.
        allow_upsampling: accept images smaller than `patch_px`.
        workers: threads that decode; one per available CPU when None.

    Raises:
        SlideError: an image that is missing or broken, not square, or of another size than the
            first, or smaller than `patch_px`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    side = bag_patch_px(bag)
    target = patch_px or side
    if side < target and not allow_upsampling:
        raise SlideError(
            f"patches of bag {bag.name} are {side} px, asked for {target} px: "
            "use a smaller patch_px, or accept interpolated pixels with allow_upsampling=True"
        )

    def load(file: Path) -> NDArray[np.uint8]:
        image = read_image(file)
        if image.shape != (side, side, 3):
            raise SlideError(
                f"{file} must be {side} x {side} px like the first of bag {bag.name}, "
                f"got {image.shape[1]} x {image.shape[0]}"
            )
        if side == target:
            return image
        out = np.empty((1, target, target, 3), np.uint8)
        box = np.array([[0.0, 0.0, side, side]])
        slot_of = np.zeros((1, 1), np.int32)
        cut_patches(image[None], slot_of, box, width=side, height=side, out=out)
        patch: NDArray[np.uint8] = out[0]
        return patch

    coords = bag.coords
    none_l0, none = np.empty((0, 4), np.int64), np.empty(0, np.int64)
    with _workers(workers) as pool:
        pending: list[Future[NDArray[np.uint8]]] = []
        try:
            for start in range(0, len(bag), batch_size):
                stop_if_asked()
                stop = min(start + batch_size, len(bag))
                while len(pending) < min(stop + batch_size, len(bag)):
                    pending.append(pool.submit(load, bag.files[len(pending)]))
                pixels = np.stack([pending[i].result() for i in range(start, stop)])
                for i in range(start, stop):
                    pending[i] = Future()  # lets go of the decoded image
                yield PatchBatch(pixels, coords[start:stop], none_l0, none, "")
        finally:
            for future in pending:
                future.cancel()


def bag_patch_px(bag: PatchBag) -> int:
    """Side of the bag's patches in pixels, from its first image, which must be square."""
    height, width = read_image(bag.files[0]).shape[:2]
    if height != width:
        raise SlideError(f"{bag.files[0]} must be square, got {width} x {height} px")
    return int(width)
