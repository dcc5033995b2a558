"""What was found of channels, as a page: each picture beside the real ones that excite its channel most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._words import count
from histofast.explain.channels.look import STRONGEST, Look, Side
from histofast.explain.channels.search import Stage
from histofast.explain.channels.words import findings, limits
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Grid,
    Panel,
    Point,
    Series,
    Table,
    Tile,
    number,
)

_BINS = 24
_LARGE = 3  # tiles that a picture found is wide and high; as many real ones are beside it


def answer_of(look: Look, *, command: str = "") -> Answer:
    """Return the page; `command` makes it again."""
    networks = " and ".join(side.name for side in look.sides)
    drawn = count(len(look.names), "picture")
    return Answer(
        name="channels",
        title=f"What channels of {look.layer} look for",
        question=f"Which pictures excite single channels of {look.network}, with the weights of "
        f"{networks}?",
        basis=f"{drawn} of {look.of:,} in {Path(look.images).name}, {look.options.px} px; "
        f"{count(len(look.channels), 'channel')} of {look.sides[0].real.channels:,}",
        findings=findings(look),
        limits=limits(look),
        figures=tuple(_figures(look)),
        tables=(_channels(look), _strongest(look), _layer(look)),
        commands=(("Show these channels again", command),) if command else (),
        method=_method(look),
    )


def _method(look: Look) -> dict[str, str]:
    options = look.options
    h, w = look.sides[0].real.side
    priors = {
        "own": "magnitudes of frequencies, mean and covariance of colours (in optical density) of the "
        "real pictures; only phases are searched",
        "published": "Fourier coefficients of colours that are uncorrelated in photographs, as Lucid has "
        "them",
    }
    method = {
        "networks": "; ".join(f"{s.name}: {look.network}, {s.weights}" for s in look.sides),
        "layer": f"{look.layer}, {count(look.sides[0].real.channels, 'channel')}, maps of {h} x {w}",
        "excitation": "mean of a channel's map over its places",
        "dead": "a channel whose map holds one value at all places of all real pictures; it is counted "
        "over all channels of the layer, and no picture is searched for it",
        "real_pictures": f"{len(look.names):,} of {look.of:,} in {look.images}, drawn at random; the "
        f"largest centred square of each, resampled to {options.px} px where it is of another size",
        "prior": f"{options.prior}: {priors[options.prior]}",
        "search": "; then ".join(_stage(stage) for stage in options.stages)
        + "; where a ReLU silences the whole channel, by what goes into that",
        "seed": str(options.seed),
    }
    return method | ({"left_out": "; ".join(look.notes)} if look.notes else {})


def _stage(stage: Stage) -> str:
    drawn = stage.transforms
    parts = [f"{stage.steps:,} steps of Adam, rate {stage.lr:g}", f"pad {drawn.pad_px} px"]
    parts.append(f"shift up to {drawn.first_px} px")
    if len(drawn.scales) > 1:
        parts.append(f"scale {min(drawn.scales):g} to {max(drawn.scales):g}")
    parts.append(f"turn up to {max(drawn.angles_deg):g} degrees")
    parts.append(f"shift up to {drawn.second_px} px")
    if stage.variation:
        parts.append(f"less {stage.variation:g} times the total variation")
    return ", ".join(parts)


# --- Figures -----------------------------------------------------------------------------------


def _figures(look: Look) -> Iterator[Figure]:
    for k, channel in enumerate(look.channels):
        panels: list[Panel] = [
            _grid(look, side, channel, picture, side.values[k])
            for side in look.sides
            if (picture := side.found[k]) is not None
        ]
        if panels:
            panels += [_histogram(side, channel) for side in look.sides]
            yield Figure(
                name=f"channel-{channel}", panels=tuple(panels), title=f"Channel {channel}"
            )


def _grid(look: Look, side: Side, channel: int, picture: NDArray[np.uint8], value: float) -> Grid:
    rows = side.strongest(channel)
    real = side.real.means[rows, channel]
    told = f"channel {channel} of {side.name}"
    return Grid(
        title=f"Channel {channel}, {side.name}",
        caption=f"Left: the picture found, {number(value)}. Right: the {STRONGEST} real pictures that "
        f"excite it most, {number(real[0])} to {number(real[-1])}.",
        alt=f"A picture found for {told}, beside the {STRONGEST} real pictures that excite it most. The "
        "table of channels has the numbers.",
        tiles=(
            Tile(pixels=picture, row=0, column=0, side=_LARGE, tip=f"found: {number(value)}"),
            *(
                Tile(
                    pixels=look.pixels[row],
                    row=place // _LARGE,
                    column=_LARGE + place % _LARGE,
                    tip=f"{look.names[row]}: {number(real[place])}",
                )
                for place, row in enumerate(rows.tolist())
            ),
        ),
    )


def _histogram(side: Side, channel: int) -> Chart:
    values = side.real.means[:, channel]
    edges = np.histogram_bin_edges(values, bins=_BINS)
    counts, _ = np.histogram(values, edges)
    shares = np.append(counts / len(values), 0.0)
    return Chart(
        title=f"Channel {channel} over the real pictures",
        caption=f"How many of them excite it how much, in {side.name}.",
        alt=f"Histogram of what the real pictures do to channel {channel} of {side.name}.",
        places=Axis(label="mean of the channel's map"),
        values=Axis(label="share of pictures", form="share", low=0.0),
        series=(
            Series(
                name="",
                line="steps",
                mark="none",
                points=tuple(
                    Point(place=float(edge), value=float(share))
                    for edge, share in zip(edges, shares, strict=True)
                ),
            ),
        ),
    )


# --- Tables ------------------------------------------------------------------------------------


def _channels(look: Look) -> Table:
    r = look.together() if len(look.sides) == 2 else None
    columns = (
        Column(title="channel", names=("channel",)),
        Column(title="network", names=("network",)),
        Column(title="picture found", names=("found",), form="number", missing="dead"),
        Column(title="strongest real one", names=("strongest",), form="number"),
        Column(title="mean of real ones", names=("mean",), form="number"),
        Column(title="found, in SD above that", names=("sd_above",), form="rate", missing="dead"),
        Column(title="r with the other network", names=("r",), form="number"),
    )
    rows = [
        _row(side, channel, k, float("nan") if r is None else float(r[channel]))
        for k, channel in enumerate(look.channels)
        for side in look.sides
    ]
    n = len(columns) - (r is None)
    return Table(
        name="channels",
        title="What excites each channel",
        caption="Values are means of the channel's map over its places; those of two channels are on no "
        "common scale. SD is that of the real pictures.",
        columns=columns[:n],
        rows=tuple(row[:n] for row in rows),
    )


def _row(side: Side, channel: int, k: int, r: float) -> tuple[Cell, ...]:
    means = side.real.means[:, channel]
    mean, spread = float(means.mean()), float(means.std())
    found = None if side.found[k] is None else side.values[k]
    above = None if found is None else (found - mean) / spread if spread else float("nan")
    return (f"{channel}", side.name, found, float(means.max()), mean, above, r)


def _strongest(look: Look) -> Table:
    """Return the real pictures that are shown, for the CSV."""
    titles = ("channel", "network", "rank", "file", "group", "value")
    return Table(
        name="strongest",
        columns=tuple(Column(title=title, names=(title,)) for title in titles),
        rows=tuple(
            (
                f"{channel}",
                side.name,
                f"{rank}",
                look.names[row],
                look.groups[row],
                float(side.real.means[row, channel]),
            )
            for channel in look.channels
            for side in look.sides
            for rank, row in enumerate(side.strongest(channel).tolist(), start=1)
        ),
        shown=0,
    )


def _layer(look: Look) -> Table:
    """Return all channels of the layer, for the CSV."""
    r = look.together() if len(look.sides) == 2 else None
    titles = ("channel", "network", "dead", "mean", "sd", "strongest", "r")
    rows = tuple(
        (
            f"{channel}",
            side.name,
            f"{int(side.real.dead[channel])}",
            float(means[channel]),
            float(spreads[channel]),
            float(most[channel]),
            None if r is None else float(r[channel]),
        )
        for side in look.sides
        for means, spreads, most in [
            (side.real.means.mean(0), side.real.means.std(0), side.real.means.max(0))
        ]
        for channel in range(side.real.channels)
    )
    return Table(
        name="layer",
        columns=tuple(Column(title=title, names=(title,)) for title in titles),
        rows=rows,
        shown=0,
    )
