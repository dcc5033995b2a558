"""The encoders and weights that histofast knows by name: `models/registry.toml`."""

from __future__ import annotations

import os
import tomllib
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from histofast._files import regular_file
from histofast._words import clipped, did_you_mean, one_line, printable
from histofast.encoders.elsewhere import ElsewhereEntry, elsewhere_of
from histofast.encoders.foundation import FoundationEntry
from histofast.errors import ModelError

DEFAULT = "densenet121-t2"
_TABLES = ("encoders", "weights", "sources", "foundation", "elsewhere")
PRECISIONS = ("float32", "float16", "int8")
_MOST_BYTES, _MOST_POINTS = 1 << 20, 100  # of a registry, and of a line in it
_SHOWN_CHARACTERS = 60
FAST_GFLOP = 2.0  # below: 50 patches/s and more on a core that does 100 GFLOP/s in float32
MEDIUM_GFLOP = 8.0  # below: 12 patches/s and more there


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderEntry:
    """One encoder of the registry. `path` need not exist; `sha256` is that of the whole file.

    `gflop` is what one patch of `patch_px` costs, in billions of operations (a multiply-add is
    two); `made` the command that writes the file; `parent` the encoder it was made from.
    """

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
    gflop: float | None = None
    made: str | None = None
    parent: str | None = None

    @property
    def speed_class(self) -> str | None:
        """ "fast" below 2 GFLOP per patch, "medium" below 8, else "slow"; None where not stated.

        A class of networks, not of files: int8 does the same operations, each in less time.
        """
        if self.gflop is None:
            return None
        if self.gflop < FAST_GFLOP:
            return "fast"
        return "medium" if self.gflop < MEDIUM_GFLOP else "slow"


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
class SourceEntry:
    """Weights that users fetch themselves: where they are, and what the file does not say.

    `where` names the file and its page, `keys` tells how the file spells the network's keys, `note`
    what comes from the authors and what is our reading. `tested` is whether the loader has been run
    on the real file. `bgr` is that the weights want BGR where others of the network want RGB; `mean`
    and `std` are of RGB all the same. `layer` is where the authors take their features; that and the other optional
    ones are None where the source states nothing and the defaults of network and export hold.
    """

    name: str
    network: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    where: str
    keys: str
    tested: bool
    note: str
    bgr: bool = False
    layer: str | None = None
    bn_eps: float | None = None
    patch_px: int | None = None
    mpp: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """All entries, by name."""

    encoders: dict[str, EncoderEntry]
    weights: dict[str, WeightsEntry]
    sources: dict[str, SourceEntry]
    foundation: dict[str, FoundationEntry]
    elsewhere: dict[str, ElsewhereEntry]

    def refuse_elsewhere(self, name: str) -> None:
        """Refuse the name, however it is spelt, of a published model that is not built here.

        Raises:
            ModelError: with why, and what to do instead.
        """
        entry = elsewhere_of(self.elsewhere, name)
        if entry is not None:
            raise ModelError(entry.told)

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

    Whether there is a network of the name that an entry gives is not checked here.

    Raises:
        ModelError: not TOML; a key is missing, unknown or of the wrong type; an entry that another
            one names is not there.
    """
    tables = _toml(path)
    if unknown := sorted(tables.keys() - set(_TABLES)):
        raise ModelError(
            f"{path}: unknown table {_shown(repr(unknown[0]))}, wanted one of {', '.join(_TABLES)}"
        )
    read = Registry(
        encoders=_entries(EncoderEntry, tables, "encoders", path),
        weights=_entries(WeightsEntry, tables, "weights", path),
        sources=_entries(SourceEntry, tables, "sources", path),
        foundation=_entries(FoundationEntry, tables, "foundation", path),
        elsewhere=_entries(ElsewhereEntry, tables, "elsewhere", path),
    )
    for name, encoder in read.encoders.items():
        where = f"{path}: encoders.{_shown(name)}"
        if encoder.weights not in read.weights:
            raise ModelError(f"{where}: no table weights.{_shown(encoder.weights)}")
        if encoder.parent is not None and encoder.parent not in read.encoders.keys() - {name}:
            raise ModelError(
                f"{where}: parent must be another encoder, got {_shown(repr(encoder.parent))}"
            )
        if encoder.precision not in PRECISIONS:
            raise ModelError(
                f"{where}: precision must be one of {', '.join(PRECISIONS)}, "
                f"got {_shown(repr(encoder.precision))}"
            )
        if encoder.gflop is not None and not encoder.gflop > 0:
            raise ModelError(f"{where}: gflop must be positive, got {encoder.gflop}")
    for name, source in read.sources.items():
        if "https://" not in source.where:
            raise ModelError(
                f"{path}: sources.{_shown(name)}: where must name a file and its https:// page, "
                f"got {_shown(repr(source.where))}"
            )
    for name, model in read.foundation.items():
        if (problem := model.problem()) is not None:
            raise ModelError(f"{path}: foundation.{_shown(name)}: {one_line(problem)}")
        if name in read.sources:
            raise ModelError(f"{path}: foundation.{_shown(name)}: sources have that name already")
    for name in read.elsewhere:
        if (
            elsewhere_of(read.elsewhere, name) is not read.elsewhere[name]
            or name in read.foundation
        ):
            raise ModelError(
                f"{path}: elsewhere.{_shown(name)}: another entry has that name already"
            )
    return read


def _toml(path: Path) -> dict[str, Any]:
    """Read a file of TOML, in memory and time that are bounded."""
    try:
        size = regular_file(path, kind="registry", error=ModelError).stat().st_size
        if size > _MOST_BYTES:
            raise ModelError(f"{path} must have at most {_MOST_BYTES} bytes, got {size}")
        text = path.read_text(encoding="utf-8-sig")
        for number, line in enumerate(text.splitlines(), start=1):
            # The reader of TOML takes the square of the parts of a key.
            if (points := line.count(".")) > _MOST_POINTS:
                raise ModelError(
                    f"{path}, line {number}: must have at most {_MOST_POINTS} points, got {points}"
                )
        return tomllib.loads(text)
    except RecursionError:
        raise ModelError(f"{path} cannot be read: its arrays are nested too deeply") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, no TOML, a number of any length
        raise ModelError(f"{path} cannot be read: {one_line(error)}") from None


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the path of an encoder's file, given its name in the registry or the path itself.

    A string is a path if it ends in `.onnx` or has a folder in it, else a name.

    Raises:
        FileNotFoundError: a path where nothing is.
        ModelError: a path of something else than a file; a name that is not in the registry (close ones are offered), or whose file is
            missing from this installation.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"encoder must be a name or a path, got {name_or_path!r}")
    text = os.fspath(name_or_path)
    as_path = Path(text)
    if not isinstance(name_or_path, str) or as_path.suffix == ".onnx" or as_path.name != text:
        return regular_file(as_path, kind="encoder file", error=ModelError)
    known = registry().encoders
    if text not in known:
        registry().refuse_elsewhere(text)
        if text in registry().foundation:
            raise ModelError(
                f"encoder {text} must be made of its weights first: "
                f"`histofast models export {text} --weights FILE --out {text}.onnx`"
            )
        raise ModelError(
            f"encoder must be a path to an .onnx file or one of {', '.join(sorted(known))}, "
            f"got {text!r}{did_you_mean(text, known)}"
        )
    path = known[text].path
    if not path.is_file():
        raise ModelError(
            f"encoder {text} is not installed, {path} is missing: see models/README.md"
        )
    return path


def _shown(text: str) -> str:
    return printable(clipped(text, _SHOWN_CHARACTERS))


Entry = TypeVar("Entry", EncoderEntry, WeightsEntry, SourceEntry, FoundationEntry, ElsewhereEntry)


def _entries(kind: type[Entry], tables: dict[str, Any], table: str, path: Path) -> dict[str, Entry]:
    named = tables.get(table, {})
    if not isinstance(named, dict):
        raise ModelError(f"{path}: {table} must be a table of entries, got {_shown(repr(named))}")
    return {
        name: _entry(
            kind, values, name=name, where=f"{path}: {table}.{_shown(name)}", folder=path.parent
        )
        for name, values in named.items()
    }


def _entry(kind: type[Entry], table: Any, *, name: str, where: str, folder: Path) -> Entry:
    if not isinstance(table, dict):
        raise ModelError(f"{where} must be a table, got {_shown(repr(table))}")
    wanted = {
        "file" if field.name == "path" else field.name: field
        for field in fields(kind)
        if field.name != "name"
    }
    if unknown := sorted(table.keys() - wanted.keys()):
        raise ModelError(f"{where}: unknown key {_shown(repr(unknown[0]))}")
    values: dict[str, Any] = {"name": name}
    for key, field in wanted.items():
        if key not in table:
            if field.default is MISSING:
                raise ModelError(f"{where}: key {key!r} is missing")
            continue
        annotation = str(field.type).removesuffix(" | None")
        values[field.name] = _value(table[key], annotation, folder)
        if values[field.name] is None:
            raise ModelError(f"{where}: {key} must be {annotation}, got {_shown(repr(table[key]))}")
    return kind(**values)


def _value(value: Any, annotation: str, folder: Path) -> Any:
    """Return what a field of this type holds for a value of TOML; None if the value does not fit."""
    if annotation.startswith("tuple"):
        fits = isinstance(value, list) and [type(v) for v in value] == [float] * 3
        return tuple(value) if fits else None
    if annotation.startswith("dict"):
        fits = isinstance(value, dict) and all(
            type(v) in (bool, int, float, str) for v in value.values()
        )
        return value if fits else None
    if annotation == "Path":  # relative to the registry
        return folder / value if isinstance(value, str) else None
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
    }
    return value if type(value) in kinds[annotation] else None  # True is an int to isinstance
