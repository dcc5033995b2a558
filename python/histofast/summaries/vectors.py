"""One vector of each slide: mean, maximum or both of the features of its patches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._files import check_target, path_of, replacing
from histofast._notes import noted
from histofast._stopping import stop_if_asked
from histofast._tables import csv_text
from histofast._words import count, counted
from histofast.errors import FeatureError
from histofast.features import (
    FeatureFile,
    list_features,
    open_features,
    options_of,
    shared_options,
    write_vectors,
)

Pooling = Literal["mean", "max", "mean+max"]
POOLINGS = get_args(Pooling)

OnCount = Callable[[int, int], None]  # done, in all


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideVectors:
    """One vector of each slide.

    Attributes:
        names: (b) of the slides, sorted.
        vectors: (b, k) float32; of "mean+max" the means come first, k is twice as many.
        n_patches: (b) that each is of.
        pooling: how.
        options: with which the features were made, as far as their files tell.
        notes: what was left out, a line each.
    """

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    n_patches: tuple[int, ...]
    pooling: Pooling
    options: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """(k) names of the numbers: `mean_0`, `mean_1` ..., `max_0` ..."""
        ways = self.pooling.split("+")
        each = self.vectors.shape[1] // len(ways)
        return tuple(f"{way}_{i}" for way in ways for i in range(each))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a table (`.csv`), or `features`, `slides` and `n_patches` (`.h5`).

        Raises:
            FileExistsError: it exists and `overwrite` is False.
            ValueError: another suffix.
            WriteError: it cannot be written.
        """
        path = check_vectors_out(path, overwrite=overwrite)
        if path.suffix == ".csv":
            with replacing(path, overwrite=overwrite) as pending:
                pending.write_text(self.to_csv(), encoding="utf-8", newline="")
            return
        known = {name: self.options.get(f"encoder.{name}") for name in ("name", "sha256")}
        told = {f"encoder_{name}": str(text) for name, text in known.items() if text}
        write_vectors(
            path,
            self.vectors,
            slides=self.names,
            n_patches=self.n_patches,
            told={"pooling": self.pooling, **told},
            overwrite=overwrite,
        )

    def to_csv(self) -> str:
        """Return slide, n_patches and the numbers, as short as float32 needs."""
        rows = zip(self.names, self.n_patches, self.vectors, strict=True)
        lines = ([name, n, *(f"{value:.9g}" for value in row)] for name, n, row in rows)
        return csv_text([("slide", "n_patches", *self.columns), *lines])


def check_vectors_out(path: object, *, overwrite: bool) -> Path:
    """Return where vectors are to be written, before the work.

    Raises:
        FileExistsError: it exists and `overwrite` is False.
        TypeError, ValueError: no path, or of a file of another kind.
    """
    out = path_of("out", path)
    if out.suffix not in (".csv", ".h5"):
        raise ValueError(f"out must end in .csv or .h5, got {out}")
    check_target(out, overwrite=overwrite)
    return out


def pool(chunks: Iterable[NDArray[np.floating]], pooling: Pooling = "mean") -> NDArray[np.float32]:
    """Return the vector of one slide, whose features come in chunks.

    Args:
        chunks: (n_i, d) floating point, one after the other; at least one row in all.
        pooling: "mean", "max", or "mean+max", the two behind each other.

    Returns:
        (d,) float32, or (2 d,).

    Raises:
        ValueError: no such pooling, no row, NaN or infinity.

    Determinism: sums are of float64, of a chunk and then of chunks.

    Example:
        >>> pool([np.array([[1.0, 4.0], [3.0, 0.0]])], "mean+max").tolist()
        [2.0, 2.0, 3.0, 4.0]
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    n, total, most = 0, np.float64(0), None
    for chunk in chunks:
        if not len(chunk):
            continue
        highest = chunk.max(axis=0).astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinities of both signs
            n, total = n + len(chunk), total + chunk.sum(axis=0, dtype=np.float64)
        most = highest if most is None else np.maximum(most, highest)
    if most is None:
        raise ValueError("features must have a row, got none")
    found = {"mean": total / n, "max": most}
    vector = np.concatenate([found[way] for way in pooling.split("+")])
    # A sum of finite numbers is finite: NaN and infinity of any row are in it.
    if not np.isfinite(total).all():
        raise ValueError("features must be finite, got NaN or infinity")
    return vector.astype(np.float32)


@noted
def slide_vectors(
    features: str | Path | Sequence[str | Path],
    *,
    pooling: Pooling = "mean",
    on_progress: OnCount | None = None,
) -> SlideVectors:
    """Return one vector of each slide from feature files, in memory that does not grow with a file.

    Slides without a patch have no vector: they are left out, and told.

    Args:
        features: folder of feature files (of TRIDENT, CLAM and STAMP too), or files and folders.
        pooling: "mean", "max" or "mean+max".
        on_progress: called with the files that are done, and all.

    Raises:
        FeatureError: a file that cannot be read or holds NaN, files made with other options or of other
            widths.
        FileNotFoundError: no such file, or none in the folder.
        ValueError: no such pooling, two files of one name, no slide with a patch.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    files, notes = list_features(features)
    refuse_same_names(files)
    vectors, n_patches, names, empty, made = [], [], [], [], []
    for done, path in enumerate(files, start=1):
        stop_if_asked()
        file = open_features(path)
        made.append((path, {**options_of(file), "d": file.features.shape[1]}))
        if len(file.features):
            vectors.append(_pooled(file, pooling))
            n_patches.append(len(file.features))
            names.append(path.stem)
        else:
            empty.append(path.stem)
        if on_progress is not None:
            on_progress(done, len(files))
    options = shared_options(made)
    if not names:
        raise ValueError(
            f"features must have a slide with patches, got {count(len(empty), 'empty one')}"
        )
    if empty:
        notes.append(f"left out, without a patch: {counted(empty)}")
    return SlideVectors(
        names=tuple(names),
        vectors=np.stack(vectors),
        n_patches=tuple(n_patches),
        pooling=pooling,
        options=options,
        notes=tuple(notes),
    )


def refuse_same_names(files: Sequence[Path]) -> None:
    """Refuse two files of one slide.

    Raises:
        ValueError: there are.
    """
    seen: dict[str, Path] = {}
    for path in files:
        if path.stem in seen:
            raise ValueError(
                f"features must be one file of each slide, got {seen[path.stem]} and {path}: name the "
                "folder of one encoder"
            )
        seen[path.stem] = path


def _pooled(file: FeatureFile, pooling: Pooling) -> NDArray[np.float32]:
    try:
        return pool(file.iter_chunks(), pooling)
    except ValueError as error:
        raise FeatureError(f"{file.path}: {error}: extract its features again") from None
