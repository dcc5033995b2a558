"""What a synthetic slide looks like: textures of tissue and two stains, painted square by square.

Tissue islands with glands, fibrous stroma and nuclei are painted as amounts of two stains; light is
absorbed as in a microscope (Beer-Lambert). Randomness is raw PCG64 output, and what accumulates is
integer, so that the pixels depend on the seed only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Bytes = NDArray[np.uint8]
_CELL_PX = 32  # the slide's large structures live on a grid this coarse
_GRAIN = 4  # the larger, the smoother the tissue
_GLASS_NOISE = 3
_WHITE = (244, 243, 245)
# Optical density per channel of one unit of stain.
_HAEMATOXYLIN = (0.65, 0.70, 0.29)
_EOSIN = (0.14, 0.88, 0.48)
_DAB = (0.27, 0.57, 0.78)
_INK: Mapping[str, tuple[int, int, int]] = {  # transmission per channel, of 256
    "blue": (50, 80, 190),
    "green": (40, 140, 80),
    "black": (28, 28, 32),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What distinguishes the stains; amounts are in hundredths of optical density."""

    second: tuple[float, float, float]  # what is there beside haematoxylin
    strength: float
    cytoplasm: tuple[int, int]  # haematoxylin, second stain
    stroma: tuple[int, int]
    nucleus: tuple[int, int]
    positive: int  # of 256 nuclei are stained by the second stain


LOOKS: Mapping[str, _Look] = {
    "he": _Look(
        second=_EOSIN,
        strength=1.0,
        cytoplasm=(20, 42),
        stroma=(4, 50),
        nucleus=(118, 34),
        positive=0,
    ),
    "ihc": _Look(
        second=_DAB,
        strength=1.0,
        cytoplasm=(14, 12),
        stroma=(14, 8),
        nucleus=(70, 6),
        positive=120,
    ),
    "pale": _Look(
        second=_EOSIN,
        strength=0.42,
        cytoplasm=(16, 36),
        stroma=(3, 42),
        nucleus=(100, 30),
        positive=0,
    ),
}


