"""A look at labelled images in sentences; the same numbers give the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from histofast._words import count, joined, listed

if TYPE_CHECKING:
    from histofast.datasets.looks import Copy, Form, Look

_TELLING = 5  # pictures of one form and one class that a network could tell by it
_MOST_TOLD = 6  # classes in a sentence


def findings_of(look: Look) -> Iterator[str]:
    """Yield what matters most, a sentence or two each."""
    yield _on_counts(look)
    if look.unreadable:
        yield (
            f"{count(len(look.unreadable), 'picture')} cannot be read: "
            f"{listed([name for name, _ in look.unreadable])}."
        )
    yield from _on_copies(look)
    if look.searched + look.flat < look.contents:
        yield (
            f"Near copies were looked for among {look.searched:,} of {look.contents:,} pictures only: "
            "too many look alike to compare all pairs."
        )
    yield from _on_forms(look)
    if look.group_kind == "image":
        yield (
            "Neither patients nor slides are told. Pictures of one patient may be on both sides of a "
            "split, and nothing on this page could show it: tell them in a column patient or slide."
        )


def _on_counts(look: Look) -> str:
    of_class: dict[str, int] = {}
    for share in look.shares:
        of_class[share.label] = of_class.get(share.label, 0) + share.images
    known = [f"{label} ({n:,})" for label, n in of_class.items() if label]
    parts = [name for name in ("train", "validation", "test") if _images(look, name)]
    text = count(look.images, "picture")
    if known:
        text += f": {joined(known) if len(known) <= _MOST_TOLD else listed(known, most=_MOST_TOLD)}"
    if not look.is_split:
        return f"{text}. No split is told."
    if look.task == "multilabel":
        return f"{text}. Split into {joined(parts)}."
    return f"{text}. {joined([f'{_images(look, part):,} {part}' for part in parts])}."


def _images(look: Look, part: str) -> int:
    return sum(share.images for share in look.shares if share.split == part)


def _on_copies(look: Look) -> Iterator[str]:
    leaks = [copy for copy in look.copies if copy.is_leak]
    if leaks and look.is_split:
        yield (
            f"{_told(leaks)} {_are(leaks)} on two sides of the split: what is tested on was trained on, "
            "or chosen by."
        )
    elif leaks:
        where = "" if look.group_kind == "image" else f" {_are(leaks)} of two {groups_word(look)}"
        yield f"{_told(leaks)}{where}: a split could part them, and test on what was trained on."
    conflicts = [copy for copy in look.copies if copy.is_conflict]
    if conflicts:
        yield f"{_told(conflicts)} {_are(conflicts)} under two labels: at least one is wrong."
    rest = [copy for copy in look.copies if not copy.is_leak and not copy.is_conflict]
    if rest:
        yield f"{_told(rest)} {_are(rest)} on one side and under one label: it counts twice."
    if not look.copies:
        yield "No picture is there twice, not as a file nor nearly, turned or mirrored."
    if look.copies_found > len(look.copies):
        yield (
            f"{look.copies_found:,} pairs of copies were found, more than are told apart here: "
            f"the first {len(look.copies):,} are."
        )


def groups_word(look: Look) -> str:
    """Return what groups are, more than one."""
    return "pictures" if look.group_kind == "image" else f"{look.group_kind}s"


def _told(copies: Sequence[Copy]) -> str:
    same = sum(copy.kind == "same" for copy in copies)
    near = len(copies) - same
    how = f"{same:,} byte for byte, {near:,} nearly" if same and near else ""
    how = how or ("byte for byte" if same else "nearly equal")
    return f"{count(len(copies), 'pair of copies', 'pairs of copies')} ({how})"


def _are(copies: Sequence[Copy]) -> str:
    return "is" if len(copies) == 1 else "are"


def _on_forms(look: Look) -> Iterator[str]:
    """Say which forms give a class away."""
    if look.task != "classification" or len(look.classes) < 2 or len(look.forms) < 2:
        return
    told = [
        f"all {form.images:,} pictures of {size_of(form)} ({kind_of(form)}) are of class {next(iter(form.labels))}"
        for form in look.forms
        if len(form.labels) == 1 and form.images >= _TELLING
    ]
    if told:
        more = f", and {len(told) - 3} more such forms" if len(told) > 3 else ""
        text = f"{joined(told[:3])}{more}: a network can tell them by size or file, not by tissue."
        yield text[0].upper() + text[1:]


def size_of(form: Form) -> str:
    """Return the size of pictures."""
    return f"{form.width_px} x {form.height_px} px"


def kind_of(form: Form) -> str:
    """Return the kind of their files."""
    return f"{form.format}, {form.mode}, {form.bits} bit"
