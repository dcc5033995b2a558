"""How alike two representations are: arrays in, numbers out."""

from histofast.similarity._cca import CcaResult, PwccaResult, SvccaResult, cca, pwcca, svcca
from histofast.similarity._cka import cka, cka_minibatch, cka_pairs, pack
from histofast.similarity._comparison import Comparison
from histofast.similarity._hsic import hsic1
from histofast.similarity._moments import CkaAccumulator
from histofast.similarity._predictions import (
    PredictionAgreement,
    error_consistency,
    js_divergence,
    prediction_agreement,
    top1_disagreement,
)
from histofast.similarity._protocol import Protocol, ProtocolResult, published_protocol
from histofast.similarity._uncertainty import (
    Interval,
    PermutationNull,
    block_bootstrap,
    cka_interval,
    permutation_null,
)

__all__ = [
    "CcaResult",
    "CkaAccumulator",
    "Comparison",
    "Interval",
    "PermutationNull",
    "PredictionAgreement",
    "Protocol",
    "ProtocolResult",
    "PwccaResult",
    "SvccaResult",
    "block_bootstrap",
    "cca",
    "cka",
    "cka_interval",
    "cka_minibatch",
    "cka_pairs",
    "error_consistency",
    "hsic1",
    "js_divergence",
    "pack",
    "permutation_null",
    "prediction_agreement",
    "published_protocol",
    "pwcca",
    "svcca",
    "top1_disagreement",
]
