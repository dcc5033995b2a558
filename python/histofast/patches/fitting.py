"""A bag of patch images in, which of them are taken and how they become squares of one size out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._words import counted
from histofast.errors import SlideError
from histofast.patches.tables import OddPatches, PatchBag
from histofast.slides import image_size, read_image, resize_patches
from histofast.tiling import WHITE, Resample

_MOST_NAMED = 100  # in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedBag:
    """A bag whose images become patches of one size.

    Attributes:
        bag: the images that are taken.
        patch_px: side of the patches.
        side_px: of the images before they are resampled; that of most where `odd` is "resize".
        odd: what is done with images of other sizes; "error" where there is none.
        notes: on what was done with them.
        resample: how, see `plan_patches`.
    """

    bag: PatchBag
    patch_px: int
    side_px: int
    odd: OddPatches = "error"
    notes: tuple[str, ...] = ()
    resample: Resample = "area"

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> FittedBag:
        """Return some rows of it, treated as they are among all."""
        return replace(self, bag=self.bag.take(rows))

    def load(self, file: Path) -> NDArray[np.uint8]:
        """Decode one of its images; (p, p, 3) uint8.

        Raises:
            SlideError: it is broken, or not of the size that its header said.
        """
        image = read_image(file)
        if self.odd == "pad":
            image = _padded(image, self.side_px)
        height, width = image.shape[:2]
        if self.odd != "resize" and (width, height) != (self.side_px, self.side_px):
            raise SlideError(
                f"{file} must be {self.side_px} x {self.side_px} px like most of bag "
                f"{self.bag.name}, got {width} x {height}"
            )
        if width == height == self.patch_px:
            return image
        out = np.empty((1, self.patch_px, self.patch_px, 3), np.uint8)
        box = np.array([[0.0, 0.0, width, height]])
        slot_of = np.zeros((1, 1), np.int32)
        resize_patches(
            image[None], slot_of, box, width=width, height=height, resample=self.resample, out=out
        )
        patch: NDArray[np.uint8] = out[0]
        return patch


def fit_bag(
    bag: PatchBag,
    *,
    patch_px: int | None = None,
    odd: OddPatches | None = None,
    allow_upsampling: bool = False,
    resample: Resample = "area",
) -> FittedBag:
    """Decide what becomes of the images of a bag, from their headers.

    Images are odd that are no squares of the size that most squares have.

    Args:
        bag: from `read_patch_table`.
        patch_px: side of the patches; when None that of the images.
        odd: "error" refuses a bag with odd images, and names them; "skip" leaves them out; "pad" puts all
            into the top left of a white square as large as the largest side; "resize" resamples them
            to the size of the others, stretched where they are no squares; None: what the bag says.
        allow_upsampling: accept images smaller than `patch_px`.
        resample: how images become patches of another size, see `plan_patches`.

    Raises:
        SlideError: odd images, with "error", or no others, with "skip"; images smaller than `patch_px`;
            one that is missing or broken.
    """
    odd = bag.odd_patches if odd is None else odd
    sizes = [image_size(file) for file in bag.files]
    squares = Counter(width for width, height in sizes if width == height)
    most = squares.most_common(1)[0][0] if squares else 0
    at = [i for i, size in enumerate(sizes) if size != (most, most)]
    notes: tuple[str, ...] = ()
    side, kept = most, bag
    if at and odd == "error":
        raise SlideError(_refused(bag, [(bag.files[i].name, sizes[i]) for i in at], most))
    if at and odd == "skip":
        if not squares:
            raise SlideError(
                f"bag {bag.name} must have a square image, got none of {len(bag)}: fill them up "
                'with odd_patches="pad", or resample them with odd_patches="resize"'
            )
        kept = bag.take([i for i in range(len(bag)) if sizes[i] == (most, most)])
    if at and odd == "pad":
        side = max(map(max, sizes))
    if at and odd == "resize" and not squares:
        side = min(Counter(sizes).most_common(1)[0][0])
    target = patch_px or side
    if side < target and not allow_upsampling:
        raise SlideError(
            f"patches of bag {bag.name} are {side} px, asked for {target} px: use a smaller "
            "patch_px where the encoder takes one, or accept interpolated pixels with "
            "allow_upsampling=True"
        )
    if at:
        shown = counted([bag.files[i].name for i in at])
        done = {
            "skip": f"left out what is not {most} x {most} px like most",
            "pad": f"padded with white to {side} x {side} px",
            "resize": f"resampled to {target} x {target} px from other sizes",
        }[odd]
        notes = (f"{done}: {shown}",)
    return FittedBag(
        bag=kept,
        patch_px=target,
        side_px=side,
        odd=odd if at else "error",
        notes=notes,
        resample=resample,
    )


def _refused(bag: PatchBag, odd: Sequence[tuple[str, tuple[int, int]]], most: int) -> str:
    named = [f"{name} ({width} x {height})" for name, (width, height) in odd[:_MOST_NAMED]]
    more = f" and {len(odd) - _MOST_NAMED} more" if len(odd) > _MOST_NAMED else ""
    like = f"{most} x {most} px like most" if most else "square"
    return (
        f"patches of bag {bag.name} must be squares of one size, got {len(odd)} of {len(bag)} that are "
        f'not {like}, {", ".join(named)}{more}: leave them out with odd_patches="skip", or fill them '
        'up with odd_patches="pad", or resample them with odd_patches="resize"'
    )


def _padded(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Put an image into the top left of a white square, which keeps its corner."""
    height, width = image.shape[:2]
    if (width, height) == (side_px, side_px) or max(width, height) > side_px:
        return image
    padded = np.full((side_px, side_px, 3), WHITE, np.uint8)
    padded[:height, :width] = image
    return padded
