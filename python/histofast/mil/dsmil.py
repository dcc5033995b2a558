"""DSMIL: the most telling patch of a class, and how near to it the others are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from histofast.mil.bag_model import BagModel, BagOutput


class Dsmil(BagModel):
    """Dual-stream pooling, at one magnification.

    Patches: o_i = Wo x_i + bo; the critical patch of class j is k_j = argmax_i o_ij. Bag:
    q_i = Wq x_i + bq, distance u_ij = q_i . q_(k_j) / sqrt(width of q), attention over patches
    a_j = softmax_i(u_ij), z_j = sum_i a_ij (Wv x_i + bv), bag output Wb [z_1 .. z_c] + bb. The
    output is the mean of o_(k_j)j and the bag output, as published for the slide's score; the
    embedding is [z_1 .. z_c], of c d numbers. Attention and scores are a_j and u_ij of the class j
    of the highest output; patch outputs are o.

    With a target and c >= 2, `auxiliary` is the loss of the critical patches, the mean over classes
    of the binary cross-entropy of o_(k_j)j with [j = target]. With one output there is none, and
    the patches' stream learns by its half of the output.

    Options: `query`, the width of q; `dropout`, of the features that z_j is made from.

    Reference: Li, Li and Eliceiri, 2021, Dual-stream multiple instance learning network for whole
    slide image classification with self-supervised contrastive learning, equations 2 to 6.
    """

    name = "dsmil"

    def __init__(self, d: int, outputs: int, *, query: int = 128, dropout: float = 0.0) -> None:
        super().__init__(d, outputs)
        self.instance = nn.Linear(d, outputs)
        self.query = nn.Linear(d, query)
        self.dropout = nn.Dropout(dropout)
        self.value = nn.Linear(d, d)
        self.head = nn.Linear(outputs * d, outputs)

    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        patch_outputs = self.instance(bag)  # (n, c)
        highest, critical = patch_outputs.max(dim=0)  # (c,)
        queries = self.query(bag)  # (n, query)
        distances = queries @ queries[critical].T / math.sqrt(queries.shape[1])  # (n, c)
        weights = distances.softmax(dim=0)
        # Weights sum to 1, so the values' linear layer may come after the mean: c rows, not n.
        values = self.value(weights.T @ self.dropout(bag))  # (c, d)
        output = (highest + self.head(values.flatten())) / 2
        shown = output.argmax()
        auxiliary = None
        if target is not None and self.outputs > 1:
            wanted = torch.zeros_like(highest)
            wanted[self.class_of(target)] = 1
            auxiliary = binary_cross_entropy_with_logits(highest, wanted)
        return BagOutput(
            output=output,
            embedding=values.flatten(),
            attention=weights[:, shown],
            scores=distances[:, shown],
            patch_outputs=patch_outputs,
            auxiliary=auxiliary,
        )
