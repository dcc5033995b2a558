"""A foreign graph as it came, and the proof that the encoder made from it computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.encoders import INPUT, OUTPUT, OpenGraph, sizes_around
from histofast.errors import ModelError
from histofast.graphs.building import offset_and_scale
from histofast.graphs.graph import Graph
from histofast.graphs.images import ImageInput
from histofast.graphs.pooling import pooled
from histofast.graphs.proof import BATCHES, relative_error
from histofast.graphs.sizes import refuse_size
from histofast.graphs.stained import stained_noise
from histofast.graphs.standardising import Standardising


class Original:
    """The foreign graph, run patch by patch on standardised patches; a fixed batch is filled up."""

    def __init__(
        self,
        graph: Graph,
        image: ImageInput,
        tensor: str,
        *,
        wants: Standardising,
    ) -> None:
        self._where = graph.where
        self._image = image
        self._tensor = tensor
        self._graph = graph
        self._opened: OpenGraph | None = None
        self._offset, self._scale = offset_and_scale(*wants.of_rgb)
        self._step = -1 if wants.channels == "bgr" else 1

    def takes(self, patch_px: int) -> bool:
        """Whether it runs on patches of a size."""
        try:
            self.run(stained_noise(1, patch_px))
        except ModelError:
            return False
        return True

    def values(self, patches: NDArray[np.uint8], *, of_any_size: bool) -> NDArray[Any]:
        """Return the tensor for all patches, whose size the graph may refuse where it takes several.

        Raises:
            ModelError: as `run`, or it does, with the nearest sizes that it takes.
        """
        if of_any_size:
            refuse_size(self._where, self.takes, patches.shape[1])
        return self.run(patches)

    def run(self, patches: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the tensor for all patches.

        Raises:
            ModelError: the graph fails, or the tensor's first axis does not count patches.
        """
        x = (patches.astype(np.float32) - self._offset) * self._scale
        x = x[..., :: self._step]
        if self._image.layout == "NCHW":
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        x = x.astype(self._image.dtype)
        batch = self._image.batch or 1
        if self._opened is None:
            self._opened = self._graph.opened([self._tensor])
        found = []
        for i in range(len(x)):
            feed = {self._image.name: np.repeat(x[i : i + 1], batch, axis=0)}
            (values,) = self._opened.run(feed, [self._tensor])
            if values.ndim == 0 or len(values) != batch:
                raise ModelError(
                    f"{self._where}: {self._tensor!r} is of shape {values.shape}, wanted one value "
                    "per patch on the first axis: choose another output"
                )
            found.append(values[:1])
        return np.concatenate(found)

    def rest(self) -> None:
        """Give memory back until it is run again."""
        self._opened = None


def verify(
    path: Path,
    graph: Graph,
    original: Original,
    patches: NDArray[np.uint8],
    wanted: NDArray[np.float64],
    *,
    limit: float,
    shown: Path,
) -> None:
    """Refuse an encoder whose features differ from the original's in batches of 1, 2 and 7.

    Raises:
        ModelError: they do, or depend on the batch, or another size does not go in.
    """
    original.rest()
    part = graph.sibling()
    part.where = str(shown)
    opened = part.opened()
    for n in (n for n in BATCHES if n <= len(patches)):
        told = f"{shown} is not written: "
        try:
            (got,) = opened.run({INPUT: patches[:n]}, [OUTPUT], where=f"a batch of {n} fails")
        except ModelError as error:
            raise ModelError(f"{told}{error}: export {path.name} with a free batch axis") from None
        if got.shape == wanted[:n].shape:
            largest = relative_error(got, wanted[:n])
            off = f"by {largest:.1e} of their norm, wanted at most {limit:.0e}"
        else:
            largest, off = np.inf, f"in shape, {got.shape} instead of {wanted[:n].shape}"
        if largest <= limit:
            continue
        if n == 1:
            raise ModelError(f"{told}its features differ from those of {path.name} {off}")
        first = _first_dependent(graph, patches)
        raise ModelError(
            f"{told}features depend on what else is in the batch"
            f"{f', first in {first!r}' if first else ''} (batch of {n}, they differ {off}): "
            f"export {path.name} with a free batch axis"
        )


def other_sizes(
    path: Path,
    graph: Graph,
    original: Original,
    patch_px: int,
    pool: str,
    *,
    limit: float,
    shown: Path,
) -> int | None:
    """Return the step of the sizes that an encoder takes, or None for any, having tried another.

    Raises:
        ModelError: it is to take others but does not, or differs from the original there.
    """
    sizes = sizes_around(original.takes, patch_px)
    step_px = sizes.step_px
    other_px = -(-patch_px // 64) * 32  # about half of it; networks like multiples of 32
    if step_px > 1:
        other_px = sizes.nearest(other_px)[-1]
    if other_px == patch_px:
        other_px += step_px if step_px > 1 else patch_px
    patches = stained_noise(2, other_px)
    try:
        wanted = pooled(original.run(patches), pool, where=path.name)
        verify(path, graph, original, patches, wanted, limit=limit, shown=shown)
    except ModelError as error:
        raise ModelError(
            f"{path} says that it takes any size, but not {other_px} px ({error}): "
            f"fix it with size_px {patch_px}"
        ) from None
    return step_px if step_px > 1 else None


def _first_dependent(graph: Graph, patches: NDArray[np.uint8]) -> str | None:
    """Return the first tensor that two patches together give otherwise than each alone."""
    dependent = graph.dependent_on(INPUT)
    names = [node.output[0] for node in graph.nodes if node.output[0] in dependent]
    opened = graph.opened(names)
    some = (patches[:1], patches[1:2], patches[:2])
    values = [opened.run({INPUT: pixels}, names, where="the graph") for pixels in some]
    for name, one, other, both in zip(names, *values, strict=True):
        if one.dtype.kind != "f" or one.ndim == 0 or len(one) != 1:
            continue
        wanted = np.concatenate([one, other]).astype(np.float64)
        tolerance = 1e-2 * np.abs(wanted).max()
        if both.shape != wanted.shape or not np.abs(both - wanted).max() <= tolerance:
            return str(name)
    return None
