"""How feature files are laid out, and where they lie.

Three layouts, of which neighbouring tools read one each; ours is in all of them:

| layout | features | coords | beside it |
|---|---|---|---|
| trident | `features` float32 or float16 | `coords` int64, level-0 px | |
| clam | `features` float32 | `coords` int32, level-0 px | `../pt_files/<slide>.pt`, float32 |
| stamp | `feats` float16 | `coords` float32, um | |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from histofast._files import path_of
from histofast._numbers import real_number, whole_number

Layout = Literal["trident", "clam", "stamp"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """How a layout names and types its datasets; the first feature dtype is the default."""

    features: str
    feature_dtypes: tuple[str, ...]
    coords_dtype: str


STORAGE: Mapping[str, Storage] = {
    "trident": Storage(
        features="features", feature_dtypes=("float32", "float16"), coords_dtype="<i8"
    ),
    "clam": Storage(features="features", feature_dtypes=("float32",), coords_dtype="<i4"),
    "stamp": Storage(features="feats", feature_dtypes=("float16",), coords_dtype="<f4"),
}


def feature_path(
    out: Path | str,
    *,
    mpp: float | None,
    patch_px: int,
    overlap_px: int,
    encoder: str,
    slide: str,
    layout: Layout = "trident",
) -> Path:
    """Return where the feature file of one slide and encoder belongs.

    Args:
        out: folder of all feature files.
        mpp: um per patch pixel; None for ready-made patches of unknown scale.
        patch_px: side of a patch.
        overlap_px: overlap of neighbouring patches.
        encoder: name of the encoder.
        slide: name of the slide.
        layout: the layout decides the folder, so that two layouts never meet in one.

    Returns:
        `<out>/<10 / mpp>x_<patch>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`;
        `clam_<encoder>/h5_files/` and `stamp_<encoder>/` for the other layouts.

    Raises:
        TypeError, ValueError: a name that is no file name, an unknown layout, a number that is none
            or out of range.

    Example:
        >>> feature_path("f", mpp=0.5, patch_px=256, overlap_px=0, encoder="uni", slide="a").as_posix()
        'f/20x_256px_0px_overlap/features_uni/a.h5'
    """
    check_layout(layout)
    for argument, name in (("encoder", encoder), ("slide", slide)):
        if not name or name.startswith(".") or re.search(r"[/\\\0]", name):
            raise ValueError(f"{argument} must be usable as a file name, got {name!r}")
    mpp = real_number("mpp", mpp, above=0)
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    overlap_px = whole_number("overlap_px", overlap_px, at_least=0)
    scale = "" if mpp is None else f"{10 / mpp:g}x_"
    folder = Path(out) / f"{scale}{patch_px}px_{overlap_px}px_overlap"
    kind = "features" if layout == "trident" else layout
    inner = "h5_files" if layout == "clam" else ""
    return folder / f"{kind}_{encoder}" / inner / f"{slide}.h5"


def pt_path(path: Path | str) -> Path:
    """Return the place of the `.pt` file that belongs to a feature file of layout clam."""
    path = path_of("path", path)
    return path.parent.parent / "pt_files" / f"{path.stem}.pt"


def check_layout(layout: str) -> None:
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
