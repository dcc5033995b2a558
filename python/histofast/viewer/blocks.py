"""Decoded blocks of pixels that are kept while there is room, each made once however many ask for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, ...]  # begins with the number of its owner, see `Blocks.drop`
_EMPTY_BYTES = 256  # that a block without pixels counts


class Abandoned(Exception):  # no error: nobody waits for the work any more
    """Raised by work that nobody waits for any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Pixels of one tile of a level, or of one zoom.

    Attributes:
        pixels: (h, w, 3) uint8; None where they cannot be decoded.
        unreadable: (level, column, row) of the tiles of the slide that are missing in it.
        reason: why the first of them is; "" where none is.
    """

    pixels: NDArray[np.uint8] | None
    unreadable: frozenset[tuple[int, int, int]] = frozenset()
    reason: str = ""

    @property
    def n_bytes(self) -> int:
        return _EMPTY_BYTES + (0 if self.pixels is None else self.pixels.nbytes)


class Blocks:
    """Blocks by key: at most `most_bytes` of them, those that were used last. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[Key, Block] = OrderedDict()
        self._making: dict[Key, Future[Block]] = {}
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Block]) -> Block:
        """Return a block that is kept or being made, else make it.

        Raises:
            Exception: what `make` raises, also to those who waited for it; who waited for what was
                abandoned makes it.
        """
        while True:
            with self._lock:
                if (block := self._kept.get(key)) is not None:
                    self._kept.move_to_end(key)
                    return block
                making = self._making.get(key)
                if making is None:
                    own = self._making[key] = Future[Block]()
            if making is None:
                return self._make(key, make, own)
            try:
                return making.result()
            except Abandoned:
                continue

    def _make(self, key: Key, make: Callable[[], Block], own: Future[Block]) -> Block:
        try:
            block = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            own.set_exception(error)
            raise
        with self._lock:
            del self._making[key]
            self._keep(key, block)
        own.set_result(block)
        return block

    def _keep(self, key: Key, block: Block) -> None:
        self._kept[key] = block
        self.n_bytes += block.n_bytes
        while self.n_bytes > self.most_bytes:
            self.n_bytes -= self._kept.popitem(last=False)[1].n_bytes

    def drop(self, owner: int) -> None:
        """Let go of all blocks of an owner."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                self.n_bytes -= self._kept.pop(key).n_bytes
