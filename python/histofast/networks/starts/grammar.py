"""The text of a start in, what it asks for out, and back."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from histofast._words import did_you_mean, text_of
from histofast.networks.starts.merging import EVBMF, METHODS, OF_RANK, ON_A_BASE, Rank

_KINDS = ("random", "run", "mean-var", "transfuse", "slim", "gabor", "merge")
_KIND = re.compile(r"([a-z][a-z-]+):")  # a word and a colon; a drive has one letter


@dataclass(frozen=True, slots=True)
class Random:
    """He normal, of the run's seed or of one of its own."""

    seed: int | None = None

    def __str__(self) -> str:
        return "random" if self.seed is None else f"random:{self.seed}"


@dataclass(frozen=True, slots=True)
class File:
    """Weights of a file as they are."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Run:
    """The weights that a finished run of `classify` ended with."""

    folder: str

    def __str__(self) -> str:
        return f"run:{self.folder}"


@dataclass(frozen=True, slots=True)
class MeanVar:
    """Every tensor of another start drawn anew from N(mean, variance) of it; statistics excepted."""

    of: Start

    def __str__(self) -> str:
        return f"mean-var:{self.of}"


@dataclass(frozen=True, slots=True)
class Transfuse:
    """Another start up to and with a layer, random or mean-var beyond."""

    of: Start
    layer: str
    mean_var: bool = False

    def __str__(self) -> str:
        return f"transfuse:{self.of}:{self.layer}" + (":mean-var" if self.mean_var else "")


@dataclass(frozen=True, slots=True)
class Slim:
    """Another start up to and with a layer; after it `factor` times fewer channels, random."""

    of: Start
    layer: str
    factor: int

    def __str__(self) -> str:
        return f"slim:{self.of}:{self.layer}:{self.factor}"


@dataclass(frozen=True, slots=True)
class Gabor:
    """The first convolution from a bank of Gabor filters, random beyond."""

    seed: int

    def __str__(self) -> str:
        return f"gabor:{self.seed}"


@dataclass(frozen=True, slots=True)
class Merge:
    """One network of several; where the method needs a base, the first of the parts is it."""

    method: str
    parts: tuple[Start, ...]
    rank: Rank | None = None

    def __str__(self) -> str:
        rank = "" if self.rank is None else f":{self.rank}"
        return f"merge:{self.method}{rank}:{'+'.join(map(str, self.parts))}"


Start = Random | File | Run | MeanVar | Transfuse | Slim | Gabor | Merge
AnyStart = Start | str | os.PathLike[str]


def parse(text: AnyStart) -> Start:
    """Return what a text or a path asks for; a start is what it is.

    What begins with none of the kinds is a file; one that is called as a kind is written `./random`.

    Raises:
        TypeError: none of these.
        ValueError: a kind without what it needs, or an unknown one (a close one is offered).

    Example:
        >>> parse("transfuse:imagenet.safetensors:layer2")
        Transfuse(of=File(path='imagenet.safetensors'), layer='layer2', mean_var=False)
    """
    if isinstance(text, Start):
        return text
    text = text_of("start", os.fspath(text) if isinstance(text, os.PathLike) else text)
    if text == "random":
        return Random()
    told = _KIND.match(text)
    if told is None or (told[1] not in _KINDS and os.path.lexists(text)):
        return File(_needed(text, "a file", text))
    kind, rest = told[1], text[told.end() :]
    if kind == "run":
        return Run(_needed(rest, "a folder: run:FOLDER", text))
    if kind == "mean-var":
        return MeanVar(parse(_needed(rest, "a start: mean-var:START", text)))
    if kind == "transfuse":
        return _transfuse(rest, text)
    if kind == "slim":
        return _slim(rest, text)
    if kind == "merge":
        return _merge(rest, text)
    if kind in ("random", "gabor"):
        if not re.fullmatch(r"0|[1-9]\d{0,8}", rest):
            raise ValueError(f"start must have a seed, {kind}:SEED, got {text!r}")
        return Random(int(rest)) if kind == "random" else Gabor(int(rest))
    raise ValueError(
        f"start must be a file, or begin with one of {', '.join(f'{k}:' for k in _KINDS)}, got "
        f"{text!r}{did_you_mean(kind, _KINDS)}"
    )


def _transfuse(rest: str, text: str) -> Transfuse:
    body = rest.removesuffix(":mean-var")
    start, _, layer = body.rpartition(":")
    wanted = "a start and a layer: transfuse:START:LAYER"
    return Transfuse(
        of=parse(_needed(start, wanted, text)),
        layer=_needed(layer, wanted, text),
        mean_var=body != rest,
    )


def _slim(rest: str, text: str) -> Slim:
    body, _, factor = rest.rpartition(":")
    start, _, layer = body.rpartition(":")
    wanted = "a start, a layer and a factor: slim:START:LAYER:FACTOR"
    if not re.fullmatch(r"[1-9]\d{0,5}", factor):
        raise ValueError(f"start must have {wanted}, got {text!r}")
    return Slim(
        of=parse(_needed(start, wanted, text)),
        layer=_needed(layer, wanted, text),
        factor=int(factor),
    )


def _merge(rest: str, text: str) -> Merge:
    method, _, parts = rest.partition(":")
    wanted = "a method and parts: merge:METHOD:A+B"
    rank: Rank | None = None
    if method in OF_RANK:
        number, _, parts = parts.partition(":")
        if number != EVBMF and not re.fullmatch(r"[1-9]\d{0,5}", number):
            raise ValueError(
                f"start must have a rank, a number or {EVBMF}, merge:{method}:RANK:A+B, got {text!r}"
            )
        rank = EVBMF if number == EVBMF else int(number)
    if method not in METHODS or method == "greedy":
        known = [name for name in METHODS if name != "greedy"]
        near = did_you_mean(method, known)
        raise ValueError(
            f"start must have a method of merging, {', '.join(known)}, got {text!r}{near}"
        )
    least = 3 if method in ON_A_BASE else 2
    named = [parse(_needed(part, wanted, text)) for part in parts.split("+")]
    if len(named) < least:
        what = "a base and two parts: merge:METHOD:BASE+A+B" if least == 3 else wanted
        raise ValueError(f"start must have {what}, got {text!r}")
    return Merge(method=method, parts=tuple(named), rank=rank)


def _needed(part: str, wanted: str, text: str) -> str:
    if not part:
        raise ValueError(f"start must have {wanted}, got {text!r}")
    return part
