"""With what options feature files were made, and whether those of many slides agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from histofast.errors import FeatureError
from histofast.features.file import FeatureFile

# Of a slide, of the place where a file was made (last bits) or of how it is stored.
_MAY_DIFFER = {"slide", "level0_mpp", "patches", "layout", "provider", "batch_size", "mask"}
_MAY_DIFFER |= {"coords"}  # which is told as "grid"
# What other tools write beside their features, in numbers.
_OF_OTHERS = (
    *("mpp", "patch_size", "overlap", "target_magnification"),
    *("tile_size_um", "tile_size_px"),
)


def options_of(file: FeatureFile) -> dict[str, Any]:
    """Return what made a file, by names such as `mpp` and `tissue.threshold`; not what is of its slide.

    Files of other tools tell as much as they write beside their features.
    """
    told: Mapping[str, Any] = file.identity or {}
    if not told:
        told = {name: file.attributes[name] for name in _OF_OTHERS if name in file.attributes}
    return options_in(told)


def options_in(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As `options_of`, from the identity of a file, or what files yet to be made will have in it."""
    mag = identity.get("mag")
    if isinstance(mag, int | float):  # each slide has its own scale then
        identity = {**{k: v for k, v in identity.items() if k != "mag"}, "mpp": f"{mag:g}x"}
    if (
        "encoder" in identity
    ):  # files of ours that say nothing of them: pixels as they were, all patches
        identity = {
            **identity,
            "stain": _stain(identity.get("stain")),
            "icc": identity.get("icc", "as it is"),
            "select": _select(identity.get("select")),
            "grid": "own coordinates" if "coords" in identity else "on tissue",
        }
        tissue = identity.get("tissue")
        if isinstance(tissue, Mapping) and "mask" not in tissue:  # found, by a network or without
            identity = {**identity, "tissue": {"network": "none", **tissue}}
    return {
        name: value
        for name, value in _flat(identity, "").items()
        if isinstance(value, str | int | float | bool | None)
    }


def differences_of_options(found: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str]:
    """Return what two files say of the options that both tell, where they differ: `mpp 0.5, overlap 0`.

    Both texts are empty where they agree.
    """
    differ = [name for name in found if name in other and found[name] != other[name]]
    one, two = (
        ", ".join(f"{name} {_shown(options[name])}" for name in differ)
        for options in (found, other)
    )
    return one, two


def shared_options(files: Iterable[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the options of files that were made with the same ones.

    Args:
        files: their paths and options.

    Raises:
        FeatureError: two that differ, and in what.
    """
    shared: dict[str, Any] = {}
    first: dict[str, Path] = {}  # that tells an option
    for path, options in files:
        for name in options:
            if name in shared and shared[name] != options[name]:
                one, two = differences_of_options(shared, options)
                raise FeatureError(
                    f"features must be made with the same options, got {one} in {first[name]} and "
                    f"{two} in {path}: name the folder of one"
                )
        for name in options:
            first.setdefault(name, path)
            shared.setdefault(name, options[name])
    return shared


def _stain(told: Any) -> str:
    if not isinstance(told, Mapping):
        return "as it is"
    return f"{told.get('method')} to {told.get('target')}"


def _select(told: Any) -> str:
    if not isinstance(told, Mapping):
        return "all patches"
    random = f"{told.get('keep_random')} of the others at random (seed {told.get('seed')})"
    return f"{told.get('keep')} by attention of run {str(told.get('run'))[:12]}, {random}"


def _flat(values: Mapping[str, Any], within: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in _MAY_DIFFER:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{within}{name}.")
        elif f"{within}{name}" != "tissue":  # a mask that was given: of its slide
            found[f"{within}{name}"] = value
    return found


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return " ".join(word[:12] if len(word) > 40 else word for word in text.split(" "))  # checksums
