"""A look at labelled images as an answer: its words, tables, charts and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from histofast._words import count, joined
from histofast.datasets.copies import ALIKE, NEAR_LEVELS, PRINT_PX
from histofast.datasets.looks import Copy, Look, Share
from histofast.datasets.words import groups_word, kind_of, size_of
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Panel,
    Picture,
    Point,
    Series,
    Table,
    strip,
)

Thumbs = tuple[NDArray[np.uint8], ...]

_MOST_CELLS = 40  # splits and classes that are drawn
_MOST_ROWS = 200  # of a table on the page
_APART = 0.22  # of channels that are drawn beside each other
_CHANNELS = (("red", 1), ("green", 2), ("blue", 0))  # and the number of a colour like it


def answer_of(
    look: Look, *, sheet: Mapping[tuple[str, str], Thumbs], pairs: Sequence[Thumbs]
) -> Answer:
    """Return all of a look for a page and a folder.

    Args:
        look: what to show.
        sheet: some pictures of each split and class, squares of one size.
        pairs: the two pictures of each of the first copies.
    """
    return Answer(
        name="look",
        title=f"A look at {look.source_name}",
        question="What is in this set, and can a test on it be trusted?",
        basis=_basis(look),
        findings=look.findings,
        figures=tuple(_figures(look, sheet, pairs)),
        tables=(_copies(look), _counts(look), _forms(look), _unreadable(look)),
        method=_method(look),
        data=look.to_dict(),
    )


def _basis(look: Look) -> str:
    what = (
        count(len(look.classes), "label")
        if look.task == "multilabel"
        else count(len(look.classes), "class", "classes")
    )
    of = f" of {count(look.groups, look.group_kind)}" if look.group_kind != "image" else ""
    return f"{count(look.images, 'picture')}{of}" + (f", {what}" if look.classes else "")


def _method(look: Look) -> dict[str, str]:
    return {
        "copies": "the same sha256 of the file, whatever its name",
        "near copies": (
            f"largest centred squares averaged to {PRINT_PX} x {PRINT_PX} px that differ by at most "
            f"{NEAR_LEVELS} of 255 levels in the mean and correlate by at least {ALIKE}, under any of the "
            "eight turns and mirrorings of a square"
        ),
        "searched": f"{look.searched:,} pictures, each against all others; {look.flat:,} without structure "
        f"left out, {look.contents - look.searched - look.flat:,} not reached",
        "not found": (
            "crops of one picture, other angles, changed colours, neighbouring fields of one slide; "
            "patients under two names"
        ),
        "colours": "means of the pictures; spread is their standard deviation between pictures",
        "groups": (
            "not told: pictures count as groups"
            if look.group_kind == "image"
            else f"{look.group_kind}s; none is on two sides of a split"
            if look.is_split
            else f"{look.group_kind}s"
        ),
        **{f"note {k}": note for k, note in enumerate(look.notes, 1)},
    }


# --- Tables ------------------------------------------------------------------------------------


def _counts(look: Look) -> Table:
    return Table(
        name="counts",
        title="How many, and of which colour",
        caption="Colours are means of whole pictures, 0 to 255, and their spread between pictures.",
        columns=(
            Column(title="split and class"),
            Column(title="", names=("split",)),
            Column(title="", names=("label",)),
            Column(title="pictures", names=("images",), form="whole"),
            Column(
                title="" if look.group_kind == "image" else f"{look.group_kind}s",
                names=("groups",),
                form="whole",
            ),
            *(
                column
                for name, _ in _CHANNELS
                for column in (
                    Column(
                        title=name, names=(f"mean_{name[0]}",), form="whole", missing="— not read"
                    ),
                    Column(title="", names=(f"sd_{name[0]}",), form="number"),
                    Column(title="spread", form="text", under=True),
                )
            ),
        ),
        rows=tuple(_row_of_counts(share) for share in look.shares),
        shown=_MOST_ROWS,
    )


def _row_of_counts(share: Share) -> tuple[Cell, ...]:
    cells: list[Cell] = [_name(share), share.split, share.label, share.images, share.groups]
    for k in range(3):
        if share.mean_rgb is None or share.sd_rgb is None:
            cells += [None, None, ""]
        else:
            cells += [share.mean_rgb[k], share.sd_rgb[k], f"± {share.sd_rgb[k]:.0f}"]
    return tuple(cells)


def _name(share: Share) -> str:
    return ": ".join(filter(None, (share.split, share.label))) or "all"


def _forms(look: Look) -> Table:
    return Table(
        name="forms",
        title="Sizes and files",
        caption="Training wants squares of one size: cut them with dataset standardise, or have the training "
        "resample them."
        if len({(form.width_px, form.height_px) for form in look.forms}) > 1
        else "",
        columns=(
            Column(title="size"),
            Column(title="", names=("width_px",), form="whole"),
            Column(title="", names=("height_px",), form="whole"),
            Column(title="file"),
            Column(title="", names=("format",)),
            Column(title="", names=("mode",)),
            Column(title="", names=("bits",), form="whole"),
            Column(title="um per px", names=("mpp",), form="number", missing="— not told"),
            Column(title="pictures", names=("images",), form="whole"),
            Column(title="classes" if look.classes else "", names=("classes",)),
        ),
        rows=tuple(
            (
                size_of(form),
                form.width_px,
                form.height_px,
                kind_of(form),
                form.format,
                form.mode,
                form.bits,
                form.mpp,
                form.images,
                joined([f"{name} ({n:,})" for name, n in form.labels.items()]),
            )
            for form in look.forms
        ),
        shown=_MOST_ROWS,
    )


def _copies(look: Look) -> Table:
    named = ("kind", "turn", "a", "b", "split_a", "split_b", "label_a", "label_b")
    return Table(
        name="copies",
        title="There twice",
        caption="Pairs on two sides, or under two labels, come first.",
        columns=(
            Column(title="one"),
            Column(title="what is told of it", under=True),
            Column(title="other"),
            Column(title="what is told of it", under=True),
            Column(title="copy"),
            Column(title="what is wrong"),
            *(Column(title="", names=(name,)) for name in (*named, "group_a", "group_b")),
            Column(title="", names=("leak",), form="whole"),
            Column(title="", names=("labels_differ",), form="whole"),
        ),
        rows=tuple(_row_of_copy(look, copy) for copy in look.copies),
        highlighted=frozenset(k for k, copy in enumerate(look.copies) if copy.is_conflict),
        shown=_MOST_ROWS,
    )


def _row_of_copy(look: Look, copy: Copy) -> tuple[Cell, ...]:
    def told(k: int) -> str:
        group = "" if look.group_kind == "image" else f"{look.group_kind} {copy.groups[k]}"
        return ", ".join(filter(None, (copy.splits[k], copy.labels[k], group)))

    sides = (
        "two sides"
        if look.is_split
        else "a split could part them"
        if look.group_kind == "image"
        else f"two {groups_word(look)}"
    )
    wrong = [sides] * copy.is_leak
    wrong += ["two labels"] * copy.is_conflict
    how = "byte for byte" if copy.kind == "same" else "nearly equal"
    return (
        *(copy.a, told(0), copy.b, told(1)),
        ", ".join(filter(None, (how, copy.turn))),
        ", ".join(wrong) or "counts twice",
        *(copy.kind, copy.turn, copy.a, copy.b, *copy.splits, *copy.labels, *copy.groups),
        *(int(copy.is_leak), int(copy.is_conflict)),
    )


def _unreadable(look: Look) -> Table:
    return Table(
        name="unreadable",
        title="Not readable",
        caption="Training leaves these out, and says so.",
        columns=(Column(title="picture", names=("file",)), Column(title="why", names=("reason",))),
        rows=look.unreadable,
        shown=_MOST_ROWS,
    )


# --- Figures -----------------------------------------------------------------------------------


def _figures(
    look: Look, sheet: Mapping[tuple[str, str], Thumbs], pairs: Sequence[Thumbs]
) -> Iterator[Figure]:
    shares = look.shares[:_MOST_CELLS]
    more = len(look.shares) - len(shares)
    left_out = f" The first {_MOST_CELLS} rows of the table below; {more} more are in it." * bool(
        more
    )
    if pairs:
        yield Figure(name="pairs", panels=(_pairs(look, pairs),))
    panels: list[Panel] = [
        _row(share, sheet[share.split, share.label])
        for share in shares
        if sheet[share.split, share.label]
    ]
    yield Figure(name="counts", panels=(_bars(look, shares, left_out),))
    if panels:
        yield Figure(name="colours", panels=(_colours(shares, left_out),))
    if panels:
        yield Figure(name="sheet", panels=tuple(panels), title="Drawn at random", stacked=True)


def _pairs(look: Look, pairs: Sequence[Thumbs]) -> Picture:
    first = "The pair" if len(look.copies) == 1 else f"The first {len(pairs)} pairs"
    return Picture(
        pixels=np.concatenate([strip([pair[k] for pair in pairs]) for k in (0, 1)]),
        title="Copies, one below the other",
        caption=f"{first} of the table of copies, as they lie in their files.",
        alt="Two rows of pictures, a pair in each column: "
        + "; ".join(f"{copy.a} and {copy.b}" for copy in look.copies[: len(pairs)]),
    )


def _row(share: Share, thumbs: Thumbs) -> Picture:
    told = f"{len(thumbs)} of {count(share.images, 'picture')}"
    return Picture(
        pixels=strip(thumbs),
        title=_name(share),
        caption=f"{told}, drawn at random.",
        alt=f"{told} of {_name(share)}",
    )


def _bars(look: Look, shares: Sequence[Share], left_out: str) -> Chart:
    parts = list(dict.fromkeys(share.split for share in shares))
    return Chart(
        title="Pictures of each class",
        caption=f"Behind the bars: how many, and of how many {groups_word(look)}.{left_out}"
        if look.group_kind != "image"
        else left_out.strip(),
        alt="Bars: pictures of each split and class. The table of counts has the numbers.",
        places=Axis(names=tuple(_name(share) for share in shares)),
        values=Axis(label="pictures", form="whole", low=0.0),
        sideways=True,
        series=tuple(
            Series(
                name=part,
                look=look_number,
                mark="bar",
                points=tuple(
                    Point(
                        place=k,
                        value=share.images,
                        note=_behind(look, share),
                        tip=f"{_name(share)}: {count(share.images, 'picture')}",
                    )
                    for k, share in enumerate(shares)
                    if share.split == part
                ),
            )
            for look_number, part in enumerate(parts)
        ),
    )


def _behind(look: Look, share: Share) -> str:
    of = "" if look.group_kind == "image" else f" / {share.groups:,}"
    return f"{share.images:,}{of}"


def _colours(shares: Sequence[Share], left_out: str) -> Chart:
    return Chart(
        title="Mean colour, and its spread",
        caption="Points: mean of the pictures' means. Bars: one standard deviation between pictures to "
        f"both sides. Where classes or splits are far apart, look for stain and scanner.{left_out}",
        alt="Mean red, green and blue of each split and class, with their spread. The table of counts "
        "has the numbers.",
        places=Axis(names=tuple(_name(share) for share in shares)),
        values=Axis(label="mean of a channel, 0 to 255"),
        sideways=True,
        interval="one standard deviation",
        series=tuple(
            Series(
                name=channel,
                look=look_number,
                line="none",
                points=tuple(
                    _colour(k + (number - 1) * _APART, share, number)
                    for k, share in enumerate(shares)
                    if share.mean_rgb is not None
                ),
            )
            for number, (channel, look_number) in enumerate(_CHANNELS)
        ),
    )


def _colour(place: float, share: Share, channel: int) -> Point:
    assert share.mean_rgb is not None
    assert share.sd_rgb is not None
    mean, sd = share.mean_rgb[channel], share.sd_rgb[channel]
    return Point(
        place=place,
        value=mean,
        low=mean - sd,
        high=mean + sd,
        tip=f"{_name(share)}: {_CHANNELS[channel][0]} {mean:.0f} ± {sd:.0f}",
    )
