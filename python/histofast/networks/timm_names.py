"""Names of timm's models with arguments: `timm:vit_base_patch16_224(img_size=96,reg_tokens=4)`.

One text says which network it is, so that whatever keeps the name of a network keeps its arguments:
metadata of encoders, identities, twins with random weights.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from histofast.errors import ModelError

PREFIX = "timm:"
Value = bool | int | float | str | tuple[Any, ...]

# What has an option of its own, or would make no encoder.
_RESERVED = {
    "num_classes": "say classes",
    "in_chans": "patches have three channels",
    "pretrained": "say weights",
    "pretrained_cfg": "say weights and standardising",
    "pretrained_cfg_overlay": "say weights and standardising",
    "checkpoint_path": "say weights",
    "cache_dir": "set HF_HOME",
    "features_only": "say layer",
    "out_indices": "say layer",
    "scriptable": "it changes nothing of an encoder",
    "exportable": "it changes nothing of an encoder",
    "no_jit": "it changes nothing of an encoder",
    "device": "networks are made on the CPU",
    "dtype": "networks are made in float32",
}
_MOST_CHARACTERS = 2_000


def timm_name(name: str, arguments: Mapping[str, Any] | None) -> str:
    """Return the name of a model of timm with arguments, each put in its order by name.

    Args:
        name: `timm:NAME`, maybe with arguments already.
        arguments: further ones, of `timm.create_model`: numbers, flags, texts (classes by their
            names), or several of them.

    Raises:
        ModelError: a name that cannot be read.
        TypeError: another kind of value.
        ValueError: arguments for a network that is not timm's, one twice, one that is not to be given.

    Example:
        >>> timm_name("timm:vit_base_patch16_224", {"reg_tokens": 4, "img_size": 96})
        'timm:vit_base_patch16_224(img_size=96,reg_tokens=4)'
    """
    if not arguments and "(" not in name:
        return name
    if not name.startswith(PREFIX):
        raise ValueError(f"timm_args must be given with a network of timm, timm:NAME, got {name}")
    model, own = parted(name)
    for key in own.keys() & (arguments or {}).keys():
        raise ValueError(f"timm_args must have each argument once, got {key} twice")
    given = own | {key: checked(key, value) for key, value in (arguments or {}).items()}
    listed = ",".join(f"{key}={_written(given[key])}" for key in sorted(given))
    return f"{PREFIX}{model}({listed})" if given else f"{PREFIX}{model}"


def timm_args_of(texts: Iterable[str]) -> dict[str, Any]:
    """Return arguments from texts, KEY=VALUE each: TOML, Python, or a plain word.

    Raises:
        ValueError: no such text, a value that is none of them, an argument twice.

    Example:
        >>> timm_args_of(["img_size=96", "act_layer=SiLU", "no_embed_class=true"])
        {'img_size': 96, 'act_layer': 'SiLU', 'no_embed_class': True}
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals):
            raise ValueError(f"timm_args must be KEY=VALUE, got {text!r}: img_size=224")
        if key in found:
            raise ValueError(f"timm_args must have each argument once, got {key} twice")
        found[key] = _literal(key, value)
    return found


def _literal(key: str, text: str) -> Any:
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text}")["value"]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    if re.fullmatch(r"([A-Za-z_][\w.+-]*)?", text):
        return text
    raise ValueError(f"timm_args must have a number, a flag, a word or several, got {key}={text}")


def parted(name: str) -> tuple[str, dict[str, Value]]:
    """Return what timm calls a model, and the arguments in its name.

    Raises:
        ModelError: a name that cannot be read.
        TypeError, ValueError: see `timm_name`.
    """
    model, opening, rest = name.removeprefix(PREFIX).partition("(")
    if not opening:
        return model, {}
    try:
        if len(name) > _MOST_CHARACTERS or not rest.endswith(")"):
            raise SyntaxError
        call = ast.parse(f"_({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise SyntaxError
        found = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        found = {None: None}
    if None in found or len(found) == 0:
        raise ModelError(
            f"network must be called {PREFIX}NAME or {PREFIX}NAME(argument=value,...), got {name[:200]!r}"
        )
    return model, {str(key): checked(str(key), value) for key, value in found.items()}


def checked(key: str, value: Any) -> Value:
    """Return an argument as it is kept: lists as tuples.

    Raises:
        TypeError, ValueError: see `timm_name`.
    """
    if key in _RESERVED:
        raise ValueError(f"timm_args must not have {key}: {_RESERVED[key]}")
    if not re.fullmatch(r"[a-z]\w*", key):
        raise ValueError(f"timm_args must be called as in Python, got {key!r}")
    if isinstance(value, list | tuple):
        return tuple(checked(key, each) for each in value)
    if not isinstance(value, bool | int | float | str):
        raise TypeError(
            f"timm_args must be numbers, flags, texts or several of them, got {key}={value!r}: leave out "
            "what is to be timm's own"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"timm_args must be finite, got {key}={value}")
    return value


def stem_of(name: str) -> str:
    """Return what files and folders of a network are called: arguments are a checksum of theirs."""
    model, opening, rest = name.partition("(")
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", model).strip("-")
    return f"{stem}-{hashlib.sha256(rest.encode()).hexdigest()[:8]}" if opening else stem


def _written(value: Value) -> str:
    if isinstance(value, tuple):
        inner = ",".join(map(_written, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)
