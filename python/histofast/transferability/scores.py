"""The table of scores: what is said of a network on a data set before it is trained there.

A score is a function and an entry here; studies and pages take names, titles and formulas from the entry,
tests/reference_transferability.py has the definition. Functions are loaded when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from histofast import transferability

Needs = Literal["features", "labels", "groups", "network"]
Change = Literal["rotation", "scale", "shift"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A number that is meant to be the higher, the better a network does on a data set once trained.

    Attributes:
        name: what to ask for it by.
        title: what tables and charts call it.
        formula: as text; F are the (n, d) features, y the classes of the rows.
        needs: "features", (n, d) alone; "labels", as well the (n,) integer classes; "groups", as well
            the (n,) patient or slide of each row; "network", a network in evaluation mode, (n, h, w, 3)
            uint8 pixels and the classes.
        function: of these, in this order.
        unchanged_by: what may be done to the features: "rotation" of the columns, "scale" by one
            factor, "shift" of the columns. Of scores that take a network, none.
        reference: where it was published.
    """

    name: str
    title: str
    formula: str
    needs: Needs
    function: Callable[..., float]
    unchanged_by: frozenset[Change]
    reference: str


def scores_of(*needs: Needs) -> tuple[str, ...]:
    """Return the names of the scores that need one of these, in the order of the table.

    Example:
        >>> scores_of("features")
        ('rankme',)
    """
    return tuple(name for name, score in SCORES.items() if score.needs in needs)


def _feature_reuse(network: Any, pixels: Any, labels: Any) -> float:
    from histofast import networks  # torch, which no other score needs

    return networks.feature_reuse(network, pixels, labels)


_ENTRIES: Sequence[Score] = (
    Score(
        name="linear-probe",
        title="linear probe (AUROC)",
        formula="AUROC within folds by group of y regressed on F, ridge of a strength chosen on other groups",
        needs="groups",
        function=lambda f, y, groups=None: (
            transferability.linear_probe(f, y, groups=groups).auroc.value
        ),
        unchanged_by=frozenset({"scale", "shift"}),
        reference="Alain, Bengio, 2016",
    ),
    Score(
        name="knn",
        title="k nearest neighbours (AUROC)",
        formula="AUROC within folds by group of the shares of y among the k rows of the highest cosine, k "
        "chosen on other groups",
        needs="groups",
        function=lambda f, y, groups=None: (
            transferability.knn_probe(f, y, groups=groups).auroc.value
        ),
        unchanged_by=frozenset({"rotation", "scale", "shift"}),
        reference="Wu, Xiong, Yu, Lin, 2018",
    ),
    Score(
        name="logme",
        title="LogME",
        formula="mean over the classes of 1/n max over a, b of n/2 log b + d/2 log a - b/2 ||F m - y||^2 - "
        "a/2 m'm - 1/2 log |a I + b F'F| - n/2 log 2 pi, m = b (a I + b F'F)^-1 F'y",
        needs="labels",
        function=lambda f, y: transferability.log_me(f, y),
        unchanged_by=frozenset({"rotation", "scale"}),
        reference="You, Liu, Wang, Long, 2021",
    ),
    Score(
        name="h-score",
        title="H-score, shrunk",
        formula="tr(C^-1 (1 - s) cov(E[F | y])), C = (1 - s) cov(F) + s tr(cov(F))/d I, s of Ledoit and Wolf",
        needs="labels",
        function=lambda f, y: transferability.h_score(f, y),
        unchanged_by=frozenset({"rotation", "scale", "shift"}),
        reference="Ibrahim, Ponomareva, Mazumder, 2021; Bao et al., 2019",
    ),
    Score(
        name="transrate",
        title="TransRate",
        formula="R(Z) - mean over the classes of R(Z of the class), R(Z) = 1/2 log |I + Z'Z / (n 1e-4)|, Z "
        "the centred F of mean squared length 1",
        needs="labels",
        function=lambda f, y: transferability.trans_rate(f, y),
        unchanged_by=frozenset({"rotation", "scale", "shift"}),
        reference="Huang, Wei, Rong, Yang, Huang, 2021",
    ),
    Score(
        name="rankme",
        title="RankMe (no labels)",
        formula="exp(-sum p log p), p the singular values of F over their sum",
        needs="features",
        function=lambda f: transferability.rank_me(f),
        unchanged_by=frozenset({"rotation", "scale"}),
        reference="Garrido, Balestriero, Najman, LeCun, 2022",
    ),
    Score(
        name="feature-reuse",
        title="gradient ratio FU",
        formula="mean over batches of ||dL/dW2|| over that of ||dL/dW1||, L the triplet margin loss of "
        "features, W1 and W2 the first two convolutions",
        needs="network",
        function=_feature_reuse,
        unchanged_by=frozenset(),
        reference="Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024",
    ),
)

SCORES: Mapping[str, Score] = {score.name: score for score in _ENTRIES}
