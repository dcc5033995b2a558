"""The command that opens slides in the viewer, for pages that tell of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode


def view_command(
    slides: str | Path | Sequence[str | Path],
    *,
    features: str | Path | None = None,
    run: str | Path | None = None,
    explain: str | Path | None = None,
    at: Mapping[str, object] | None = None,
) -> str:
    """Return how a user looks at slides.

    Args:
        slides: as `histofast view` takes them.
        features, run, explain: its folders.
        at: where the page opens: slide (name), x and y (level-0 px), zoom, patch (row).

    Example:
        >>> view_command("my slides", run="runs/abmil", at={"slide": "s0", "x": 12, "y": 7})
        "histofast view 'my slides' --run runs/abmil --at 'slide=s0&x=12&y=7'"
    """
    paths = [slides] if isinstance(slides, str | Path) else slides
    words = ["histofast", "view", *map(str, paths)]
    for name, value in (("features", features), ("run", run), ("explain", explain)):
        if value is not None:
            words += [f"--{name}", str(value)]
    if at:
        words += ["--at", urlencode(at)]
    return shlex.join(words)
