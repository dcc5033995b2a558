"""A network of tissue opened: tiles of pixels in, their masks out."""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._machine import ONNX_RUNTIME, check_device
from histofast._notes import log_of
from histofast.encoders import runtime
from histofast.encoders.opening import open_file
from histofast.encoders.spec import INPUT
from histofast.encoders.tissue_file import TISSUE, TissueSpec
from histofast.errors import ModelError

_log = log_of(__name__)


class TissueNetwork:
    """A session of a network of tissue. On the CPU each tile is run alone, by one thread.

    Attributes:
        spec: of its file.
        device: where it runs: "cpu", "cuda:0" ...
    """

    def __init__(self, spec: TissueSpec, *, device: str = "auto") -> None:
        """Open it; see `encoders.load` for `device`.

        Raises:
            ModelError: ONNX Runtime refuses the file, or the device does not work.
            ValueError: no such device.
        """
        kind, index = check_device(device, ONNX_RUNTIME)
        opened = open_file(spec.path, kind=kind, gpu=index or 0)
        self.spec, self.device = spec, opened.device
        self._session = opened.session
        self._is_on_cpu = self._session.get_providers()[0] == runtime.CPU
        _log.debug("network of tissue %s runs on %s", spec.name, self.device)
        if opened.note:
            is_news = not self._is_on_cpu or runtime.driver_gpu_count()
            _log.log(logging.WARNING if is_news else logging.INFO, "%s: %s", spec.name, opened.note)

    def run(self, tiles: NDArray[np.uint8], *, workers: Executor) -> NDArray[np.uint8]:
        """Return the masks of tiles.

        Args:
            tiles: (n, tile_px, tile_px, 3) uint8 RGB, C-contiguous.
            workers: threads that run them.

        Returns:
            (n, tile_px / cell_px, tile_px / cell_px) uint8, 1 is tissue.

        Raises:
            ModelError: the network fails, or gives something else than its file says.
            TypeError, ValueError: tiles of another type or shape.

        Determinism: bitwise on the CPU, whatever the threads.
        """
        side_px = self.spec.tile_px
        (n,) = check("tiles", tiles, "uint8", ("n", side_px, side_px, 3))
        if self._is_on_cpu:
            found = list(workers.map(self._run, (tiles[i : i + 1] for i in range(n))))
        else:
            found = [self._run(tiles)]
        return np.concatenate(found)

    def _run(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        told = runtime.run_options(graph=None, waits=True)
        try:
            masks = self._session.run([TISSUE], {INPUT: tiles}, told)[0]
        except runtime.runtime_errors() as error:
            raise ModelError(
                f"network of tissue {self.spec.name} failed on a tile of {self.spec.tile_px} px: "
                f"{runtime.first_line(error)}"
            ) from None
        side = self.spec.tile_px // self.spec.cell_px
        if masks.shape != (len(tiles), side, side) or masks.dtype != np.uint8:
            raise ModelError(
                f"network of tissue {self.spec.name} gave masks of {masks.dtype} {masks.shape}, but says "
                f"uint8 {(len(tiles), side, side)}: wrap it again"
            )
        found: NDArray[np.uint8] = np.minimum(masks, 1)
        return found


@lru_cache(maxsize=1)
def opened_network(spec: TissueSpec, device: str) -> TissueNetwork:
    """Return the network of a file, opened; the last one stays open, for the next slide.

    Raises:
        What `TissueNetwork` raises.
    """
    return TissueNetwork(spec, device=device)
