"""What is resampled and shuffled of a pair of layers, with the arrays of NumPy or of a GPU.

Everything here is operators and methods that NumPy, torch and CuPy share.
"""

from __future__ import annotations

from typing import Any


def resampled(x: Any, y: Any, *, drawn: Any, same: Any, groups: int) -> list[Any]:
    """Return the sums of x y, x x and y y over the pairs of images that resamples draw.

    Args:
        x, y: (n, n) float64 centred Grams.
        drawn: (r, n) float64, how often each of r resamples draws the group of each image.
        same: (n, n) float64, 1 where two images are of one group.
        groups: how many there are in all.

    Returns:
        Three arrays (r,). Pairs across two draws of one group do not count. Pairs within a draw
        count 1 - 1 / groups, as pairs of two groups do on average: so all pairs have the weights
        here that they have in the similarity itself.
    """
    rest = drawn * (1 - 1 / groups) - drawn * drawn
    return [
        ((drawn @ product) * drawn).sum(1) + rest @ (product * same).sum(1)
        for product in (x * y, x * x, y * y)
    ]


def shuffled(x: Any, y: Any, orders: Any) -> Any:
    """Return (p,) sums of x times y with its images in other orders.

    Args:
        x, y: (n, n) float64 centred Grams.
        orders: (p, n) int64 permutations.
    """
    reordered = y[orders[:, :, None], orders[:, None, :]]
    return reordered.reshape(orders.shape[0], x.shape[0] ** 2) @ x.reshape(-1)
