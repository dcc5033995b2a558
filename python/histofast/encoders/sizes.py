"""Which sizes of patches a network takes: any, one, or one and others in steps from it.

A network that joins what it has made small and large again, as a U-Net does, takes only sizes that
all of its strides divide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

FARTHEST_PX = 128  # the largest step that is looked for: seven strides of 2
_POWERS = tuple(1 << i for i in range(FARTHEST_PX.bit_length()))


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchSizes:
    """Sides of patches: `px`, and those that lie some times `step_px` above or below it.

    A step of 1 is any size, of 0 none but `px`.

    Example:
        >>> print(PatchSizes(px=224, step_px=16), PatchSizes(px=224, step_px=16).nearest(100))
        multiples of 16 px (96, 112)
    """

    px: int
    step_px: int

    def takes(self, px: int) -> bool:
        """Whether patches of this side are of one of the sizes."""
        return px == self.px if self.step_px == 0 else (px - self.px) % self.step_px == 0

    def nearest(self, px: int) -> tuple[int, ...]:
        """Return the size that this is, or the next smaller and the next larger one."""
        if self.step_px == 0 or self.takes(px):
            return (px if self.step_px else self.px,)
        below = px - (px - self.px) % self.step_px
        return tuple(size for size in (below, below + self.step_px) if size > 0)

    def refusal(self, px: int) -> str:
        """Say of a size that is none of them which are, and the nearest."""
        near = " or ".join(map(str, self.nearest(px)))
        return f"takes patches of {self}, got {px} px: the nearest is {near} px"

    def __str__(self) -> str:
        if self.step_px <= 1:
            return "any size" if self.step_px else f"{self.px} px"
        over = self.px % self.step_px
        return f"multiples of {self.step_px} px" + f" and {over} px more" * (over > 0)


def sizes_around(takes: Callable[[int], bool], px: int) -> PatchSizes:
    """Return which sizes are taken, by trying some up to `FARTHEST_PX` larger than one that is.

    A step is the smallest whose every double is taken as well: where strides round down, sizes
    just above one that is taken may be so too.

    Args:
        takes: whether patches of a side can be run.
        px: one that can.
    """
    tried = cache(takes)
    others = [step for step in range(3, FARTHEST_PX) if step not in _POWERS]
    for step in (*_POWERS, *others):
        if all(tried(px + step * times) for times in _POWERS if step * times <= FARTHEST_PX):
            return PatchSizes(px=px, step_px=step)
    return PatchSizes(px=px, step_px=0)


def sizes_near(takes: Callable[[int], bool], px: int) -> PatchSizes | None:
    """Return which sizes are taken by what does not take `px`; None: none that is near it.

    Tried are multiples of powers of 2 beside it, then all up to `FARTHEST_PX` away.

    Args:
        takes: whether patches of a side can be run.
        px: one that cannot.
    """
    beside = [px - px % step + more for step in _POWERS[::-1] for more in (0, step)]
    away = [px + sign * step for step in range(1, FARTHEST_PX + 1) for sign in (-1, 1)]
    tried = [size for size in dict.fromkeys([*beside, *away]) if 0 < size != px]
    found = next((size for size in tried if takes(size)), None)
    return None if found is None else sizes_around(takes, found)
