"""How alike two representations are: arrays in, numbers out; `MEASURES` is the table of all.

Modules are loaded when a name of theirs is first used: the table costs no import of NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.similarity.alignment import cka, cka_minibatch, cka_pairs, pack
    from histofast.similarity.chance import interval_of, null_of, way_of
    from histofast.similarity.correlation import (
        CcaResult,
        PwccaResult,
        SvccaResult,
        cca,
        pwcca,
        svcca,
    )
    from histofast.similarity.distances import knn_jaccard, rsa
    from histofast.similarity.found import Comparison
    from histofast.similarity.grams import (
        check_grams,
        gram_products,
        packed_grams,
        start_grams,
        unpack,
    )
    from histofast.similarity.hsic import Kernel, hsic1
    from histofast.similarity.matrix import centred, check_features
    from histofast.similarity.measures import MEASURES, Change, Measure, Need, names_of
    from histofast.similarity.moments import CkaAccumulator
    from histofast.similarity.predictions import (
        PredictionAgreement,
        error_consistency,
        js_divergence,
        prediction_agreement,
        top1_disagreement,
    )
    from histofast.similarity.procrustes import procrustes
    from histofast.similarity.protocol import Protocol, ProtocolResult, published_protocol
    from histofast.similarity.ranks import (
        LayerMetrics,
        LowRank,
        effective_rank,
        evbmf,
        knowledge_gain,
        layer_metrics,
        stable_rank,
    )
    from histofast.similarity.uncertainty import (
        Interval,
        PermutationNull,
        block_bootstrap,
        cka_interval,
        permutation_null,
    )
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.similarity.alignment": ["cka", "cka_minibatch", "cka_pairs", "pack"],
            "histofast.similarity.chance": ["interval_of", "null_of", "way_of"],
            "histofast.similarity.correlation": [
                "CcaResult",
                "PwccaResult",
                "SvccaResult",
                "cca",
                "pwcca",
                "svcca",
            ],
            "histofast.similarity.distances": ["knn_jaccard", "rsa"],
            "histofast.similarity.found": ["Comparison"],
            "histofast.similarity.grams": [
                "check_grams",
                "gram_products",
                "packed_grams",
                "start_grams",
                "unpack",
            ],
            "histofast.similarity.hsic": ["Kernel", "hsic1"],
            "histofast.similarity.matrix": ["centred", "check_features"],
            "histofast.similarity.measures": ["MEASURES", "Change", "Measure", "Need", "names_of"],
            "histofast.similarity.moments": ["CkaAccumulator"],
            "histofast.similarity.predictions": [
                "PredictionAgreement",
                "error_consistency",
                "js_divergence",
                "prediction_agreement",
                "top1_disagreement",
            ],
            "histofast.similarity.procrustes": ["procrustes"],
            "histofast.similarity.protocol": ["Protocol", "ProtocolResult", "published_protocol"],
            "histofast.similarity.ranks": [
                "LayerMetrics",
                "LowRank",
                "effective_rank",
                "evbmf",
                "knowledge_gain",
                "layer_metrics",
                "stable_rank",
            ],
            "histofast.similarity.uncertainty": [
                "Interval",
                "PermutationNull",
                "block_bootstrap",
                "cka_interval",
                "permutation_null",
            ],
        },
    )

__all__ = [
    "MEASURES",
    "CcaResult",
    "Change",
    "CkaAccumulator",
    "Comparison",
    "Interval",
    "Kernel",
    "LayerMetrics",
    "LowRank",
    "Measure",
    "Need",
    "PermutationNull",
    "PredictionAgreement",
    "Protocol",
    "ProtocolResult",
    "PwccaResult",
    "SvccaResult",
    "block_bootstrap",
    "cca",
    "centred",
    "check_features",
    "check_grams",
    "cka",
    "cka_interval",
    "cka_minibatch",
    "cka_pairs",
    "effective_rank",
    "error_consistency",
    "evbmf",
    "gram_products",
    "hsic1",
    "interval_of",
    "js_divergence",
    "knn_jaccard",
    "knowledge_gain",
    "layer_metrics",
    "names_of",
    "null_of",
    "pack",
    "packed_grams",
    "permutation_null",
    "prediction_agreement",
    "procrustes",
    "published_protocol",
    "pwcca",
    "rsa",
    "stable_rank",
    "start_grams",
    "svcca",
    "top1_disagreement",
    "unpack",
    "way_of",
]
