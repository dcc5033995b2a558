"""`histofast.toml`: defaults of a project's commands, in its folder or one above.

    [extract]
    encoder = "encoders/uni2-h.onnx"
    mpp = 0.5
    [models.export]
    opset = 18

A table for each command, in it its options by their long names. What is typed wins. Paths count from the file's
folder. What a file sets is said before the work.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histofast._files import regular_file
from histofast._words import did_you_mean, listed, one_line

NAME = "histofast.toml"
_MOST_BYTES = 1 << 20
# What help calls a value that is a path; beside a NAME it is one where such a file is there.
_PATHS = {"FILE", "FOLDER", "PATH", "CSV", "TSV", "ONNX", "TOML", "RUN"}
_NOT_HERE = ("help", "version", "config", "no_config", "install_completion", "show_completion")


def found_config(folder: Path) -> Path | None:
    """Return the file of a folder, or of the nearest one above that has one."""
    for each in (folder, *folder.parents):
        try:
            if (each / NAME).is_file():
                return each / NAME
        except OSError:  # a folder that must not be looked into
            continue
    return None


def read_config(path: Path, root: Any) -> dict[str, Any]:
    """Return the defaults of commands, as click wants them: parameters by name, sub-commands as mappings.

    Args:
        path: of the file.
        root: the command line.

    Raises:
        FileNotFoundError: there is none.
        ValueError: no TOML, a command or option that there is not, a value that no option takes.
    """
    regular_file(path, kind="file of defaults")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} must have at most 1 MiB, got {path.stat().st_size >> 20}")
    try:
        told = tomllib.loads(path.read_bytes().decode())
    except RecursionError:
        raise ValueError(f"{path} must be TOML, got tables nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} must be TOML: {one_line(error)}") from error
    return _defaults(told, root, path, within="")


def _defaults(told: Mapping[str, Any], command: Any, path: Path, *, within: str) -> dict[str, Any]:
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    options = _options_of(command)
    defaults: dict[str, Any] = {}
    for key, value in told.items():
        where = f"{within}{key}"
        if isinstance(value, Mapping):
            if key not in inner:
                raise ValueError(f"{path}: [{where}] must be a command{_known(key, inner)}")
            defaults[key] = _defaults(value, inner[key], path, within=f"{where}.")
            continue
        parameter = options.get(key.replace("-", "_"))
        if parameter is None:
            shown = within.rstrip(".").replace(".", " ") or "histofast"
            known = [name.replace("_", "-") for name in options]
            raise ValueError(f"{path}: {where} must be an option of {shown}{_known(key, known)}")
        defaults[parameter.name] = _value(parameter, value, path, where)
    return defaults


def _options_of(command: Any) -> dict[str, Any]:
    """Options of a command by their long names, with underscores."""
    return {
        name: parameter
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and (name := option[2:].replace("-", "_")) not in _NOT_HERE
    }


def _known(key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    return did_you_mean(key, known) or f", got none of {listed(sorted(known), most=60)}"


def _value(parameter: Any, value: Any, path: Path, where: str) -> Any:
    """Take a value as its option would; click reads it further, as if it were typed."""
    if isinstance(value, list):
        if not parameter.multiple:
            raise ValueError(f"{path}: {where} must be one value, got a list")
        return [_one(parameter, each, path, where) for each in value]
    one = _one(parameter, value, path, where)
    return [one] if parameter.multiple else one


def _one(parameter: Any, value: Any, path: Path, where: str) -> Any:
    wanted = (bool,) if parameter.is_flag else (str, int, float)
    if not isinstance(value, wanted) or (isinstance(value, bool) and not parameter.is_flag):
        shown = "true or false" if parameter.is_flag else "a text or a number"
        raise ValueError(f"{path}: {where} must be {shown}, got {value!r:.80}")
    if isinstance(value, str):
        words = set(re.findall("[A-Z]+", parameter.metavar or ""))
        beside = path.parent / value
        is_path = bool(words & _PATHS) or isinstance(parameter.default, Path)
        if is_path and ("NAME" not in words or beside.exists()):
            return str(beside)
    return value


def said_of(path: Path, command: Any, defaults: Mapping[str, Any], typed: Sequence[str]) -> str:
    """Say what a file sets of a command, in flags; "" where all of it was typed otherwise, or nothing is set."""
    by_name = {parameter.name: parameter for parameter in command.params}
    told = []
    for name, value in defaults.items():
        parameter = by_name.get(name)
        if parameter is None or isinstance(value, Mapping) or name in typed or value is False:
            continue
        flag = next(option for option in parameter.opts if option.startswith("--"))
        values = value if isinstance(value, list) else [value]
        told += [flag if each is True else f"{flag} {each}" for each in values]
    return f"{path} sets {', '.join(told)}" if told else ""


def typed_in(command: Any, context: Any, arguments: Sequence[str]) -> list[str]:
    """Return the names of the parameters that are typed; of a line that is wrong those before the mistake."""
    parser = command.make_parser(context)
    try:
        values, _, _ = parser.parse_args(args=list(arguments))
    except Exception:  # noqa: BLE001  # whoever reads the line next says what is wrong with it
        return []
    return [name for name, value in values.items() if value]
