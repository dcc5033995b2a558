"""Encoders against encoders, by the feature files they have made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._progress import shows
from histofast._words import counted
from histofast.comparison.options import check_one_of
from histofast.comparison.result import SimilarityResult
from histofast.errors import FeatureError
from histofast.features import (
    FeatureFile,
    FoundFeatures,
    find_features,
    open_features,
    options_of,
    shared_options,
)
from histofast.learning import LEAST_GROUPS
from histofast.similarity import (
    MEASURES,
    Comparison,
    Measure,
    interval_of,
    names_of,
    null_of,
    way_of,
)

_NAMED = 20  # slides that are left out, in words

Sample = list[NDArray[np.float32]]  # (n, d) rows of each encoder, the same patches in all
Pairs = Iterator[tuple[int, int]]  # of encoders
OnCount = Callable[[int, int], None]  # done, in all


@shows("comparing features")
def compare_features(
    folders: Sequence[str | Path],
    *,
    measure: str = "cka",
    intersect: bool = False,
    n: int = 2048,
    resamples: int = 1000,
    permutations: int = 99,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool | None = None,
    on_progress: OnCount | None = None,
) -> SimilarityResult:
    """Compare encoders by their feature files: a measure of the same patches of all slides.

    Patches are drawn evenly from the slides, so that a large slide says no more than a small one;
    slides without a patch are left out, and named in the convention.
    Similarity, interval and null are of these same patches.

    Args:
        folders: two or more folders of feature files (searched through), one per encoder; files
            belong together by name.
        measure: of similarity, by its name in `histofast.similarity.MEASURES`: debiased linear CKA, or
            another of features. "cca", "svcca", "pwcca" and "procrustes" need n well above the widths of
            two encoders; "pwcca" differs by direction, and is of the row's encoder.
        intersect: take the slides that all have; else different slides are refused.
        n: patches to draw, about; all where there are fewer.
        resamples: of the slides, for the interval; 0: none. Fewer than 5 slides give none. Measures that
            cannot be resampled leave out a slide at a time (`similarity.interval_of`).
        permutations: of the patches, for the null; 0: none.
        confidence: of interval and null.
        seed: of what is drawn.
        progress: show it as a line of text: True, False; None: in a notebook, unless `on_progress` hears it.
        on_progress: called with the numbers of pairs of encoders that are done, and of all; similarity,
            interval and null count each.

    Raises:
        FeatureError: a file that cannot be read, files of one slide with other patches or of one
            folder with other options, or no slide that has a patch.
        FileNotFoundError: a folder without feature files.
        ValueError: fewer than two folders, other slides, an n below 4, no such measure; as the measure.
    """
    if len(folders) < 2:
        raise ValueError(f"folders must be at least 2, got {len(folders)}")
    if n < 4:
        raise ValueError(f"n must be at least 4, got {n}")
    check_one_of("measure", measure, names_of("rows", "pooled rows"))
    entry = MEASURES[measure]
    listed, passed_over = _slides_of(folders, intersect=intersect)
    slides, empty = _with_patches(listed)
    features, slide_of, total, ids = _drawn(slides, n=n, seed=seed)
    size = len(folders)
    pairs = np.array([(i, j) for i in range(size) for j in range(i + 1, size)], np.int64)
    n_resamples = resamples if len(slides) >= LEAST_GROUPS else 0
    turns = _counted(pairs, 1 + (n_resamples > 0) + (permutations > 0), on_progress)
    matrix = _matrix(entry, features, next(turns))
    names = _names_of([Path(folder) for folder in folders])
    drawing: dict[str, Any] = {"confidence": confidence, "seed": seed}
    values = _interval(
        entry, features, turns, groups=slide_of, n_resamples=n_resamples, **drawing
    ) | _null(entry, features, turns, permutations=permutations, **drawing)
    few = f": {LEAST_GROUPS} slides are needed, these are {len(slides)}" if resamples else ""
    return SimilarityResult(
        comparison=Comparison(
            label_a="encoders",
            label_b="encoders",
            names_a=names,
            names_b=names,
            matrix=matrix,
            measure=entry.title,
            convention=_convention(
                entry,
                patches=f"{len(slide_of):,} of {total:,}, drawn evenly from the slides",
                interval=way_of(entry, n_resamples=resamples, confidence=confidence)
                if "low" in values
                else f"none{few}",
                null=f"{permutations} shuffles of the patches" if permutations else "none",
                empty=empty,
                passed_over=passed_over,
            ),
            n=len(slide_of),
            groups=len(slides),
            images_sha256=ids,
            pairs=pairs,
            confidence=confidence,
            **values,
        )
    )


def _matrix(measure: Measure, features: Sample, pairs: Pairs) -> NDArray[np.float64]:
    matrix = np.eye(len(features))
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = measure.function(features[i], features[j])
        if "exchange" not in measure.unchanged_by:
            matrix[j, i] = measure.function(features[j], features[i])
    return matrix


def _convention(
    measure: Measure, *, patches: str, interval: str, null: str, empty: str, passed_over: str
) -> dict[str, str]:
    left_out = {"left out": f"slides without a patch: {empty}"} if empty else {}
    if passed_over:
        left_out["beside the features"] = passed_over
    return {
        "formula": measure.formula,
        "reference": measure.reference,
        "features": "as stored, a row per patch",
        "patches": patches,
        "estimator": "over these patches at once",
        "interval": interval,
        "null": null,
        **left_out,
    }


def _slides_of(folders: Sequence[str | Path], *, intersect: bool) -> tuple[list[list[Path]], str]:
    """Return the files of each slide, one per encoder, by the slides' names, and what lay beside them."""
    looked = [_feature_files(Path(folder)) for folder in folders]
    found = [files for files, _ in looked]
    told = [
        f"{folder}: {note}"
        for folder, (_, notes) in zip(folders, looked, strict=True)
        for note in notes
    ]
    shared = set.intersection(*(set(files) for files in found))
    every = set().union(*found)
    missing = {str(f): len(every) - len(files) for f, files in zip(folders, found, strict=True)}
    if any(missing.values()) and not intersect:
        lacking = ", ".join(f"{folder} lacks {count}" for folder, count in missing.items() if count)
        raise ValueError(
            f"folders must have the same slides, {lacking}: take the {len(shared)} that all have "
            "with intersect=True"
        )
    if not shared:
        raise ValueError("folders must have a slide in common, got none")
    return [[files[slide] for files in found] for slide in sorted(shared)], "; ".join(told)


