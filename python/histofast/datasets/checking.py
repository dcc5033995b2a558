"""Images in, nothing out: sets that no training could use, or whose test would tell nothing, are refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histofast._tables import alike
from histofast._words import count, counted, listed
from histofast.datasets.images import Images


def refuse_untrainable(images: Images) -> None:
    """Refuse images that cannot be trained on and tested.

    Raises:
        ValueError: one class only, classes that differ in case only or are one number, a class or label of one group,
            or that no group to train on has.
    """
    if images.task == "classification" and len(images.classes) < 2:
        raise ValueError(
            f"{images.path} must have at least two classes, got only {images.classes[0]} of "
            f"{count(len(images), 'picture')}: add pictures of another, or name their labels with "
            "label_column"
        )
    _refuse_alike(images)
    for value, has in _sides(images):
        single = [
            name
            for name, rows in zip(images.classes, has, strict=True)
            if len({images.groups[i] for i in rows}) < 2
        ]
        if single:
            groups = "pictures" if images.group_kind == "image" else f"{images.group_kind}s"
            remedy = "" if images.group_kind == "image" else ", or tell groups with group_column"
            raise ValueError(
                f"{images.path} must have two {groups} or more {value} every class, got fewer "
                f"{value} {listed(single)}: it cannot train and be tested; remove the class{remedy}"
            )
    _refuse_unlearned(images)


def _refuse_alike(images: Images) -> None:
    if (two := alike(images.classes)) is not None:
        raise ValueError(
            f"{images.path} must have classes of different names, got {two}: write them in one way"
        )


def _sides(images: Images) -> list[tuple[str, list[NDArray[np.int64]]]]:
    """Rows that have each class; and for several labels, rows that are known not to have it."""
    if images.task == "classification":
        numbers = range(len(images.classes))
        return [("of", [np.flatnonzero(images.targets == number) for number in numbers])]
    columns = images.targets.T
    return [
        ("with", [np.flatnonzero(column == 1) for column in columns]),
        ("without", [np.flatnonzero(column == 0) for column in columns]),
    ]


def _refuse_unlearned(images: Images) -> None:
    splits = np.array(images.splits)
    if not (splits == "train").any():
        return
    _, has = _sides(images)[0]
    unlearned = [
        name
        for name, rows in zip(images.classes, has, strict=True)
        if not (splits[rows] == "train").any()
    ]
    if unlearned:
        raise ValueError(
            f"{images.path} must have pictures of every class to train on, got none of "
            f"{listed(unlearned)}: remove the class, or move some into the split train"
        )


def refuse_leaks(images: Images) -> None:
    """Refuse splits that some images lack, or that divide a group.

    Raises:
        ValueError: they do.
    """
    if not any(images.splits):
        return
    lacking = [name for name, split in zip(images.names, images.splits, strict=True) if not split]
    if lacking:
        raise ValueError(
            f"{images.path} must have a split for all pictures or for none, got none for "
            f"{counted(lacking)}"
        )
    splits_of: dict[str, set[str]] = {}
    for group, split in zip(images.groups, images.splits, strict=True):
        splits_of.setdefault(group, set()).add(split)
    leaking = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if leaking:
        raise ValueError(
            f"{images.path} must have each {images.group_kind} in one split, got several for "
            f"{counted(leaking)}: mend the splits, or remove them so that groups are dealt"
        )
