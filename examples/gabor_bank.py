"""The filters that a `gabor:SEED` start takes its first convolution from, as a picture.

    python examples/gabor_bank.py docs/gabor-bank.png

Grey is no weight; in each filter the largest weight is the brightest or darkest.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from histofast.networks.starts import GaborFilter, gabor_bank

PX = 7  # the first convolution of a ResNet or a DenseNet
TITLES = ("light", "red against green", "blue against yellow")
PHASES = {0.0: "bar", math.pi / 2: "edge"}
INK = "#222222"
SIDE_IN, GAP_IN = 0.4, 0.35  # of a filter; between colour axes
LEFT_IN, ABOVE_IN, BELOW_IN = 1.25, 0.8, 0.65


def as_pixels(weights: np.ndarray) -> np.ndarray:
    """(3, h, w) weights of -m..m as (h, w, 3) of 0..1; 0 is middle grey."""
    return (0.5 + weights / (2 * np.abs(weights).max())).transpose(1, 2, 0)


def of_colour(bank: tuple[GaborFilter, ...], colour: tuple[float, ...]) -> list[GaborFilter]:
    """The filters of a colour axis, in the order of rows: wavelength, phase, then angle."""
    chosen = [one for one in bank if one.colour == colour]
    return sorted(chosen, key=lambda one: (one.wave_px, one.phase, one.angle))


def draw(px: int = PX) -> Figure:
    """A block for each colour axis: angles to the right, wavelengths and phases downwards."""
    bank = gabor_bank(px)
    colours = list(dict.fromkeys(one.colour for one in bank))
    angles = sorted({one.angle for one in bank})
    rows = list(dict.fromkeys((one.wave_px, one.phase) for one in of_colour(bank, colours[0])))
    w, h = len(angles) * SIDE_IN, len(rows) * SIDE_IN
    width = LEFT_IN + len(colours) * (w + GAP_IN)
    height = BELOW_IN + h + ABOVE_IN
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    for k, (colour, title) in enumerate(zip(colours, TITLES, strict=True)):
        left = LEFT_IN + k * (w + GAP_IN)
        axes = figure.add_axes((left / width, BELOW_IN / height, w / width, h / height))
        filters = [as_pixels(one.weights) for one in of_colour(bank, colour)]
        # A pixel of white between two filters.
        cells = [np.pad(f, ((0, 1), (0, 1), (0, 0)), constant_values=1.0) for f in filters]
        lines = [np.hstack(cells[i : i + len(angles)]) for i in range(0, len(cells), len(angles))]
        axes.imshow(np.vstack(lines), interpolation="none", aspect="auto")
        axes.set_title(title, fontsize=10, color=INK)
        middles = np.arange(len(angles)) * (px + 1) + (px - 1) / 2
        axes.set_xticks(middles, [f"{math.degrees(a):g}°" for a in angles], fontsize=8)
        axes.set_xlabel("angle of the wave", fontsize=9, color=INK)
        middles = np.arange(len(rows)) * (px + 1) + (px - 1) / 2
        names = [f"{wave:g} px, {PHASES[phase]}" for wave, phase in rows] if k == 0 else []
        axes.set_yticks(middles if names else [], names, fontsize=8)
        axes.set_ylabel("" if k else "wavelength, phase", fontsize=9, color=INK)
        axes.tick_params(length=0, colors=INK)
        axes.spines[:].set_visible(False)
    figure.text(
        LEFT_IN / width,
        1 - 0.35 / height,
        f"Gabor bank: {len(angles)} angles, {len(rows)} wavelengths and phases, "
        f"{len(colours)} colour axes; {len(bank)} filters of {px} x {px} px",
        fontsize=11,
        color=INK,
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    # Without the version of matplotlib the same picture is the same bytes.
    draw().savefig(options.out, dpi=100, metadata={"Software": None})
    print(f"{options.out}: {len(gabor_bank(PX))} filters")


if __name__ == "__main__":
    main()
