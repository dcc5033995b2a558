"""The table of measures: how alike two representations, or two classifiers, are.

A measure is a function in this room and an entry here: `histofast.compare`, the command line and
the pages take names, titles and formulas from the entry, tests/reference.py has the definition.
Functions are loaded when they are called, so that names and formulas cost no import of NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from histofast import similarity

Need = Literal["rows", "pooled rows", "maps", "probabilities", "labels"]
Change = Literal["rotation", "scale", "shift", "linear map", "exchange"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number that says how alike two arrays are whose rows are of the same images.

    Attributes:
        name: what to ask for it by.
        title: what tables and charts call it.
        formula: as text; X and Y are the two arrays.
        needs: "rows", (n, p) and (n, q) of any width; "pooled rows", with n well above p + q;
            "maps", (n, c, h, w) twice, and a seed of what it draws; "probabilities", (n, c) twice;
            "labels", as those, and the (n,) true classes.
        function: of the two arrays, and of what else it needs.
        bounds: the least and the most that it can be.
        of_equals: what two equal arrays give; None: that depends on them.
        unchanged_by: what may be done to both arrays, each in its own way: "rotation" of the
            columns, "scale" by one factor, "shift" of the columns, any invertible "linear map" of
            them, "exchange" of the two. Measures of features only, but for exchange.
        reference: where it was published.
    """

    name: str
    title: str
    formula: str
    needs: Need
    function: Callable[..., float]
    bounds: tuple[float, float]
    of_equals: float | None
    unchanged_by: frozenset[Change]
    reference: str


def names_of(*needs: Need) -> tuple[str, ...]:
    """Return the names of the measures that need one of these, in the order of the table.

    Example:
        >>> names_of("maps")
        ('published',)
    """
    return tuple(name for name, measure in MEASURES.items() if measure.needs in needs)


_HSIC = "HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L)), HSIC1 unbiased"


_OF_FEATURES: Sequence[Measure] = (
    Measure(
        name="cka",
        title="debiased linear CKA",
        formula=f"{_HSIC}, K = X X', L = Y Y'",
        needs="rows",
        function=lambda x, y: similarity.cka(x, y),
        bounds=(-1, 1),
        of_equals=1,
        unchanged_by=frozenset({"rotation", "scale", "shift", "exchange"}),
        reference="Kornblith, Norouzi, Lee, Hinton, 2019; Song et al., 2007, for HSIC1",
    ),
    Measure(
        name="cka-rbf",
        title="debiased RBF CKA",
        formula=f"{_HSIC}, K = exp(-d^2 / (2 m)), d the distances of the rows of X, m the median "
        "of d^2, L the same of Y",
        needs="rows",
        function=lambda x, y: similarity.cka(x, y, kernel="rbf"),
        bounds=(-1, 1),
        of_equals=1,
        unchanged_by=frozenset({"rotation", "scale", "shift", "exchange"}),
        reference="Kornblith, Norouzi, Lee, Hinton, 2019; Song et al., 2007, for HSIC1",
    ),
    Measure(
        name="cca",
        title="mean CCA",
        formula="mean of the canonical correlations, the roots of the eigenvalues of "
        "Sxx^-1 Sxy Syy^-1 Syx",
        needs="pooled rows",
        function=lambda x, y: similarity.cca(x, y).mean_rho,
        bounds=(0, 1),
        of_equals=1,
        unchanged_by=frozenset({"rotation", "scale", "shift", "linear map", "exchange"}),
        reference="Hotelling, 1936",
    ),
    Measure(
        name="svcca",
        title="SVCCA (99 % of the squared singular values)",
        formula="mean CCA of the leading singular directions of X and of Y that hold 99 % of the "
        "sum of the squared singular values",
        needs="pooled rows",
        function=lambda x, y: similarity.svcca(x, y).value,
        bounds=(0, 1),
        of_equals=1,
        unchanged_by=frozenset({"rotation", "scale", "shift", "exchange"}),
        reference="Raghu, Gilmer, Yosinski, Sohl-Dickstein, 2017",
    ),
    Measure(
        name="pwcca",
        title="PWCCA, a to b",
        formula="sum_i w_i rho_i / sum_i w_i, rho_i the canonical correlations, w_i = "
        "sum_j |<h_i, x_j>|, h_i the canonical directions of X, x_j its centred columns",
        needs="pooled rows",
        function=lambda x, y: similarity.pwcca(x, y).x_to_y,
        bounds=(0, 1),
        of_equals=1,
        unchanged_by=frozenset({"scale", "shift"}),
        reference="Morcos, Raghu, Bengio, 2018",
    ),
    Measure(
        name="procrustes",
        title="orthogonal Procrustes similarity",
        formula="||X'Y||_* / (||X|| ||Y||), columns centred: sum of singular values over Frobenius norms",
        needs="pooled rows",
        function=lambda x, y: similarity.procrustes(x, y),
        bounds=(0, 1),
        of_equals=1,
        unchanged_by=frozenset({"rotation", "scale", "shift", "exchange"}),
        reference="Schonemann, 1966; Williams, Kunz, Kornblith, Linderman, 2021",
    ),
    Measure(
        name="rsa",
        title="RSA",
        formula="Spearman's correlation of the Euclidean distances between the rows of X with those "
        "between the rows of Y",
        needs="rows",
        function=lambda x, y: similarity.rsa(x, y),
        bounds=(-1, 1),
        of_equals=1,
        unchanged_by=frozenset({"rotation", "scale", "shift", "exchange"}),
        reference="Kriegeskorte, Mur, Bandettini, 2008",
    ),
    Measure(
        name="knn-jaccard",
        title="overlap of the 10 nearest neighbours",
        formula="mean over the rows of |A and B| / |A or B|, A the 10 nearest rows in X, B those in Y, "
        "by Euclidean distance",
        needs="rows",
        function=lambda x, y: similarity.knn_jaccard(x, y),
        bounds=(0, 1),
        of_equals=1,
        unchanged_by=frozenset({"rotation", "scale", "shift", "exchange"}),
        reference="Schumacher, Wolf, Ritzert, Lemmerich, Grohe, Strohmaier, 2021",
    ),
    Measure(
        name="published",
        title="mean CCA by the published protocol",
        formula="mean over 5 draws of the mean CCA of about 10,000 places (rows) and 64 channels "
        "(columns), the same ones of X and Y",
        needs="maps",
        function=lambda x, y, seed=0: similarity.published_protocol(x, y, seed=seed).value,
        bounds=(0, 1),
        of_equals=1,
        unchanged_by=frozenset({"scale", "shift", "exchange"}),
        reference="Raghu, Zhang, Kleinberg, Bengio, 2019; Juodelyte, Jimenez-Sanchez, "
        "Cheplygina, 2023",
    ),
)

