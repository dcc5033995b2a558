"""How alike two representations are: arrays in, numbers out."""

from __future__ import annotations

from histofast.similarity.alignment import cka, cka_minibatch, cka_pairs, pack
from histofast.similarity.correlation import CcaResult, PwccaResult, SvccaResult, cca, pwcca, svcca
from histofast.similarity.found import Comparison
from histofast.similarity.grams import check_grams, gram_products, packed_grams, start_grams, unpack
from histofast.similarity.hsic import Kernel, hsic1
from histofast.similarity.moments import CkaAccumulator
from histofast.similarity.predictions import (
    PredictionAgreement,
    error_consistency,
    js_divergence,
    prediction_agreement,
    top1_disagreement,
)
from histofast.similarity.protocol import Protocol, ProtocolResult, published_protocol
from histofast.similarity.uncertainty import (
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
    "Kernel",
    "PermutationNull",
    "PredictionAgreement",
    "Protocol",
    "ProtocolResult",
    "PwccaResult",
    "SvccaResult",
    "block_bootstrap",
    "cca",
    "check_grams",
    "cka",
    "cka_interval",
    "cka_minibatch",
    "cka_pairs",
    "error_consistency",
    "gram_products",
    "hsic1",
    "js_divergence",
    "pack",
    "packed_grams",
    "permutation_null",
    "prediction_agreement",
    "published_protocol",
    "pwcca",
    "start_grams",
    "svcca",
    "top1_disagreement",
    "unpack",
]


def __dir__() -> list[str]:
    return __all__
