"""Names with room for what is put around them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_ADDED_BYTES = 32  # more than temporaries, locks and leases put around a name


def longest_name_bytes(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return 255


def shortened(name: str, folder: Path) -> str:
    """A name with room for what temporaries, locks and leases add to it; a long one ends in its hash."""
    most = longest_name_bytes(folder) - _ADDED_BYTES
    whole = os.fsencode(name)
    if len(whole) <= most:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:16]
    return f"{whole[: most - 17].decode(errors='ignore')}~{digest}"
