"""CLAM: gated attention, and patches at both ends of it told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from histofast.mil.attention import GatedScorer, attended
from histofast.mil.bag_model import BagModel, BagOutput, embedder


def smooth_svm_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the smooth top-1 SVM loss, the mean of log sum_j exp(s_j + [j != y]) - s_y.

    Margin and temperature are 1. It is the cross-entropy of logits whose wrong classes have gained
    the margin, which is smooth everywhere and never under the hinge loss.

    Args:
        logits: (n, c) scores s.
        targets: (n,) int64 classes y.

    Reference: Berrada et al., 2018, Smooth loss functions for deep top-k classification, k = 1.
    """
    margins = 1 - nn.functional.one_hot(targets, logits.shape[1])
    loss: Tensor = cross_entropy(logits + margins, targets)
    return loss


INSTANCE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "svm": smooth_svm_loss,
    "cross-entropy": cross_entropy,
}


class Clam(BagModel):
    """CLAM with a single branch of attention.

    h_i = dropout(relu(W1 x_i + b1)), e_i = w (tanh(V h_i + a) * sigmoid(U h_i + u)) + b with dropout
    on both factors, attention = softmax(e), z = sum_i attention_i h_i, output = Wc z + bc. The
    scores are e.

    With a target y, `auxiliary` is `instance_weight` times the loss of instances. Class j has its
    own linear classifier of two logits, q_j(h). Of the k patches of highest score H and the k of
    lowest L, k = min(k_sample, n // 2) so that no patch is in both,

        inside = mean of loss(q_y(h_i), 1) over H and loss(q_y(h_i), 0) over L
        outside = sum over j != y of the mean of loss(q_j(h_i), 0) over H
        loss of instances = inside, or (inside + outside) / c for classes that exclude each other

    where loss is `smooth_svm_loss`. A bag of one patch has a loss of instances of 0.

    Options: `hidden` and `attention`, the widths of h and of the gate; `dropout`; `k_sample`;
    `subtyping`, True for classes that exclude each other, as subtypes of a tumour do and tumour and
    normal tissue do not; `instance_loss`, "svm" or "cross-entropy"; `instance_weight`, published as
    0.3 against 0.7 for the slide.

    Reference: Lu et al., 2021, Data-efficient and weakly supervised computational pathology on
    whole-slide images.
    """

    name = "clam"
    least_outputs = 2

    def __init__(
        self,
        d: int,
        outputs: int,
        *,
        hidden: int = 512,
        attention: int = 256,
        dropout: float = 0.25,
        k_sample: int = 8,
        subtyping: bool = False,
        instance_loss: str = "svm",
        instance_weight: float = 0.3 / 0.7,
    ) -> None:
        super().__init__(d, outputs)
        self.k_sample = k_sample
        self.subtyping = subtyping
        self.instance_loss = INSTANCE_LOSSES[instance_loss]
        self.instance_weight = instance_weight
        self.embed = embedder(d, hidden, dropout)
        self.score = GatedScorer(hidden, attention, dropout=dropout)
        self.head = nn.Linear(hidden, outputs)
        self.instance = nn.Linear(hidden, 2 * outputs)  # the two logits of class j: 2j, 2j + 1

    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        h = self.embed(bag)  # (n, hidden)
        scores = self.score(h)
        out = attended(h, scores, self.head)
        if target is None:
            return out
        loss = self._loss(h, scores, self.class_of(target))
        return replace(out, auxiliary=self.instance_weight * loss)

    def _loss(self, h: Tensor, scores: Tensor, target: int) -> Tensor:
        """Return the loss of instances, a scalar."""
        k = min(self.k_sample, len(h) // 2)
        if k == 0:
            return h.new_zeros(())
        ends = torch.cat([scores.topk(k).indices, scores.topk(k, largest=False).indices])
        logits = self.instance(h[ends]).unflatten(1, (-1, 2))  # (2k, c, 2)
        sides = torch.zeros(2 * k, dtype=torch.long, device=h.device)
        sides[:k] = 1
        loss = self.instance_loss(logits[:, target], sides)
        if not self.subtyping:
            return loss
        for other in range(self.outputs):
            if other != target:
                loss = loss + self.instance_loss(logits[:k, other], torch.zeros_like(sides[:k]))
        return loss / self.outputs
