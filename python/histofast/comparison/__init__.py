"""Two networks layer by layer on the same images, or encoders by their feature files.

Wide maps of many images fit nowhere, so debiased CKA is summed over batches of images: while a
network runs, each layer is reduced to the centred Gram of the batch, n_b x n_b numbers whatever the
width, and the products of all pairs of Grams are added up (Nguyen, Raghu, Kornblith, 2020). Memory
does not grow with the number of images. One loader feeds both networks.

Intervals resample groups of images (slides, patients): the pairs of images of a batch are weighted
by how often their groups are drawn; pairs across two draws of one group are left out, since they
are no independent evidence. The centring of each batch is kept, a first-order approximation.
"""

from __future__ import annotations

from histofast.comparison.answers import answer_of
from histofast.comparison.comparing import compare
from histofast.comparison.feature_files import compare_features
from histofast.comparison.lines import comparison_text
from histofast.comparison.resampling import resampled, shuffled
from histofast.comparison.result import SimilarityResult
from histofast.comparison.several import Alike, compare_pairs
from histofast.comparison.spatial import average_to
from histofast.comparison.subjects import MIN_IMAGES
from histofast.comparison.words import describe_comparison

__all__ = [
    "MIN_IMAGES",
    "Alike",
    "SimilarityResult",
    "answer_of",
    "average_to",
    "compare",
    "compare_features",
    "compare_pairs",
    "comparison_text",
    "describe_comparison",
    "resampled",
    "shuffled",
]


def __dir__() -> list[str]:
    return __all__
