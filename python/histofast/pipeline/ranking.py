"""A planned slide in, the same with those patches only that are worth the expensive encoder out.

The cheap encoder looks at every patch. Where its patches are the ones that were asked for, their pixels
are kept meanwhile, so that each is decoded once; else, and where they take too much memory, those that
were chosen are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.encoders import CPU, EncoderSet, EncoderSpec, load_all
from histofast.errors import ModelError
from histofast.features import SelectedRows
from histofast.patches import PatchBatch
from histofast.pipeline.holding import Stopped
from histofast.pipeline.options import ExtractOptions, Settled
from histofast.pipeline.selecting import Ranking, Selection, selected_rows
from histofast.pipeline.sources import Looked, Planned, Stream

HELD_BYTES = 1 << 30  # of the pixels of a slide


class Ranker:
    """The cheap encoder, loaded, and what ranks its features. Used by one thread."""

    def __init__(self, selection: Selection, options: Settled, together: EncoderSet) -> None:
        self.selection, self.together = selection, together
        self._place = together.specs.index(_wanted(selection.ranking, together))
        self._batch_size = options.batch_size
        self.looking = replace(options, select=None, **selection.ranking.options)

    @property
    def made_by(self) -> dict[str, Any]:
        """What of the place where it runs its last bits depend on."""
        if self.together.provider == CPU:
            return {"provider": CPU}
        return {"provider": self.together.provider, "batch_size": self._batch_size}

    def choose(
        self, planned: Planned, slide: str, *, is_unwanted: Callable[[], bool]
    ) -> tuple[Planned, list[str]]:
        """Return the patches of a slide that are to be encoded, and what is to be said of all slides.

        Args:
            planned: with all patches, at least one.
            slide: its name.
            is_unwanted: asked between batches.

        Raises:
            Stopped: nobody wants more.
            ModelError: the encoder fails.
        """
        looked = planned.look(self.looking)
        n, side_px = len(planned.coords_l0), looked.patch_px
        held: list[NDArray[np.uint8]] | None = None
        if looked.is_same and n * 3 * side_px**2 <= HELD_BYTES:
            held = []
        features = []
        for batch in looked.stream(None):
            if is_unwanted():
                raise Stopped
            features.append(self.together.encode(batch.pixels)[self._place])
            if len(batch.unreadable_l0):
                held = None  # what cannot be read is told by who reads the patches that are kept
            if held is not None:
                held.append(batch.pixels)
        ranking, folds = self.selection.ranking, self.selection.ranking.folds_of(slide)
        attention = looked.onto(ranking.attention(np.concatenate(features), folds=folds))
        rows, highest = selected_rows(
            attention,
            keep=self.selection.keep,
            keep_random=self.selection.keep_random,
            seed=self.selection.seed,
        )
        pixels = None if held is None else _rows_of(held, rows)
        chosen = replace(
            planned.part(rows),
            selection=SelectedRows(
                rows=rows,
                attention=attention[rows],
                by_attention=highest,
                patches=n,
                told=self._told(folds),
            ),
        )
        if pixels is None:
            return chosen, [_read_twice(looked)]
        return replace(chosen, stream=_held(pixels, chosen.coords_l0, self._batch_size)), []

    def _told(self, folds: tuple[int, ...]) -> dict[str, Any]:
        identity = self.selection.identity
        return {
            **{name: identity[name] for name in ("run", "model", "keep", "keep_random", "seed")},
            "encoder": str(identity["encoder"]["name"]),
            "encoder_sha256": str(identity["encoder"]["sha256"]),
            "folds": ",".join(map(str, folds)),
        }


def ranker_of(options: ExtractOptions, settled: Settled, stack: ExitStack) -> Ranker | None:
    """Load the cheap encoder where patches are chosen; `stack` closes it.

    Raises:
        ModelError: it is none, or another than that of the run.
    """
    if options.select is None:
        return None
    ranking = options.select.ranking
    try:
        together = load_all(ranking.encoder, device=options.device, threads=options.threads)
    except (ModelError, FileNotFoundError, ValueError) as error:
        if ranking.encoder != ranking.made_by["name"]:
            raise
        raise ModelError(
            f"{ranking.encoder}, the encoder of the run that chooses patches, is none of the known "
            "ones: give its file with select_encoder=FILE"
        ) from error
    return Ranker(options.select, settled, stack.enter_context(together))


def _wanted(ranking: Ranking, together: EncoderSet) -> EncoderSpec:
    """Return the one of a file's encoders that the ranking was learnt on."""
    wanted = ranking.made_by
    of_file = [spec for spec in together.specs if spec.sha256 == wanted["sha256"]]
    found = [spec for spec in of_file if len(of_file) == 1 or spec.name == wanted["name"]]
    if not found:
        raise ModelError(
            f"select_encoder must be {wanted['name']} (sha256 {wanted['sha256'][:12]}), which the run that "
            f"chooses patches was trained on, got {together.name} of sha256 "
            f"{together.specs[0].sha256[:12]}: give its file with select_encoder=FILE"
        )
    return found[0]


def _read_twice(looked: Looked) -> str:
    if not looked.is_same:
        return "slides are read twice, for the encoder that chooses takes other patches"
    most = HELD_BYTES // (3 * looked.patch_px**2)
    return (
        f"slides of more than {most:,} patches, whose pixels take more than {HELD_BYTES >> 20} MiB, and such "
        "as have unreadable regions are read twice: all patches, then those that were chosen"
    )


def _rows_of(held: list[NDArray[np.uint8]], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Take rows of batches in order, and let each go when that is done."""
    found = np.empty((len(rows), *held[0].shape[1:]), np.uint8)
    start = 0
    held.reverse()
    while held:
        batch = held.pop()
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        found[low:high] = batch[rows[low:high] - start]
        start += len(batch)
    return found


def _held(pixels: NDArray[np.uint8], coords_l0: NDArray[np.int64], batch_size: int) -> Stream:
    """Return a stream of pixels that are at hand, without unreadable regions."""

    def stream(rows: NDArray[np.int64] | None) -> Iterator[PatchBatch]:
        some, corners = (pixels, coords_l0) if rows is None else (pixels[rows], coords_l0[rows])
        for start in range(0, len(some), batch_size):
            yield PatchBatch(
                pixels=some[start : start + batch_size],
                coords_l0=corners[start : start + batch_size],
                unreadable_l0=np.empty((0, 4), np.int64),
                damaged=np.empty(0, np.int64),
                reason="",
            )

    return stream
