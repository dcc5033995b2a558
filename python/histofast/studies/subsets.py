"""A fold in, the same fold with fewer training pictures out: nested, stratified, group by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._words import count
from histofast.datasets import Images
from histofast.learning import Fold

_STREAM = 5  # of random numbers


def train_on_fewer(images: Images, fold: Fold, *, size: int, seed: int) -> Fold:
    """Return a fold that trains on `size` of its training pictures; the other parts stay.

    Groups stand in one order, and the first pictures of it are taken: a smaller subset lies in every larger
    one, and all groups but the last are whole. In the order groups that hold the same labels are spread
    evenly, and so are the labels within a group, so that every beginning has about the shares of the whole.

    Args:
        images: with targets.
        fold: of them.
        size: pictures that train, >= 1.
        seed: of the order, which does not depend on `size`.

    Raises:
        ValueError: more pictures than there are; a subset without a class.

    Determinism: by the seed and the names of the groups.
    """
    if not 1 <= size <= len(fold.train):
        raise ValueError(
            f"sizes must be in 1..{len(fold.train)}, the training pictures of a split, got {size}"
        )
    chosen = np.sort(training_order(images, fold.train, seed=seed)[:size])
    if images.task == "classification":
        counts = np.bincount(images.targets[chosen], minlength=len(images.classes))
        if not counts.all():
            lost = images.classes[int(counts.argmin())]
            raise ValueError(
                f"sizes must leave training pictures of every class, {count(size, 'picture')} have "
                f"none of {lost}: ask for more"
            )
    return replace(fold, train=chosen)


def training_order(images: Images, rows: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return rows in the order that subsets are the beginnings of."""
    members: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        members[images.groups[row]].append(int(row))
    names = sorted(members)
    shuffled = [names[i] for i in np.random.default_rng([_STREAM, seed]).permutation(len(names))]
    labels = {row: _label(images, row) for row in map(int, rows)}
    stratum = {name: frozenset(labels[row] for row in members[name]) for name in names}
    sizes = {name: len(members[name]) for name in names}
    ordered = [
        row for name in _spread(shuffled, stratum, sizes) for row in _within(members[name], labels)
    ]
    return np.array(ordered, np.int64)


def _within(rows: Sequence[int], labels: Mapping[int, Hashable]) -> list[int]:
    return _spread(rows, labels, dict.fromkeys(rows, 1))


def _spread(
    things: Sequence[Any], kinds: Mapping[Any, Hashable], sizes: Mapping[Any, int]
) -> list[Any]:
    """Return things so that those of each kind come evenly: by the middle of each in its kind's row."""
    whole: dict[Hashable, int] = defaultdict(int)
    middle: dict[Any, float] = {}
    for thing in things:
        kind = kinds[thing]
        middle[thing] = whole[kind] + sizes[thing] / 2
        whole[kind] += sizes[thing]
    return sorted(things, key=lambda thing: middle[thing] / whole[kinds[thing]])


def _label(images: Images, row: int) -> Hashable:
    """Return what a picture shows: its class, or those of its labels that are known to be there."""
    target: Any = images.targets[row]
    if images.task == "classification":
        return int(target)
    shown: Iterable[bool] = target == 1
    return tuple(map(bool, shown))
