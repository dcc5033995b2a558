"""Starts: what a network's weights are before it is trained, all of one grammar.

| text | weights |
|---|---|
| `random` | He normal, of the run's seed |
| `FILE`, or a name of the registry | as they are |
| `run:FOLDER` | those that a finished run of `classify` ended with |
| `mean-var:START` | each tensor drawn anew from a normal distribution of its mean and variance |
| `transfuse:START:LAYER` | START up to and with LAYER, random beyond; `...:LAYER:mean-var`: mean-var beyond |
| `gabor:SEED` | the first convolution from a bank of Gabor filters, random beyond |

Starts nest: `mean-var:run:FOLDER`, `transfuse:mean-var:FILE:layer2`. The head is always new.

Reference: Raghu, Zhang, Kleinberg, Bengio, 2019, Transfusion, for mean-var, transfuse and gabor.
"""

from __future__ import annotations

from histofast.networks.starts.beginning import begin, eps_of, identity
from histofast.networks.starts.grammar import (
    File,
    Gabor,
    MeanVar,
    Random,
    Run,
    Start,
    Transfuse,
    parse,
)

__all__ = [
    "File",
    "Gabor",
    "MeanVar",
    "Random",
    "Run",
    "Start",
    "Transfuse",
    "begin",
    "eps_of",
    "identity",
    "parse",
]


def __dir__() -> list[str]:
    return __all__
