"""A slide and a network of tissue in, its mask out: tile by tile, whose seams do not show.

The network sees squares of `tile_px` pixels at exactly its scale, which overlap by two margins; of each mask the
margin is left out, so that every pixel of the whole comes from one tile and has its context. What lies beside
the slide is white. A network whose view reaches no further than the margin, and whose steps divide margin
and tile, gives what it would give of the whole at once.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast._machine import available_cpus
from histofast.encoders import TissueNetwork, TissueSpec, opened_network, read_tissue_spec
from histofast.errors import SlideError
from histofast.slides import Slide, Unreadable, stream_boxes
from histofast.tiling import LEVEL_TOLERANCE, WHITE
from histofast.tissue.finding import Tissue, whole_mask

_TILES = 16  # at a time, whatever the machine: on a GPU last bits hang on it
_MOST_PX = 1 << 24  # of these together
REVISION = 1  # raised when the same slide and network would give another mask


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ByNetwork:
    """Tissue of a slide as a network finds it, and what could not be looked at.

    Attributes:
        tissue: its mask, a pixel for each cell of the network.
        unreadable_l0: (k, 4) int64 boxes (x, y, width, height) that could not be decoded; white to it.
        reason: why the first of them is; empty when none is.
    """

    tissue: Tissue
    unreadable_l0: NDArray[np.int64]
    reason: str


def network_identity(spec: TissueSpec) -> dict[str, object]:
    """Return what makes the mask of a given slide."""
    return {"revision": REVISION, "network": spec.name, "sha256": spec.sha256}


def find_tissue_by(
    slide: Slide,
    network: str | os.PathLike[str],
    *,
    workers: Executor | None = None,
    device: str = "auto",
) -> ByNetwork:
    """Find the tissue of a slide by a network.

    Args:
        slide: an open slide.
        network: file of `graphs.wrap_tissue`.
        workers: threads that decode, and run it on the CPU; one for each CPU when None.
        device: where it runs, as `encoders.load` has it.

    Raises:
        FileNotFoundError, ModelError: no network of tissue, or it fails.
        SlideError: the slide is coarser than what the network sees.

    Determinism: bitwise on the CPU.
    """
    opened = opened_network(read_tissue_spec(network), device)
    own = ThreadPoolExecutor(available_cpus()) if workers is None else nullcontext(workers)
    with own as pool:
        return mask_by(slide, opened, workers=pool)


def mask_by(slide: Slide, network: TissueNetwork, *, workers: Executor) -> ByNetwork:
    """As `find_tissue_by`, of an open network.

    Raises:
        ModelError: it fails.
        SlideError: the slide is coarser than what the network sees.
    """
    spec = network.spec
    scale = spec.mpp / slide.mpp
    if scale < 1 - LEVEL_TOLERANCE:
        raise SlideError(
            f"{slide.path} must have at most {spec.mpp:g} um per pixel, which {spec.name} sees, got "
            f"{slide.mpp:g}: find its tissue without a network, or give it a mask"
        )
    cells = [max(1, round(side / (scale * spec.cell_px))) for side in slide.dimensions]
    width_px, height_px = (n * spec.cell_px for n in cells)
    corners = corners_of((width_px, height_px), tile_px=spec.tile_px, margin_px=spec.margin_px)
    index = slide.finer_than(scale)
    level = slide.levels[index]
    per_px = np.array([level.width / width_px, level.height / height_px])
    boxes = np.concatenate([corners, np.full_like(corners, spec.tile_px)], axis=1) * np.tile(
        per_px, 2
    )
    mask = np.zeros((cells[1], cells[0]), np.uint8)
    unreadable: list[Unreadable] = []
    for batch in stream_boxes(
        slide,
        index,
        boxes.astype(np.float64),
        patch_px=spec.tile_px,
        batch_size=max(1, min(_TILES, _MOST_PX // spec.tile_px**2)),
        workers=workers,
    ):
        at = corners[batch.start : batch.start + len(batch.pixels)]
        for tile, corner in zip(batch.pixels, at.tolist(), strict=True):
            _whiten_beside(tile, corner, (width_px, height_px))
        found = network.run(batch.pixels, workers=workers)
        for part, corner in zip(found, at.tolist(), strict=True):
            _put(mask, part, corner, spec)
        unreadable += batch.unreadable
    tiles = np.array([(t.column, t.row) for t in unreadable], np.int64).reshape(-1, 2)
    width_l0, height_l0 = slide.dimensions
    return ByNetwork(
        tissue=whole_mask(
            mask,
            width_l0,
            height_l0,
            threshold=None,
            identity=f"network {spec.name} r{REVISION}, sha256 {spec.sha256}",
        ),
        unreadable_l0=slide.tile_boxes_l0(index, tiles),
        reason=unreadable[0].reason if unreadable else "",
    )


def corners_of(size_px: tuple[int, int], *, tile_px: int, margin_px: int) -> NDArray[np.int64]:
    """Return (n, 2) corners (x, y), row by row, of tiles whose middles cover a picture, each pixel once."""
    step_px = tile_px - 2 * margin_px
    x, y = (np.arange(0, side, step_px) - margin_px for side in size_px)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _whiten_beside(tile: NDArray[np.uint8], corner: list[int], size_px: tuple[int, int]) -> None:
    """Make white what of a tile lies beside the picture."""
    x, y = corner
    width_px, height_px = size_px
    tile[: max(0, -y)] = WHITE
    tile[max(0, height_px - y) :] = WHITE
    tile[:, : max(0, -x)] = WHITE
    tile[:, max(0, width_px - x) :] = WHITE


def _put(
    mask: NDArray[np.uint8], part: NDArray[np.uint8], corner: list[int], spec: TissueSpec
) -> None:
    """Put the middle of a tile's mask where it belongs."""
    margin = spec.margin_px // spec.cell_px
    middle = part[margin : len(part) - margin, margin : len(part) - margin]
    x, y = (c // spec.cell_px + margin for c in corner)
    there = mask[y : y + len(middle), x : x + len(middle)]
    there[:] = middle[: there.shape[0], : there.shape[1]]
