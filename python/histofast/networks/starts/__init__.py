"""Starts: what a network's weights are before it is trained, all of one grammar.

| text | weights |
|---|---|
| `random`, `random:SEED` | He normal, of the run's seed, or of this one |
| `FILE`, or a name of the registry | as they are |
| `run:FOLDER` | those that a finished run of `classify` ended with |
| `mean-var:START` | each tensor drawn anew from a normal distribution of its mean and variance |
| `transfuse:START:LAYER` | START up to and with LAYER, random beyond; `...:LAYER:mean-var`: mean-var beyond |
| `slim:START:LAYER:FACTOR` | START up to and with LAYER; after it every convolution has FACTOR times fewer channels and is random |
| `merge:METHOD:A+B[+C]` | one network of several, `svd-pre:R` and `svd-post:R` with a rank, a number or `evbmf`; of `task`, `ties`, `stock` and `iso` the first is the base. BatchNorm statistics are measured anew on the training images |
| `gabor:SEED` | the first convolution from a bank of Gabor filters, random beyond |

Starts nest: `mean-var:run:FOLDER`, `transfuse:mean-var:FILE:layer2`. The head is always new.

Reference: Raghu, Zhang, Kleinberg, Bengio, 2019, Transfusion, for mean-var, transfuse, slim and gabor.
"""

from __future__ import annotations

from histofast.networks.starts.beginning import (
    begin,
    eps_of,
    identity,
    is_merged,
    network_of,
    refuse_unlike,
    runs_of,
)
from histofast.networks.starts.gabor import GaborFilter, gabor_bank
from histofast.networks.starts.grammar import (
    AnyStart,
    File,
    Gabor,
    MeanVar,
    Merge,
    Random,
    Run,
    Slim,
    Start,
    Transfuse,
    parse,
)
from histofast.networks.starts.merging import METHODS, ON_A_BASE, Rank, State, merge_states
from histofast.networks.starts.statistics import estimate_batchnorm

__all__ = [
    "METHODS",
    "ON_A_BASE",
    "AnyStart",
    "File",
    "Gabor",
    "GaborFilter",
    "MeanVar",
    "Merge",
    "Random",
    "Rank",
    "Run",
    "Slim",
    "Start",
    "State",
    "Transfuse",
    "begin",
    "eps_of",
    "estimate_batchnorm",
    "gabor_bank",
    "identity",
    "is_merged",
    "merge_states",
    "network_of",
    "parse",
    "refuse_unlike",
    "runs_of",
]


def __dir__() -> list[str]:
    return __all__
