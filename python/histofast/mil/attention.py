"""Attention pooling: a weighted mean of the patches, with weights that are learnt."""

# mypy: allow-subclassing-any
from __future__ import annotations

from torch import Tensor, nn

from histofast.mil.bag_model import BagModel, BagOutput, embedder


class GatedScorer(nn.Module):
    """(n, m) embeddings to (n,) scores w (tanh(V h_i) * sigmoid(U h_i)), with biases.

    Reference: Ilse et al., 2018, Attention-based deep multiple instance learning, equation 9.
    """

    def __init__(self, width: int, attention: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.both = nn.Linear(width, 2 * attention)  # V above, U below: one product
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(attention, 1)

    def forward(self, h: Tensor) -> Tensor:
        value, gate = self.both(h).chunk(2, dim=1)  # (n, attention) each
        score: Tensor = self.last(self.dropout(value.tanh()) * self.dropout(gate.sigmoid()))
        return score.squeeze(1)


def attended(
    h: Tensor, scores: Tensor, head: nn.Linear, *, patch_head: nn.Linear | None = None
) -> BagOutput:
    """Return what the mean of embeddings (n, m), weighted by the softmax of scores (n,), says."""
    attention = scores.softmax(dim=0)
    z = attention @ h
    return BagOutput(
        output=head(z),
        embedding=z,
        attention=attention,
        scores=scores,
        patch_outputs=(patch_head or head)(h),
        auxiliary=None,
    )


class AttentionPooling(BagModel):
    """The attention pooling of HistoTransfer.

    h_i = relu(W2 relu(W1 x_i + b1) + b2), with 256 and 64 units; e_i = v tanh(V h_i + a) + b, with
    32 units; attention = softmax(e), z = sum_i attention_i h_i, output = Wc z + bc. The scores are
    e. Dropout, which is not published, follows each relu.

    Options: `hidden`, `embedding` and `attention`, the three widths; `dropout`; `patch_head`: False
    gives patch outputs by the head of the slide, Wc h_i + bc; True gives them a head of their own,
    Wp h_i + bp, as published, that nothing but a loss on the patches trains.

    Reference: Sharma et al., 2021, HistoTransfer: understanding transfer learning for
    histopathology; Ilse et al., 2018, equation 8.
    """

    name = "attention"

    def __init__(
        self,
        d: int,
        outputs: int,
        *,
        hidden: int = 256,
        embedding: int = 64,
        attention: int = 32,
        dropout: float = 0.0,
        patch_head: bool = False,
    ) -> None:
        super().__init__(d, outputs)
        self.embed = nn.Sequential(
            *embedder(d, hidden, dropout), *embedder(hidden, embedding, dropout)
        )
        self.score = nn.Sequential(
            nn.Linear(embedding, attention), nn.Tanh(), nn.Linear(attention, 1)
        )
        self.head = nn.Linear(embedding, outputs)
        self.patch_head = nn.Linear(embedding, outputs) if patch_head else None

    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        h = self.embed(bag)  # (n, 64)
        return attended(h, self.score(h).squeeze(1), self.head, patch_head=self.patch_head)


class GatedAttention(BagModel):
    """Gated attention pooling.

    h_i = dropout(relu(W1 x_i + b1)), e_i = w (tanh(V h_i + a) * sigmoid(U h_i + u)) + b, attention
    = softmax(e), z = sum_i attention_i h_i, output = Wc z + bc. The scores are e.

    Options: `hidden` and `attention`, the widths of h and of the gate; `dropout`.

    Reference: Ilse et al., 2018, Attention-based deep multiple instance learning, equation 9.
    """

    name = "gated"

    def __init__(
        self,
        d: int,
        outputs: int,
        *,
        hidden: int = 512,
        attention: int = 128,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(d, outputs)
        self.embed = embedder(d, hidden, dropout)
        self.score = GatedScorer(hidden, attention)
        self.head = nn.Linear(hidden, outputs)

    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        h = self.embed(bag)  # (n, hidden)
        return attended(h, self.score(h), self.head)
