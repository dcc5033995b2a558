"""What needs more memory than there is, refused before the machine is brought to its knees."""

from __future__ import annotations

from histofast._machine import memory_bytes
from histofast.errors import ModelError


def refuse_too_large(what: str, needs_bytes: float, *, remedy: str) -> None:
    """Refuse to begin what needs more memory than this machine, or a limit of its user, has.

    Args:
        what: at the head of the message.
        needs_bytes: at the least; what runs beside it is not known.
        remedy: what to do instead.

    Raises:
        ModelError: it does.
    """
    there_bytes = memory_bytes()
    if there_bytes is not None and needs_bytes > there_bytes:
        raise ModelError(
            f"{what} needs {needs_bytes / 1e9:.1f} GB of memory, this process may use "
            f"{there_bytes / 1e9:.1f} GB: {remedy}"
        )