_OF_PREDICTIONS: Sequence[Measure] = (
    Measure(
        name="js-divergence",
        title="Jensen-Shannon divergence (bits)",
        formula="mean of H((x + y) / 2) - (H(x) + H(y)) / 2 over the rows, H the entropy in bits",
        needs="probabilities",
        function=lambda x, y: similarity.js_divergence(x, y),
        bounds=(0, 1),
        of_equals=0,
        unchanged_by=frozenset({"exchange"}),
        reference="Lin, 1991",
    ),
    Measure(
        name="top1-disagreement",
        title="share with another class",
        formula="share of the images whose most probable classes differ",
        needs="probabilities",
        function=lambda x, y: similarity.top1_disagreement(x, y),
        bounds=(0, 1),
        of_equals=0,
        unchanged_by=frozenset({"exchange"}),
        reference="Fort, Hu, Lakshminarayanan, 2019",
    ),
    Measure(
        name="agreement",
        title="both right or both wrong",
        formula="share of the images that both put into the true class, or neither",
        needs="labels",
        function=lambda x, y, labels: similarity.prediction_agreement(x, y, labels).observed,
        bounds=(0, 1),
        of_equals=1,
        unchanged_by=frozenset({"exchange"}),
        reference="Geirhos, Meding, Wichmann, 2020",
    ),
    Measure(
        name="chance-agreement",
        title="the same by chance",
        formula="a b + (1 - a) (1 - b), a and b the accuracies: what independent errors give",
        needs="labels",
        function=lambda x, y, labels: similarity.prediction_agreement(x, y, labels).chance,
        bounds=(0, 1),
        of_equals=None,
        unchanged_by=frozenset({"exchange"}),
        reference="Geirhos, Meding, Wichmann, 2020",
    ),
    Measure(
        name="error-consistency",
        title="error consistency (kappa)",
        formula="(o - c) / (1 - c), o the share both right or both wrong, c that by chance",
        needs="labels",
        function=lambda x, y, labels: similarity.error_consistency(x, y, labels),
        bounds=(-1, 1),
        of_equals=1,
        unchanged_by=frozenset({"exchange"}),
        reference="Geirhos, Meding, Wichmann, 2020",
    ),
)

MEASURES: Mapping[str, Measure] = {
    measure.name: measure for measure in (*_OF_FEATURES, *_OF_PREDICTIONS)
}
