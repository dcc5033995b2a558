"""What channels of a network look for: pictures that excite them, beside the real ones that do.

    weights, real pictures --excitations--> (n, c) of all channels, dead ones
      real pictures --looks_of--> magnitudes of frequencies, colours --search--> a picture for each channel
      Look --answer_of--> a page

A picture that a search finds is no tissue. None is shown without the real pictures that excite its channel most:
they say what the channel answers to here, it says what else it would.
"""

from __future__ import annotations

from histofast.explain.channels.answers import answer_of
from histofast.explain.channels.exciting import Excitation, Excitations, excitations
from histofast.explain.channels.look import Look, Options, Side
from histofast.explain.channels.looks import Looks, looks_of
from histofast.explain.channels.priors import Phases, Searched, Spectrum, total_variation
from histofast.explain.channels.search import (
    OWN,
    PUBLISHED,
    Prior,
    Stage,
    schedule_of,
    search,
    step,
)
from histofast.explain.channels.showing import show
from histofast.explain.channels.transforms import LIGHT, STANDARD, Transforms, Window, drawn, seen
from histofast.explain.channels.words import findings

__all__ = [
    "LIGHT",
    "OWN",
    "PUBLISHED",
    "STANDARD",
    "Excitation",
    "Excitations",
    "Look",
    "Looks",
    "Options",
    "Phases",
    "Prior",
    "Searched",
    "Side",
    "Spectrum",
    "Stage",
    "Transforms",
    "Window",
    "answer_of",
    "drawn",
    "excitations",
    "findings",
    "looks_of",
    "schedule_of",
    "search",
    "seen",
    "show",
    "step",
    "total_variation",
]


def __dir__() -> list[str]:
    return __all__
