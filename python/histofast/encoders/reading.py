"""What encoder files say of themselves, checked: the specs of one encoder or of all in a file."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from histofast._files import path_of, regular_file
from histofast._words import listed
from histofast.encoders.beside import identity_of
from histofast.encoders.checking import check_not_empty
from histofast.encoders.form import Form, Value, form_of, read_form, shown
from histofast.encoders.opening import open_file
from histofast.encoders.spec import (
    CUTS,
    INPUT,
    MOST_PX,
    OUTPUT,
    EncoderMetadata,
    EncoderSpec,
    cuts_from_props,
    refuse_cuts,
)
from histofast.encoders.tissue_file import TISSUE_FORMAT
from histofast.errors import ModelError

_WANTED = f"the pixel-in form ('{INPUT}' uint8 (n, h, w, 3))"
_REMEDY = (
    "wrap it with `histofast models add`, or export it from its network with "
    "`histofast models export`"
)


def read_spec(path: str | os.PathLike[str]) -> EncoderSpec:
    """Return what an encoder file says of itself, having checked that it is in the pixel-in form.

    Nothing is opened by ONNX Runtime and no weight is read, but for the checksum.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it is no encoder in the pixel-in form, or a file of cuts.
    """
    path = path_of("path", path)
    form = _form(path)
    return one_spec(form, path, *identity_of(path))[0]


def read_specs(path: str | os.PathLike[str]) -> tuple[EncoderSpec, ...]:
    """Return what each encoder of a file says of itself: of a file of cuts all, else the one.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it is not in the pixel-in form.
    """
    path = path_of("path", path)
    return all_specs(_form(path), path, *identity_of(path))


def _form(path: Path) -> Form:
    check_not_empty(regular_file(path, kind="encoder file", error=ModelError))
    form = read_form(path)
    if all(output.shape and isinstance(output.shape[-1], int) for output in form.outputs):
        return form
    return form_of(open_file(path, kind="cpu", gpu=0).session)  # it finds what is not stated


def one_spec(form: Form, path: Path, sha256: str, size_bytes: int) -> tuple[EncoderSpec, ...]:
    """Return the spec of the one encoder that a file is.

    Raises:
        ModelError: it is none in the pixel-in form, or several.
    """
    if TISSUE_FORMAT in form.props:
        raise ModelError(f"{path} is a network of tissue, wanted an encoder: {_REMEDY}")
    height_px, width_px = _checked_input(form, path)
    refuse_cuts(form.props, where=str(path))
    if len(form.outputs) != 1:
        names = listed([f"'{shown(output.name)}'" for output in form.outputs])
        raise ModelError(
            f"{path} has {len(form.outputs)} outputs ({names}), wanted the one '{OUTPUT}': "
            f"{_REMEDY}"
        )
    (output,) = form.outputs
    if output.name != OUTPUT or not _is_features(output):
        raise ModelError(f"{path} has output {output}, not '{OUTPUT}' float32 (n, d): {_REMEDY}")
    metadata = EncoderMetadata.from_props(form.props, where=str(path))
    width = output.shape[1]
    if metadata.d != width:
        raise ModelError(
            f"{path} says d = {metadata.d} but its output has {width} features: export it again"
        )
    spec = EncoderSpec(
        **asdict(metadata),
        path=path,
        sha256=sha256,
        size_bytes=size_bytes,
        height_px=height_px,
        width_px=width_px,
    )
    return (spec,)


def all_specs(form: Form, path: Path, sha256: str, size_bytes: int) -> tuple[EncoderSpec, ...]:
    """Return the specs of all encoders of a file.

    Raises:
        ModelError: it is not in the pixel-in form, or its outputs are not the cuts it lists.
    """
    if CUTS not in form.props:
        return one_spec(form, path, sha256, size_bytes)
    height_px, width_px = _checked_input(form, path)
    encoders = cuts_from_props(form.props, where=str(path))
    widths = {o.name: o.shape[1] for o in form.outputs if _is_features(o)}
    if len(form.outputs) != len(encoders) or widths != {o: e.d for o, e in encoders.items()}:
        names = listed([str(output) for output in form.outputs])
        wanted = listed([f"'{shown(o)}' float32 (n, {e.d})" for o, e in encoders.items()])
        raise ModelError(f"{path} has outputs {names}, but says {wanted}: export it again")
    return tuple(
        EncoderSpec(
            **asdict(metadata),
            path=path,
            sha256=sha256,
            size_bytes=size_bytes,
            height_px=height_px,
            width_px=width_px,
            output=output,
            is_cut=True,
        )
        for output, metadata in encoders.items()
    )


def _checked_input(form: Form, path: Path) -> tuple[int | None, int | None]:
    """Return the height and the width that a file is fixed to, having checked its input."""
    if len(form.inputs) != 1:
        names = listed([f"'{shown(given.name)}'" for given in form.inputs]) or "none"
        raise ModelError(
            f"{path} has {len(form.inputs)} inputs ({names}), not {_WANTED}: {_REMEDY}"
        )
    (given,) = form.inputs
    n, h, w, c = given.shape if len(given.shape) == 4 else (0, 0, 0, 0)
    if given.name != INPUT or given.dtype != "uint8" or c != 3:
        raise ModelError(f"{path} has input {given}, not {_WANTED}: {_REMEDY}")
    if isinstance(n, int):
        raise ModelError(f"{path} has a fixed batch of {n}, input {given}: {_REMEDY}")
    sides = [side if isinstance(side, int) else None for side in (h, w)]
    if any(side is not None and not 1 <= side <= MOST_PX for side in sides):
        raise ModelError(f"{path} has input {given}, wanted sides of 1..{MOST_PX} px: {_REMEDY}")
    return sides[0], sides[1]


def _is_features(output: Value) -> bool:
    shape = output.shape
    return output.dtype == "float32" and len(shape) == 2 and isinstance(shape[1], int)
