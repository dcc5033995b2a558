"""The state of a training in a file: written after a while, and gone on from as if nothing had happened."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histofast._words import clipped, one_line
from histofast.errors import ModelError
from histofast.learning.files import write_bytes

if TYPE_CHECKING:
    import torch

_SUM_BYTES = 32  # the file begins with the sha256 of the rest
_SHOWN = 200  # characters of what torch says


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers and text; the file is whole or not there.

    Raises:
        WriteError: it cannot be written, or the disk is full.
    """
    import torch

    buffer = io.BytesIO()  # torch reports a full disk as another error
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    write_bytes(path, hashlib.sha256(content).digest() + content)


def take_state(
    path: Path, take: Callable[[dict[str, Any]], None], *, device: torch.device, of: str
) -> str:
    """Hand on what a file holds, if there is one.

    Args:
        path: of the file.
        take: called with what `write_state` was; raises what PyTorch does where that does not fit.
        device: of the tensors.
        of: what it is the state of, "run".

    Returns:
        Why it is of no use, where the file is not as it was written; "" else.

    Raises:
        ModelError: it does not fit.
    """
    import torch

    if not path.is_file():
        return ""
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"{path} cannot be read ({one_line(error)})"
    if hashlib.sha256(content[_SUM_BYTES:]).digest() != content[:_SUM_BYTES]:
        return f"{path} is not as it was written"
    try:
        buffer = io.BytesIO(content[_SUM_BYTES:])
        take(torch.load(buffer, map_location=device, weights_only=True))
    except (
        *(RuntimeError, EOFError, pickle.UnpicklingError),
        *(KeyError, TypeError, ValueError),
    ) as error:
        raise ModelError(
            f"{path} must be the state of this {of}, got {type(error).__name__} "
            f"({clipped(one_line(error), _SHOWN)}): remove it to begin the {of} anew"
        ) from error
    return ""
