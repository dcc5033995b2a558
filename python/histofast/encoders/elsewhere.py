"""Published models that people ask for by name and that are not built here: why, and what to do instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ElsewhereEntry:
    """A model that its own package runs. `patches_by`: of a model of slides, whose features it takes."""

    name: str
    why: str
    patches_by: str | None = None

    @property
    def told(self) -> str:
        """One line: that it is not built here, why, and the remedy."""
        if self.patches_by is not None:
            return (
                f"{self.name} is a model of slides, not an encoder of patches ({self.why}): extract features with "
                f"{self.patches_by}, and give them to its own package"
            )
        return (
            f"{self.name} is not built here ({self.why}): let its own package write an ONNX file of its image tower, "
            "and bring that with `histofast models add`"
        )


def elsewhere_of(known: Mapping[str, ElsewhereEntry], name: str) -> ElsewhereEntry | None:
    """Return the entry of a name in any case, with any of `-_.` or none; None where there is none."""
    return {_spelt(key): entry for key, entry in known.items()}.get(_spelt(name))


def _spelt(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.lower())
