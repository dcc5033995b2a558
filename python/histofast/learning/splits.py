"""Bags in, folds for cross-validation out: no patient is ever on two sides of one.

Patients, not slides, are dealt: class by class, the rarest first, each to the fold that has the
fewest of its class. So every class is in every test fold as long as it has a patient for each, and
test data choose nothing: validation is taken from the patients that train.

Reference: Sechidis, Tsoumakas, Vlahavas, 2011, On the stratification of multi-label data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from histofast.learning.weighted import Task

Rows = NDArray[np.int64]
Strata = NDArray[np.bool_]  # (patients, strata), which are in which


class Labelled(Protocol):
    """What is dealt: bags or images with targets, and whom each is of; `Bags` is one."""

    @property
    def task(self) -> Task: ...
    @property
    def targets(self) -> NDArray[Any]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> tuple[str, ...]: ...
    @property
    def has_targets(self) -> bool: ...
    def part(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Self: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fold:
    """Which bags train, which choose and which are tested; sorted, no bag or patient in two.

    Attributes:
        train: (b1,) int64 indices of bags.
        validation: (b2,) those that decide when to stop.
        test: (b3,) those that decide nothing.
    """

    train: Rows
    validation: Rows
    test: Rows


def folds(bags: Labelled, *, n: int, seed: int) -> tuple[Fold, ...]:
    """Divide bags into folds, grouped by patient and stratified.

    Strata are the classes, whether there was an event, quantiles of the value, or, of several
    labels, for each those known to have it and those known not to. Every bag is tested once. About one in `n` patients of each stratum that are not tested validates; a stratum
    with a single patient left is kept for training.

    Args:
        bags: with targets. If they have splits, these are the one fold that is returned, and `n`
            only sizes a validation part that they do not name.
        n: number of folds, >= 2.
        seed: of the draw. The order of the bags has no influence.

    Returns:
        `n` folds, or one.

    Raises:
        ValueError: fewer than 2 folds; bags without targets; fewer patients than folds, or so few
            that none is left for validation; a class or event with fewer patients than folds; splits
            that are not given for all bags, lack a part, or divide a patient.

    Determinism: by the seed.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    if not bags.has_targets:
        raise ValueError("bags must have targets to be stratified, got none: open them with labels")
    patients, patient_of = np.unique(np.asarray(bags.groups, dtype=str), return_inverse=True)
    if any(bags.splits):
        return (_as_told(bags, patient_of, n=n, seed=seed),)
    if len(patients) < n:
        raise ValueError(
            f"n must be at most the number of {_whom(bags)}s, {len(patients)}, got {n}"
        )
    strata = _strata(bags, patient_of, n)
    _refuse_rare(bags, strata, n)
    sizes = np.bincount(patient_of)
    fold_of = _deal(strata, sizes, n, np.random.default_rng(seed))
    found = []
    for i in range(n):
        others = np.flatnonzero(fold_of != i)
        validates = _take(bags, patient_of, others, n, np.random.default_rng([seed, i + 1]))
        found.append(_fold(patient_of, fold_of == i, validates))
    return tuple(found)


def unseen_folds(name: str, *, names: Sequence[str], folds: Sequence[Fold]) -> tuple[int, ...]:
    """Return the folds that test a bag of this name, whose models have not seen it; all where none does.

    Args:
        name: of the bag.
        names: of the bags that the folds divide, in order.
        folds: of them.

    Example:
        >>> first, second = np.array([0]), np.array([1])
        >>> both = [Fold(train=b, validation=b, test=a) for a, b in ((first, second), (second, first))]
        >>> unseen_folds("b", names=("a", "b"), folds=both), unseen_folds("c", names=("a", "b"), folds=both)
        ((1,), (0, 1))
    """
    rows = [row for row, each in enumerate(names) if each == name]
    unseen = tuple(i for i, fold in enumerate(folds) if np.isin(rows, fold.test).any())
    return unseen or tuple(range(len(folds)))


def _as_told(bags: Labelled, patient_of: Rows, *, n: int, seed: int) -> Fold:
    splits = np.array(bags.splits)
    unknown = int((splits == "").sum())
    if unknown:
        raise ValueError(f"splits must be given for all bags, got none for {unknown}")
    parts = {}
    for split in ("train", "validation", "test"):
        parts[split] = np.isin(np.arange(patient_of.max() + 1), patient_of[splits == split])
        if split != "validation" and not parts[split].any():
            raise ValueError(f"splits must have bags for {split}, got none")
    divided = np.flatnonzero(sum(part.astype(int) for part in parts.values()) > 1)
    if divided.size:
        first = bags.groups[int(np.flatnonzero(patient_of == divided[0])[0])]
        raise ValueError(
            f"splits must keep a {_whom(bags)}'s bags together, got {divided.size} {_whom(bags)}s in "
            f"several, first {first}"
        )
    validates = parts["validation"]
    if not validates.any():
        rng = np.random.default_rng([seed, 1])
        validates = _take(bags, patient_of, np.flatnonzero(parts["train"]), n, rng)
    return _fold(patient_of, parts["test"], validates)