def _with_patches(slides: Sequence[Sequence[Path]]) -> tuple[list[Sequence[Path]], str]:
    """Look at the files of all slides; return those with patches, and in words which have none."""
    made: list[list[tuple[Path, dict[str, Any]]]] = [[] for _ in slides[0]]  # of each encoder
    found, empty = [], []
    for paths in slides:
        # Maps that are kept would hold a file descriptor for every file.
        files = [open_features(path) for path in paths]
        for told, file in zip(made, files, strict=True):
            told.append((file.path, options_of(file)))
        for file in files[1:]:
            _refuse_other_patches(file, files[0])
        if len(files[0].features):
            found.append(paths)
        else:
            empty.append(paths[0].stem)
    for told in made:
        shared_options(told)
    if not found:
        raise FeatureError(
            f"slides must have patches, got none in all {counted(empty)}: was no tissue found?"
        )
    return found, counted(empty, most=_NAMED) if empty else ""


def _drawn(
    slides: Sequence[Sequence[Path]], *, n: int, seed: int
) -> tuple[Sample, NDArray[np.int64], int, str]:
    """Return the features drawn, the slide of each, how many there are, and a hash of which."""
    rng = np.random.default_rng(seed)
    ids = hashlib.sha256()
    share = -(-n // len(slides))
    rows: list[list[NDArray[np.float32]]] = [[] for _ in slides[0]]
    sizes = []
    total = 0
    for paths in slides:
        files = [open_features(path) for path in paths]
        count = len(files[0].features)
        chosen = np.sort(rng.permutation(count)[:share])
        ids.update(f"{paths[0].stem}:{count}\n".encode() + chosen.astype("<i8").tobytes())
        for kept, file in zip(rows, files, strict=True):
            kept.append(np.asarray(file.features[chosen], np.float32))
        sizes.append(len(chosen))
        total += count
    slide_of = np.repeat(np.arange(len(slides)), sizes)
    return [np.concatenate(kept) for kept in rows], slide_of, total, ids.hexdigest()


def _refuse_other_patches(file: FeatureFile, first: FeatureFile) -> None:
    same = len(file.features) == len(first.features) and (
        file.coords is None or first.coords is None or np.array_equal(file.coords, first.coords)
    )
    if not same:
        raise FeatureError(
            f"{file.path} must be of the same patches as {first.path}, got "
            f"{len(file.features)} and {len(first.features)} on another grid or slide"
        )


def _counted(pairs: NDArray[np.int64], turns: int, on_progress: OnCount | None) -> Iterator[Pairs]:
    """Yield the pairs as often as they are gone through; each that is done is told."""

    def told(turn: int) -> Pairs:
        for k, (i, j) in enumerate(pairs.tolist()):
            yield i, j
            if on_progress is not None:
                on_progress(turn * len(pairs) + k + 1, turns * len(pairs))

    for turn in range(turns):
        yield told(turn)


def _interval(
    measure: Measure, features: Sample, turns: Iterator[Pairs], *, n_resamples: int, **options: Any
) -> dict[str, Any]:
    if not n_resamples:
        return {}
    found = [
        interval_of(measure, features[i], features[j], n_resamples=n_resamples, **options)
        for i, j in next(turns)
    ]
    return {
        "low": np.array([interval.low for interval in found]),
        "high": np.array([interval.high for interval in found]),
    }


def _null(
    measure: Measure,
    features: Sample,
    turns: Iterator[Pairs],
    *,
    permutations: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    if not permutations:
        return {}
    found = [
        null_of(measure, features[i], features[j], n_permutations=permutations, seed=seed)
        for i, j in next(turns)
    ]
    return {
        "permuted": np.array([null.upper(confidence) for null in found]),
        "permuted_p": np.array([null.p_value for null in found]),
    }


def _feature_files(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the feature files under a folder, by the name of the slide, and notes on others."""
    looked = FoundFeatures(files=(folder,)) if folder.is_file() else find_features(folder)
    files = looked.files
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise ValueError(
                f"{folder} must hold one file per slide, got {found[file.stem]} and {file}: name "
                "the folder of one encoder"
            )
        found[file.stem] = file
    return found, looked.notes


def _names_of(folders: Sequence[Path]) -> tuple[str, ...]:
    short = [folder.name.removeprefix("features_") for folder in folders]
    return tuple(short if len(set(short)) == len(short) else map(str, folders))