class _Bits:
    """Integers from raw PCG64 output, which NumPy promises never to change."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

    def below(self, limit: int, shape: tuple[int, ...]) -> Ints:
        """Integers 0..limit-1, limit up to 2**24."""
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        return (raw * np.uint64(limit) >> np.uint64(24)).astype(np.int32).reshape(shape)

    def one(self, limit: int) -> int:
        """One integer 0..limit-1."""
        return (self._bits.random_raw() >> 40) * limit >> 24


def _blurred(noise: Ints, *, radius_y: int, radius_x: int) -> Ints:
    """Three box means along each axis of a periodic picture: close to a Gaussian."""
    blurred = noise
    for radius in (radius_x, radius_y):  # each pass turns the picture
        n = blurred.shape[1]
        radius = min(radius, (n - 1) // 2)
        width = 2 * radius + 1
        for _ in range(3 if radius else 0):
            around = [blurred[:, n - radius - 1 :], blurred, blurred[:, :radius]]
            # Sums may pass 2**31; their differences are right all the same.
            sums = np.concatenate(around, axis=1).cumsum(axis=1, dtype=np.int32)
            blurred = (sums[:, width:] - sums[:, :n]) // width
        blurred = np.ascontiguousarray(blurred.T)
    return blurred


def _enlarged(
    field: Ints, cells_px: tuple[int, int], *, starts: tuple[int, int], sizes: tuple[int, int]
) -> Ints:
    """Cut pixels out of a field of (rows, columns) cells, linear between the cells' middles.

    The field has one cell more on every side than the picture, which starts at its second one.
    """
    for cell_px, start, size in zip(cells_px, starts, sizes, strict=True):
        twice = 2 * np.arange(start, start + size) + 1 - cell_px
        cell, weight = np.divmod(twice, 2 * cell_px)
        weight = weight.astype(np.int32)[:, None]
        mixed = field[cell + 1] * (2 * cell_px - weight) + field[cell + 2] * weight
        field = np.ascontiguousarray((mixed // (2 * cell_px)).T)
    return field


def _spread(values: Ints) -> Ints:
    """Shift and scale to a mean of 0 and a mean distance of 256 from it."""
    centred = values.astype(np.int64) - int(values.sum(dtype=np.int64)) // values.size
    distance = max(1, int(np.abs(centred).sum()) // values.size)
    return (centred * 256 // distance).astype(np.int32)


def _noise(bits: _Bits, shape: tuple[int, int], *, radius_y: int, radius_x: int) -> Ints:
    """Smooth periodic noise, mean 0, mean distance from it 256."""
    # What is smooth is made small and enlarged.
    scale_y, scale_x = (
        max(
            scale
            for scale in (1, 2, 4, 8, 16)
            if n % scale == 0 and (scale == 1 or radius >= 4 * scale)
        )
        for n, radius in zip(shape, (radius_y, radius_x), strict=True)
    )
    small = bits.below(1 << 16, (shape[0] // scale_y, shape[1] // scale_x))
    small = _spread(_blurred(small, radius_y=radius_y // scale_y, radius_x=radius_x // scale_x))
    if scale_y == scale_x == 1:
        return small
    padded = np.pad(small, 1, mode="wrap")
    return _enlarged(padded, (scale_y, scale_x), starts=(0, 0), sizes=shape)


class _Texture:
    """A periodic square of one kind of tissue: amounts of both stains, hundredths of density."""

    def __init__(self, bits: _Bits, *, side_px: int, mpp: float, look: _Look) -> None:
        self._bits, self._side_px, self._mpp, self._look = bits, side_px, mpp, look
        self.planes = (
            np.zeros((side_px, side_px), np.int32),
            np.zeros((side_px, side_px), np.int32),
        )
        self._grain = _noise(bits, (256, 256), radius_y=1, radius_x=1)

    def _px(self, um: float) -> int:
        return max(1, round(um / self._mpp))

    def add_stroma(self) -> None:
        """Wavy fibres along x, with clefts between them."""
        shape, px, bits = (self._side_px,) * 2, self._px, self._bits
        fibres = _noise(bits, shape, radius_y=px(0.5), radius_x=px(8))
        bundles = _noise(bits, shape, radius_y=px(3), radius_x=px(20))
        bend = _noise(bits, shape, radius_y=px(14), radius_x=px(14)) * px(9) // 256
        rows = (np.arange(self._side_px)[:, None] + bend) % self._side_px
        fibres = np.take_along_axis(fibres, rows, axis=0)
        bundles = np.take_along_axis(bundles, rows, axis=0)
        shade = np.clip(256 + fibres // 4 + bundles // 5, 60, 500)
        whole = np.clip(bundles + fibres // 3 + 640, 0, 200)  # 0 in the clefts
        for plane, amount in zip(self.planes, self._look.stroma, strict=True):
            plane += amount * shade // 256 * whole // 200

    def add_glands(self) -> None:
        """Rings of epithelium around an empty middle, their nuclei near the outer rim."""
        per_side = max(1, self._side_px // self._px(100))
        pitch, jitter = self._side_px // per_side, self._px(7)
        for row in range(per_side):
            for column in range(per_side):
                x = column * pitch + row % 2 * pitch // 2 + self._bits.one(2 * jitter)
                self._add_gland(x, row * pitch + self._bits.one(2 * jitter))

    def _add_gland(self, x0: int, y0: int) -> None:
        bits, px = self._bits, self._px
        reach = px(66)
        y = np.arange(-reach, reach + 1.0)[:, None]
        x = y.T
        squared = x * x + y * y + 1e-9
        radius = np.sqrt(squared)
        oval = (bits.one(200) - 100) / 600 * (x * x - y * y) / squared
        oval += (bits.one(200) - 100) / 600 * (2 * x * y) / squared
        oval += (bits.one(200) - 100) / 1000 * (x**3 - 3 * x * y * y) / (squared * radius)
        outer = px(36 + bits.one(12)) * (1 + oval)
        inner = outer * (15 + bits.one(35)) / 100
        inside = np.clip((outer - radius) / px(1.5), 0, 1)
        epithelium = np.clip((radius - inner) / px(1.5), 0, 1) * (
            1 + self._grain_of(2 * reach + 1) / 1200
        )
        is_positive = bits.one(256) < self._look.positive
        amounts = (self._look.cytoplasm[0], self._look.cytoplasm[1] + 40 * is_positive)
        self._blend(x0, y0, inside, [amount * epithelium for amount in amounts])
        for depth_um, spacing_um in ((7.0, 7.0), (16.0, 9.0)):
            turns = max(5, round(6.28 * (outer[reach, reach // 2] - px(depth_um)) / px(spacing_um)))
            for i in range(turns):
                angle = (i + bits.one(100) / 150) * 6.283185 / turns
                ux, uy = float(np.cos(angle)), float(np.sin(angle))
                at = outer[round(reach + uy * reach / 2), round(reach + ux * reach / 2)]
                at += bits.one(px(5)) - px(depth_um + 2.5)
                self._add_nucleus(
                    round(x0 + ux * at),
                    round(y0 + uy * at),
                    half_um=(4.4, 3.0),
                    direction=(ux, uy),
                    is_positive=is_positive,
                )

    def add_nuclei(self, *, per_mm2: int, half_um: tuple[float, float], spread: int) -> None:
        """Single nuclei anywhere; `spread` 0..100 is how far they turn away from the x axis."""
        bits = self._bits
        for _ in range(int(per_mm2 * (self._side_px * self._mpp) ** 2 / 1e6)):
            self._add_nucleus(
                bits.one(self._side_px),
                bits.one(self._side_px),
                half_um=half_um,
                direction=(1.0, (bits.one(200) - 100) * spread / 5000),
                is_positive=bits.one(1024) < self._look.positive,
            )

    def _add_nucleus(
        self,
        x0: int,
        y0: int,
        *,
        half_um: tuple[float, float],
        direction: tuple[float, float],
        is_positive: bool,
    ) -> None:
        bits = self._bits
        size = (80 + bits.one(50)) / 100 / self._mpp
        long_px, wide_px = half_um[0] * size, half_um[1] * size
        ux, uy = direction
        norm = (ux * ux + uy * uy) ** 0.5
        reach = int(long_px) + 2
        y = np.arange(-reach, reach + 1.0)[:, None]
        x = y.T
        along = (x * ux + y * uy) / (norm * long_px)
        across = (y * ux - x * uy) / (norm * wide_px)
        grain = self._grain_of(2 * reach + 1)
        distance = along * along + across * across + grain / 4000
        disc = np.clip((1 - distance) * wide_px / 2.5 * self._mpp / 0.25, 0, 1)
        rim = np.clip(1.35 - np.abs(distance - 0.75), 0.8, 1.2)  # chromatin gathers at the edge
        amounts = self._look.nucleus
        if is_positive:
            amounts = (34, 80 + bits.one(60))
        chromatin = rim * (1 + grain / 1000) * (70 + bits.one(50)) / 100
        self._blend(x0, y0, disc, [amount * chromatin for amount in amounts])

    def _blend(
        self, x0: int, y0: int, share: NDArray[np.float64], amounts: list[NDArray[np.float64]]
    ) -> None:
        """Replace `share` of what is around a point, across the periodic edges too."""
        reach = len(share) // 2
        around = np.arange(-reach, reach + 1)
        place = ((around + y0) % self._side_px)[:, None], (around + x0) % self._side_px
        for plane, amount in zip(self.planes, amounts, strict=True):
            plane[place] = plane[place] * (1 - share) + amount * share

    def _grain_of(self, side: int) -> Ints:
        """Some fine noise, (side, side)."""
        rows, columns = ((np.arange(side) + self._bits.one(256)) % 256 for _ in range(2))
        return self._grain[rows[:, None], columns]

    def finished(self, *, strength: float, overlap_px: int) -> list[Bytes]:
        """Both planes with fine irregularities, continued by `overlap_px` to cut from."""
        finished = []
        for plane in self.planes:
            grain = _noise(self._bits, plane.shape, radius_y=1, radius_x=1)
            stained = plane * (round(256 * strength) + grain // _GRAIN) >> 8
            bounded = np.clip(stained, 0, 255).astype(np.uint8)
            finished.append(np.pad(bounded, (0, overlap_px), mode="wrap"))
        return finished


class Painter:
    """Paints any square of a slide, from any thread."""

    def __init__(
        self,
        *,
        width_px: int,
        height_px: int,
        seed: int,
        tissue_fraction: float,
        mpp: float,
        stain: str,
        pen: str | None,
        is_periodic: bool,
        tile_px: int,
    ) -> None:
        look = LOOKS[stain]
        # About 512 um of texture; a power of two, to fit into any `repeat_px`.
        period_px = 1 << min(11, max(9, round(np.log2(512 / mpp))))
        self._period_px = min(period_px, width_px) if is_periodic else period_px

        stroma = _Texture(_Bits(seed, 1), side_px=self._period_px, mpp=mpp, look=look)
        stroma.add_stroma()
        stroma.add_nuclei(per_mm2=900, half_um=(6.5, 1.6), spread=30)
        stroma.add_nuclei(per_mm2=250, half_um=(2.9, 2.7), spread=100)
        glands = _Texture(_Bits(seed, 2), side_px=self._period_px, mpp=mpp, look=look)
        glands.add_stroma()
        glands.add_nuclei(per_mm2=1500, half_um=(4.6, 2.2), spread=60)
        glands.add_nuclei(per_mm2=900, half_um=(2.9, 2.7), spread=100)
        glands.add_glands()
        self._textures = [
            texture.finished(strength=look.strength, overlap_px=tile_px)
            for texture in (stroma, glands)
        ]
        self._ragged = look.stroma[0] + look.stroma[1]
        self._colour = _absorption(look.second)
        noise = _Bits(seed, 3).below(_GLASS_NOISE, (self._period_px + tile_px,) * 2)
        self._glass_noise = noise.astype(np.uint8)
        self._ink = None if pen is None else np.array(_INK[pen])

        mode: Literal["wrap", "edge"] = "wrap" if is_periodic else "edge"
        plan = _SlidePlan(
            _Bits(seed, 4),
            width_px=-(-width_px // tile_px) * tile_px,
            height_px=-(-height_px // tile_px) * tile_px,
            mpp=mpp,
            is_periodic=is_periodic,
        )
        fields = [plan.tissue(tissue_fraction), plan.kind(), plan.shade()]
        if pen is not None:
            fields.append(plan.pen())
        self._fields = [np.pad(field, 1, mode=mode) for field in fields]

    def is_glass(self, x: int, y: int, side_px: int) -> bool:
        """Whether a square shows nothing but empty glass."""
        rows, columns = (
            slice((start - _CELL_PX // 2) // _CELL_PX + 1, (start + side_px) // _CELL_PX + 3)
            for start in (y, x)
        )
        nothing = -128 - 256  # the outline is frayed by less than 256
        outlines = [self._fields[0], *self._fields[3:]]
        return all(int(field[rows, columns].max()) < nothing for field in outlines)

    def glass(self, i: int, side_px: int) -> Bytes:
        """Picture number `i` of empty glass."""
        start = i * side_px % self._period_px
        noise = self._glass_noise[start : start + side_px, :side_px]
        return self._coloured(noise.astype(np.int32) << 8)

    def paint(self, x: int, y: int, side_px: int) -> Bytes:
        """The square with its top-left corner at (x, y), (side_px, side_px, 3)."""
        outline, kind, shade = (self._cut(field, x, y, side_px) for field in self._fields[:3])
        x0, y0 = x % self._period_px, y % self._period_px
        place = np.s_[y0 : y0 + side_px, x0 : x0 + side_px]
        (stroma, glands) = (
            [plane[place].astype(np.int32) for plane in planes] for planes in self._textures
        )
        ragged = np.clip(2 * (stroma[0] + stroma[1] - self._ragged), -250, 250)
        amount = np.clip(outline + 128 + ragged, 0, 256) * shade >> 8
        first, second = (
            (s * (256 - kind) + g * kind >> 8) * amount >> 8
            for s, g in zip(stroma, glands, strict=True)
        )
        first = np.minimum(first + self._glass_noise[place], 255)
        rgb = self._coloured(first << 8 | second)
        if self._ink is not None:
            ink = np.clip(self._cut(self._fields[3], x, y, side_px), 0, 256)
            if ink.any():
                # Where the felt ran dry, the ink is thinner.
                streaks = 256 - np.clip(stroma[1] - self._ragged, 0, 60)
                through = 256 - (ink * streaks >> 8)[..., None] * (256 - self._ink) // 256
                rgb = (rgb * through >> 8).astype(np.uint8)
        return rgb

    def _coloured(self, amounts: Ints) -> Bytes:
        rgbx = self._colour.take(amounts).view(np.uint8).reshape(*amounts.shape, 4)
        return np.ascontiguousarray(rgbx[..., :3])

    def _cut(self, field: Ints, x: int, y: int, side_px: int) -> Ints:
        cells_px = (_CELL_PX, _CELL_PX)
        return _enlarged(field, cells_px, starts=(y, x), sizes=(side_px, side_px))


class _SlidePlan:
    """The large structures of a slide, as fields on a grid of `_CELL_PX`."""

    def __init__(
        self, bits: _Bits, *, width_px: int, height_px: int, mpp: float, is_periodic: bool
    ) -> None:
        self._bits, self._mpp, self._is_periodic = bits, mpp, is_periodic
        self._shape = (-(-height_px // _CELL_PX), -(-width_px // _CELL_PX))

    def _octave(self, radius_cells: float) -> Ints:
        radius = max(1, round(radius_cells))
        return _noise(self._bits, self._shape, radius_y=radius, radius_x=radius)

    def tissue(self, fraction: float) -> Ints:
        """Above 128 where there is tissue, below -128 where there is none; the outline is 0."""
        side = min(self._shape)
        field = self._octave(side / 16) * 100
        field += self._octave(side / 40) * 45 + self._octave(side / 110) * 22
        field += self._octave(60 / self._mpp / _CELL_PX) * 12
        field //= 100
        if not self._is_periodic:  # a cover slip is not filled to its edge
            margin = max(2, side // 12)
            for axis, n in enumerate(self._shape):
                from_edge = np.minimum(np.arange(n), np.arange(n)[::-1])
                penalty = np.clip(margin - from_edge, 0, margin) ** 2 * 1200 // margin**2
                field -= np.expand_dims(penalty, 1 - axis).astype(np.int32)
        wanted = round(fraction * field.size)
        if wanted in (0, field.size):
            return np.full_like(field, 4000 if wanted else -4000)
        outline = int(np.partition(field.ravel(), field.size - wanted)[field.size - wanted])
        steps = np.abs(np.diff(field, axis=0))
        steepness = max(1, int(steps.sum(dtype=np.int64)) * 16 // steps.size)
        # From no tissue to tissue within about 30 um.
        cells = max(1, round(30 / self._mpp))
        scaled = (field - outline).astype(np.int64) * (256 * 16 * _CELL_PX) // (steepness * cells)
        return np.clip(scaled, -4000, 4000).astype(np.int32)

    def kind(self) -> Ints:
        """0 in stroma, 256 among glands."""
        radius = 110 / self._mpp / _CELL_PX
        field = self._octave(radius) + self._octave(radius / 3) // 4
        bounded: Ints = np.clip(128 + field * 3, 0, 256)
        return bounded

    def shade(self) -> Ints:
        """How much stain was taken up, of 256."""
        uptake = 226 + self._octave(400 / self._mpp / _CELL_PX) // 16
        bounded: Ints = np.clip(uptake, 180, 256)
        return bounded

    def pen(self) -> Ints:
        """Above 256 on a hand-drawn loop, below 0 beside it."""
        h, w = self._shape
        turns = 40
        wobble = [100 + self._bits.one(9) + (4 if i % 7 < 3 else 0) for i in range(turns)]
        angle = np.arange(turns) * (6.283185 / (turns - 2))  # the ends overlap
        xs = w * (0.52 + 0.33 * np.cos(angle) * np.array(wobble) / 100)
        ys = h * (0.5 + 0.3 * np.sin(angle) * np.array(wobble) / 100)
        y, x = np.mgrid[:h, :w].astype(np.float64)
        nearest = np.full((h, w), np.inf)
        for ax, ay, bx, by in zip(xs, ys, xs[1:], ys[1:], strict=False):
            dx, dy = bx - ax, by - ay
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
            np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy), out=nearest)
        # A marker's stroke is half a millimetre wide; on slides of that size it would hide all.
        um = self._mpp * _CELL_PX
        half = max(1.0, min(250 / um, max(45 / um, 0.012 * min(h, w))))
        return np.clip((half - nearest) * 300 + 128, -4000, 4000).astype(np.int32)


def _absorption(second: tuple[float, float, float]) -> NDArray[np.uint32]:
    """Colours (RGB and a spare byte) by 256 * first + second amount, in hundredths of density."""
    amounts = np.arange(256) / 100
    density = np.multiply.outer(amounts, _HAEMATOXYLIN)[:, None] + np.multiply.outer(
        amounts, second
    )
    rgbx = np.zeros((256, 256, 4), np.uint8)
    rgbx[..., :3] = np.rint(np.array(_WHITE) * np.exp(-density))
    return rgbx.reshape(-1).view(np.uint32)
