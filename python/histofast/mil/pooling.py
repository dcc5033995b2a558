"""Pooling without attention: the mean of the patches, and the one patch that says most."""

from __future__ import annotations

from torch import Tensor, nn

from histofast.mil.bag_model import BagModel, BagOutput, embedder


class MeanPooling(BagModel):
    """The mean of the embedded patches.

    h_i = dropout(relu(W1 x_i + b1)), z = mean_i h_i, output = Wc z + bc.

    Options: `hidden`, the width of h (0: h_i = dropout(x_i), a linear model of the mean features);
    `dropout`.
    """

    name = "mean"
    attends = False

    def __init__(self, d: int, outputs: int, *, hidden: int = 512, dropout: float = 0.25) -> None:
        super().__init__(d, outputs)
        self.embed = embedder(d, hidden, dropout)
        self.head = nn.Linear(hidden or d, outputs)

    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        h = self.embed(bag)  # (n, m)
        z = h.mean(dim=0)
        return BagOutput(
            output=self.head(z),
            embedding=z,
            attention=None,
            scores=None,
            patch_outputs=self.head(h),
            auxiliary=None,
        )


class MaxPooling(BagModel):
    """The patch that says most speaks for the slide.

    h_i = dropout(relu(W1 x_i + b1)), o_i = Wc h_i + bc, output = o_k, z = h_k, k = argmax_i s_i,
    with the scores s_i = o_i for one output, o_i1 - o_i0 for two classes, and the largest log
    probability of o_i for more.

    Options: `hidden`, the width of h (0: h_i = dropout(x_i)); `dropout`.

    Reference: Campanella et al., 2019, Clinical-grade computational pathology using weakly
    supervised deep learning on whole slide images, for two classes.
    """

    name = "max"
    attends = False

    def __init__(self, d: int, outputs: int, *, hidden: int = 512, dropout: float = 0.25) -> None:
        super().__init__(d, outputs)
        self.embed = embedder(d, hidden, dropout)
        self.head = nn.Linear(hidden or d, outputs)

    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        h = self.embed(bag)  # (n, m)
        patch_outputs = self.head(h)  # (n, c)
        if self.outputs == 1:
            scores = patch_outputs[:, 0]
        elif self.outputs == 2:
            scores = patch_outputs[:, 1] - patch_outputs[:, 0]
        else:
            scores = patch_outputs.log_softmax(dim=1).amax(dim=1)
        most = scores.argmax()
        return BagOutput(
            output=patch_outputs[most],
            embedding=h[most],
            attention=None,
            scores=scores,
            patch_outputs=patch_outputs,
            auxiliary=None,
        )
