"""Whether a file can be an ONNX file at all, before anything makes room for it."""

from __future__ import annotations

import io
from pathlib import Path

from histofast._files import refuse_stand_in
from histofast.encoders.protobuf import BrokenMessageError
from histofast.encoders.soundness import Outside, UnsoundError, check_sound
from histofast.errors import ModelError


def check_not_empty(path: Path) -> None:
    """Refuse a file of no bytes, and what a download may have left in its place.

    Raises:
        ModelError: it is one.
    """
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: copy or export it again")
    refuse_stand_in(path, error=ModelError)


def check_model(
    model: Path | bytes, *, where: str | None = None, external: bool = False
) -> list[Outside]:
    """Refuse what is no ONNX file, or claims what it has not, before anything makes room for it.

    Args:
        model: path of a file that is there, or its bytes.
        where: what to call it in messages; None: its path.
        external: its weights may lie in other files.

    Returns:
        The tensors that do, unchecked against those files.

    Raises:
        ModelError: it is no ONNX file, or not a sound one.
    """
    where = where or str(model)
    try:
        with io.BytesIO(model) if isinstance(model, bytes) else model.open("rb") as file:
            size_bytes = file.seek(0, io.SEEK_END)
            return check_sound(file, size_bytes, external=external)
    except BrokenMessageError:
        raise no_onnx(where) from None
    except UnsoundError as error:
        raise ModelError(f"{where} cannot be used, {error}: export it again") from None


def no_onnx(where: str) -> ModelError:
    """Return what is raised for a file that is none of ONNX."""
    return ModelError(f"{where} is not an ONNX file, or is truncated: copy or export it again")
