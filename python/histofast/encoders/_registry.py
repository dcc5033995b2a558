"""The encoders and weights that histofast knows by name: `models/registry.toml`."""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from histofast.errors import ModelError

DEFAULT = "densenet121-t2"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderEntry:
    """One encoder of the registry. `path` need not exist; `sha256` is that of the whole file."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    network: str
    layer: str
    d: int
    patch_px: int
    mpp: float
    precision: str
    licence: str
    weights: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsEntry:
    """A weights file that is known by its SHA-256, and what cannot be read from the file itself."""

    name: str
    sha256: str
    network: str
    bn_eps: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    provenance: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """All entries, by name."""

    encoders: dict[str, EncoderEntry]
    weights: dict[str, WeightsEntry]

    def weights_of(self, sha256: str) -> WeightsEntry | None:
        """Return the entry of the weights file with this SHA-256, if it is a known one."""
        return next((w for w in self.weights.values() if w.sha256 == sha256), None)


def models_folder() -> Path:
    """Return the folder of the registry: inside an installed package, beside `python/` in a clone.

    Raises:
        ModelError: neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "models", package.parent.parent / "models"):
        if (folder / "registry.toml").is_file():
            return folder
    raise ModelError(f"models/registry.toml is missing from {package}: install histofast again")


@cache
def registry() -> Registry:
    """Return the registry of this installation, read once.

    Raises:
        ModelError: it is missing or not valid.
    """
    return read_registry(models_folder() / "registry.toml")


def read_registry(path: Path) -> Registry:
    """Read and check a registry file.

    Raises:
        ModelError: not TOML, a key is missing, unknown or of the wrong type.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if unknown := sorted(tables.keys() - {"encoders", "weights"}):
        raise ModelError(f"{path}: unknown table {unknown[0]!r}, wanted 'encoders' or 'weights'")
    encoders, weights = {}, {}
    for name, table in tables.get("encoders", {}).items():
        file = {"path": path.parent / table["file"]} if isinstance(table.get("file"), str) else {}
        entry = {k: v for k, v in table.items() if k != "file"} | file
        encoders[name] = _entry(EncoderEntry, entry, where=f"{path}: encoders.{name}", name=name)
        if encoders[name].weights not in tables.get("weights", {}):
            raise ModelError(f"{path}: encoders.{name}: no table weights.{encoders[name].weights}")
    for name, table in tables.get("weights", {}).items():
        entry = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        weights[name] = _entry(WeightsEntry, entry, where=f"{path}: weights.{name}", name=name)
    return Registry(encoders=encoders, weights=weights)


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the path of an encoder's file, given its name in the registry or the path itself.

    A string is a path if it ends in `.onnx` or has a folder in it, else a name.

    Raises:
        FileNotFoundError: a path where no file is.
        ModelError: a name that is not in the registry (close ones are offered), or whose file is
            missing from this installation.
    """
    text = os.fspath(name_or_path)
    as_path = Path(text)
    if not isinstance(name_or_path, str) or as_path.suffix == ".onnx" or as_path.name != text:
        if not as_path.is_file():
            raise FileNotFoundError(f"no encoder file at {as_path}")
        return as_path
    known = registry().encoders
    if text not in known:
        close = difflib.get_close_matches(text, known, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ModelError(
            f"encoder must be a path to an .onnx file or one of {', '.join(sorted(known))}, "
            f"got {text!r}{': ' + hint.rstrip() if hint else ''}"
        )
    path = known[text].path
    if not path.is_file():
        raise ModelError(
            f"encoder {text} is not installed, {path} is missing: see models/README.md"
        )
    return path


Entry = TypeVar("Entry", EncoderEntry, WeightsEntry)


def _entry(kind: type[Entry], table: dict[str, Any], *, where: str, name: str) -> Entry:
    wanted = {field.name: field.type for field in fields(kind)}
    values = {"name": name} | table
    if unknown := sorted(values.keys() - wanted.keys()):
        raise ModelError(f"{where}: unknown key {unknown[0]!r}")
    for key, annotation in wanted.items():
        shown = "file" if key == "path" else key
        if key not in values:
            raise ModelError(f"{where}: key {shown!r} is missing")
        if not _fits(values[key], str(annotation)):
            raise ModelError(f"{where}: {shown} must be {annotation}, got {values[key]!r}")
    return kind(**values)


def _fits(value: Any, annotation: str) -> bool:
    if annotation.startswith("tuple"):
        return isinstance(value, tuple) and len(value) == 3 and all(type(v) is float for v in value)
    kinds: dict[str, type | tuple[type, ...]] = {
        "str": str,
        "int": int,
        "float": (int, float),
        "Path": Path,
    }
    return isinstance(value, kinds[annotation]) and not isinstance(value, bool)
