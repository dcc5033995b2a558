"""What features of a pretrained network are reused for: the study that joins the parts of `explain`.

Reference: Graziani, Andrearczyk, Müller, 2019, Visualizing and interpreting feature reuse of pretrained CNNs
for histopathology, IMVIP.
"""

from __future__ import annotations

from histofast.studies.reuse.found import Changed, MapWorth, ReuseFound, Told, found_of, worths_of
from histofast.studies.reuse.kept import Kept, keep, read_kept
from histofast.studies.reuse.study import Reuse, last_of_scales
from histofast.studies.reuse.words import describe_reuse, limits_of

__all__ = [
    "Changed",
    "Kept",
    "MapWorth",
    "Reuse",
    "ReuseFound",
    "Told",
    "describe_reuse",
    "found_of",
    "keep",
    "last_of_scales",
    "limits_of",
    "read_kept",
    "worths_of",
]


def __dir__() -> list[str]:
    return __all__