def _fold(patient_of: Rows, tests: NDArray[np.bool_], validates: NDArray[np.bool_]) -> Fold:
    test, validation = tests[patient_of], validates[patient_of]
    return Fold(
        train=np.flatnonzero(~(test | validation)),
        validation=np.flatnonzero(validation),
        test=np.flatnonzero(test),
    )


def _whom(bags: Labelled) -> str:
    """What is never divided, as messages have it: of bags, patients."""
    kind = str(getattr(bags, "group_kind", "patient"))
    return "picture" if kind == "image" else kind


def _strata(bags: Labelled, patient_of: Rows, n: int) -> Strata:
    """Which patients are in which stratum; those with slides of several classes in several."""
    count = int(patient_of.max()) + 1
    if bags.task == "classification":
        strata = np.zeros((count, len(bags.classes)), np.bool_)
        strata[patient_of, bags.targets] = True
        return strata
    if bags.task == "multilabel":
        known = np.concatenate([bags.targets == 1, bags.targets == 0], axis=1)
        strata = np.zeros((count, known.shape[1]), np.bool_)
        np.logical_or.at(strata, patient_of, known)
        return strata
    if bags.task == "survival":
        event = np.bincount(patient_of, bags.targets[:, 1]) > 0
        return np.stack([~event, event], axis=1)
    return _quantiles(np.bincount(patient_of, bags.targets) / np.bincount(patient_of), n)


def _quantiles(values: NDArray[np.float64], n: int) -> Strata:
    """As many strata of equal size as have at least n values each."""
    count = max(1, len(values) // n)
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.eye(count, dtype=np.bool_)[ranks * count // len(values)]


def _refuse_rare(bags: Labelled, strata: Strata, n: int) -> None:
    counts = strata.sum(axis=0)
    if bags.task == "classification":
        rarest = int(counts.argmin())
        what = f"class {bags.classes[rarest]}"
    elif bags.task == "multilabel":
        rarest = int(counts.argmin())
        label = rarest % len(bags.classes)
        what = f"{'' if rarest < len(bags.classes) else 'no '}{bags.classes[label]}"
    elif bags.task == "survival":
        rarest, what = 1, "event 1"
    else:
        return
    if counts[rarest] < n:
        raise ValueError(
            f"n must be at most the number of {_whom(bags)}s of every class, got {n} for "
            f"{counts[rarest]} with {what}"
        )


def _rarest_first(strata: Strata) -> list[int]:
    counts = strata.sum(axis=0)
    return [int(s) for s in np.argsort(counts, kind="stable") if counts[s]]


def _deal(strata: Strata, sizes: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Give every patient a fold: that with the fewest of its stratum, then with the fewest bags."""
    fold_of = np.full(len(strata), -1)
    shuffled = rng.permutation(len(strata))
    # Those with many slides first: what follows can make up for them.
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    members = np.zeros((n, strata.shape[1]), np.int64)
    load = np.zeros(n, np.int64)
    for stratum in _rarest_first(strata):
        for patient in order[strata[order, stratum]]:
            if fold_of[patient] < 0:
                fold = min(range(n), key=lambda f: (members[f, stratum], load[f], f))
                fold_of[patient] = fold
                members[fold] += strata[patient]
                load[fold] += sizes[patient]
    return fold_of


def _take(
    bags: Labelled, patient_of: Rows, patients: Rows, n: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose one in n of each stratum of `patients`, at least one, but never the last of one."""
    taken = np.zeros(int(patient_of.max()) + 1, np.bool_)
    rows = np.flatnonzero(np.isin(patient_of, patients))
    strata = _strata(bags.part(rows), np.searchsorted(patients, patient_of[rows]), n)
    chosen = np.zeros(len(patients), np.bool_)
    order = rng.permutation(len(patients))
    members, takes = strata.sum(axis=0), np.zeros(strata.shape[1], np.int64)
    for stratum in _rarest_first(strata):
        wanted = max(1, round(members[stratum] / n))
        for patient in order[strata[order, stratum]]:
            if takes[stratum] >= wanted:
                break
            left = members - takes
            if not chosen[patient] and (left[strata[patient]] > 1).all():
                chosen[patient] = True
                takes += strata[patient]
    if not chosen.any():
        raise ValueError(
            f"bags must leave two {_whom(bags)}s of a class for training and validation, got "
            f"{len(patients)} in all for them: more {_whom(bags)}s are needed"
        )
    taken[patients[chosen]] = True
    return taken
