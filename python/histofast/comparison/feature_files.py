"""Encoders against encoders, by the feature files they have made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.comparison.result import SimilarityResult
from histofast.errors import FeatureError
from histofast.features import read_features
from histofast.similarity import CkaAccumulator, Comparison, cka_interval, permutation_null

_SAMPLED = 2048  # patches that intervals and nulls are made from: their number changes both little
_LEAST_SLIDES = 5  # to resample: fewer say nothing about slides


def compare_features(
    folders: Sequence[str | Path],
    *,
    intersect: bool = False,
    resamples: int = 1000,
    permutations: int = 99,
    confidence: float = 0.95,
    seed: int = 0,
) -> SimilarityResult:
    """Compare encoders by their feature files: debiased linear CKA of all patches.

    The similarity itself is of all patches; interval (of 5 slides or more) and null are of up to
    2,048 of them, drawn evenly from the slides, so that nothing has to be held in memory.

    Args:
        folders: two or more folders of feature files (searched through), one per encoder; files
            belong together by name.
        intersect: take the slides that all have; else different slides are refused.
        resamples: of the slides, for the interval; 0: none.
        permutations: of the patches, for the null; 0: none.
        confidence: of interval and null.
        seed: of what is drawn.

    Raises:
        FeatureError: a file that cannot be read, or files of one slide with other patches.
        FileNotFoundError: a folder without feature files.
        ValueError: fewer than two folders, other slides.
    """
    if len(folders) < 2:
        raise ValueError(f"folders must be at least 2, got {len(folders)}")
    found = [_feature_files(Path(folder)) for folder in folders]
    shared = set.intersection(*(set(files) for files in found))
    missing = {
        str(f): len(set().union(*found)) - len(files)
        for f, files in zip(folders, found, strict=True)
    }
    if any(missing.values()) and not intersect:
        told = ", ".join(f"{folder} lacks {count}" for folder, count in missing.items() if count)
        raise ValueError(
            f"folders must have the same slides, {told}: take the {len(shared)} that all have "
            "with intersect (--intersect)"
        )
    if not shared:
        raise ValueError("folders must have a slide in common, got none")
    size = len(found)
    sums = {(i, j): CkaAccumulator() for i in range(size) for j in range(i + 1, size)}
    ids = hashlib.sha256()
    n = 0
    rng = np.random.default_rng(seed)
    share = -(-_SAMPLED // len(shared))
    sample: list[list[NDArray[np.float32]]] = [[] for _ in folders]
    slide_of: list[NDArray[np.int64]] = []
    for number, slide in enumerate(sorted(shared)):
        files = [read_features(files[slide], mmap=True) for files in found]
        for file in files[1:]:
            same = len(file.features) == len(files[0].features) and (
                file.coords is None
                or files[0].coords is None
                or np.array_equal(file.coords, files[0].coords)
            )
            if not same:
                raise FeatureError(
                    f"{file.path} must be of the same patches as {files[0].path}, got "
                    f"{len(file.features)} and {len(files[0].features)} on another grid or slide"
                )
        ids.update(f"{slide}:{len(files[0].features)}\n".encode())
        n += len(files[0].features)
        drawn = np.sort(rng.permutation(len(files[0].features))[:share])
        slide_of.append(np.full(len(drawn), number))
        for rows, file in zip(sample, files, strict=True):
            rows.append(np.asarray(file.features[drawn], np.float32))
        for start in range(0, len(files[0].features), 4096):
            blocks = [np.asarray(file.features[start : start + 4096], np.float32) for file in files]
            for (i, j), accumulator in sums.items():
                accumulator.update(blocks[i], blocks[j])
    matrix = np.eye(size)
    for (i, j), accumulator in sums.items():
        matrix[i, j] = matrix[j, i] = accumulator.value()
    names = _names_of([Path(folder) for folder in folders])
    features = [np.concatenate(rows) for rows in sample]
    groups = np.concatenate(slide_of)
    values: dict[str, Any] = {}
    told = f"{len(groups):,} patches, drawn evenly from the slides"
    convention = {
        "features": "as stored, a row per patch",
        "estimator": "debiased, over all patches at once",
        "interval": f"none: fewer than {_LEAST_SLIDES} slides" if resamples else "none",
        "null": "none",
    }
    if resamples and len(shared) >= _LEAST_SLIDES:
        found_intervals = [
            cka_interval(
                features[i],
                features[j],
                groups=groups,
                n_resamples=resamples,
                seed=seed,
                confidence=confidence,
            )
            for i, j in sums
        ]
        values["low"] = np.array([interval.low for interval in found_intervals])
        values["high"] = np.array([interval.high for interval in found_intervals])
        convention["interval"] = f"{confidence:.0%}, {resamples} resamples of slides, on {told}"
    if permutations:
        values["permuted"] = np.array(
            [
                permutation_null(
                    features[i], features[j], n_permutations=permutations, seed=seed
                ).upper(confidence)
                for i, j in sums
            ]
        )
        convention["null"] = f"{permutations} shuffles of {told}"
    return SimilarityResult(
        comparison=Comparison(
            label_a="encoders",
            label_b="encoders",
            names_a=names,
            names_b=names,
            matrix=matrix,
            measure="debiased linear CKA",
            convention=convention,
            n=n,
            groups=len(shared),
            images_sha256=ids.hexdigest(),
            pairs=np.array(list(sums), np.int64),
            confidence=confidence,
            **values,
        )
    )


def _feature_files(folder: Path) -> dict[str, Path]:
    """Return the feature files under a folder, by the name of the slide."""
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.h5"))
    if not files:
        raise FileNotFoundError(f"no feature file (.h5) in {folder}")
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise ValueError(
                f"{folder} must hold one file per slide, got {found[file.stem]} and {file}: name "
                "the folder of one encoder"
            )
        found[file.stem] = file
    return found


def _names_of(folders: Sequence[Path]) -> tuple[str, ...]:
    short = [folder.name.removeprefix("features_") for folder in folders]
    return tuple(short if len(set(short)) == len(short) else map(str, folders))
