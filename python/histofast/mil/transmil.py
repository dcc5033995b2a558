"""TransMIL: patches as a sequence that looks at itself, read by a class token."""

# mypy: allow-subclassing-any
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, scaled_dot_product_attention

from histofast.mil.bag_model import BagModel, BagOutput

NEAR = 33  # tokens of a sequence that the convolution of values sees


def nystrom_attention(q: Tensor, k: Tensor, v: Tensor, *, landmarks: int) -> Tensor:
    """Approximate softmax(q k^T / sqrt(w)) v by landmarks, in time that is linear in tokens.

    softmax(q k'^T / sqrt(w)) pinv(softmax(q' k'^T / sqrt(w))) softmax(q' k^T / sqrt(w)) v, where q'
    and k' are means over `landmarks` or fewer runs of ceil(t / landmarks) tokens, the last maybe
    shorter. With no more tokens than landmarks every token is its own, and the result is exact.

    Args:
        q, k, v: (heads, t, w).

    Returns:
        (heads, t, w).

    Reference: Xiong et al., 2021, Nystromformer, equations 13 to 15.
    """
    tokens = q.shape[1]
    if tokens <= landmarks:
        return _attend(q, k, v)
    run = math.ceil(tokens / landmarks)
    near_q, near_k = _means_of_runs(q, run), _means_of_runs(k, run)
    # Three-fold products lose too much in half precision.
    with torch.autocast(q.device.type, enabled=False):
        between = near_q.float() if q.dtype in (torch.float16, torch.bfloat16) else near_q
        between = between @ near_k.to(between.dtype).mT / math.sqrt(q.shape[2])
        inverse = pseudo_inverse(between.softmax(dim=2))
        middle = inverse @ _attend(near_q, k, v).to(inverse.dtype)
    return _attend(q, near_k, middle.to(q.dtype))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = scaled_dot_product_attention(q[None], k[None], v[None])[0]
    return out


def _means_of_runs(x: Tensor, run: int) -> Tensor:
    """(heads, t, w) to (heads, ceil(t / run), w)."""
    tokens = x.shape[1]
    runs = math.ceil(tokens / run)
    sums = pad(x, (0, 0, 0, runs * run - tokens)).unflatten(1, (runs, run)).sum(dim=2)
    counts = x.new_full((runs, 1), run)
    counts[-1] = tokens - run * (runs - 1)
    return sums / counts


def pseudo_inverse(a: Tensor, *, iterations: int = 6) -> Tensor:
    """Approximate the pseudo-inverses of (..., m, m) matrices whose rows sum to 1.

    z_0 = a^T / (largest column sum of |a| * largest row sum of |a|),
    z <- z (13 I - a z (15 I - a z (7 I - a z))) / 4, a fixed number of times: directions of small
    singular values stay damped, which keeps attention finite.

    Reference: Razavi et al., 2014, A new iterative method for finding approximate inverses of
    complex matrices, as in Xiong et al., 2021.
    """
    columns, rows = a.abs().sum(dim=-2).amax(dim=-1), a.abs().sum(dim=-1).amax(dim=-1)
    z = a.mT / (columns * rows)[..., None, None]
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        product = a @ z
        z = z @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return z


class SelfAttention(nn.Module):
    """Attention of several heads, plus a convolution of the values along the sequence."""

    def __init__(self, width: int, *, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.landmarks = landmarks
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.near = nn.Conv2d(
            heads, heads, (NEAR, 1), padding=(NEAR // 2, 0), groups=heads, bias=False
        )
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def _in_heads(self, x: Tensor) -> Tensor:
        """(t, width) to (heads, t, width / heads)."""
        return x.unflatten(1, (self.heads, -1)).transpose(0, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(t, width) to (t, width), by landmarks."""
        q, k, v = (self._in_heads(f(tokens)) for f in (self.query, self.key, self.value))
        seen = nystrom_attention(q, k, v, landmarks=self.landmarks) + self.near(v[None])[0]
        out: Tensor = self.out(seen.transpose(0, 1).flatten(1))
        return out

    def first(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the first token sees, (width,), and log attention (heads, t), exactly."""
        q = self._in_heads(self.query(tokens[:1]))
        k, v = self._in_heads(self.key(tokens)), self._in_heads(self.value(tokens))
        logits = (q @ k.mT).squeeze(1) / math.sqrt(q.shape[2])  # (heads, t)
        log_attention = logits.log_softmax(dim=1)
        near = self.near(v[None, :, : NEAR // 2 + 1])[0, :, :1]  # (heads, 1, width / heads)
        seen = logits.softmax(dim=1)[:, None] @ v + near
        return self.out(seen.flatten()), log_attention


class PositionEncoding(nn.Module):
    """PPEG: the square of tokens plus its 7 x 7, 5 x 5 and 3 x 3 convolutions, per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, side, groups=width) for side in (7, 5, 3)
        )

    def forward(self, square: Tensor) -> Tensor:
        """(1, width, side, side) to the same."""
        # Convolutions add up: one pass with the sum of the kernels instead of three.
        kernel = sum(pad(c.weight, [(7 - c.kernel_size[0]) // 2] * 4) for c in self.convolutions)
        bias = sum(c.bias for c in self.convolutions)
        out: Tensor = square + conv2d(square, kernel, bias, padding=3, groups=square.shape[1])
        return out


class TransMil(BagModel):
    """A transformer of two layers over the patches in the order of the file.

    1. h_i = relu(W1 x_i + b1). The sequence is squared: the first patches stand again at its end
       until there are side^2, side = ceil(sqrt(n)). A learnt class token goes in front.
    2. Layer 1: t <- t + attention(norm(t)), Nystrom attention of `landmarks` landmarks plus a
       convolution of the values over 33 tokens.
    3. PPEG: the patches as a side x side square, plus convolutions of 7, 5 and 3 per channel.
    4. Layer 2, for the class token. Nothing else of it is read, so its attention is computed
       exactly, which costs less than the published approximation of the whole.
    5. z = norm(class token), output = Wc z + bc.

    Nystrom attention and not the exact one in layer 1 because that is the published method, and
    because time and memory stay linear in n. Where the sequence is not longer than `landmarks` both
    are the same.

    The attention of a patch is that of the class token in layer 2, meant over heads and over its
    places in the square, and normalised over patches; the score is its logarithm before
    normalisation. There are no patch outputs. Other orders of the patches give other outputs.

    Options: `hidden`, the width; `heads`, which must divide it; `landmarks`; `dropout`, of what
    attention gives.

    Reference: Shao et al., 2021, TransMIL: transformer based correlated multiple instance learning
    for whole slide image classification, algorithms 1 and 2.
    """

    name = "transmil"
    scores_patches = False

    def __init__(
        self,
        d: int,
        outputs: int,
        *,
        hidden: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(d, outputs)
        if hidden % heads:
            raise ValueError(f"heads must divide hidden, got heads={heads} and hidden={hidden}")
        self.embed = nn.Sequential(nn.Linear(d, hidden), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(1, hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.layers = nn.ModuleList(
            SelfAttention(hidden, heads=heads, landmarks=landmarks, dropout=dropout)
            for _ in range(2)
        )
        self.position = PositionEncoding(hidden)
        self.head = nn.Linear(hidden, outputs)

    def look(self, bag: Tensor, target: Tensor | None) -> BagOutput:
        n = len(bag)
        side = math.isqrt(n - 1) + 1
        again = side * side - n
        h = self.embed(bag)  # (n, hidden)
        tokens = torch.cat([self.class_token, h, h[:again]])  # (1 + side^2, hidden)
        tokens = tokens + self.layers[0](self.norms[0](tokens))
        square = tokens[1:].T.unflatten(1, (side, side))[None]  # (1, hidden, side, side)
        tokens = torch.cat([tokens[:1], self.position(square)[0].flatten(1).T])
        seen, log_attention = self.layers[1].first(self.norms[1](tokens))
        z = self.norms[2](tokens[0] + seen)
        places = log_attention.logsumexp(dim=0)[1:] - math.log(len(log_attention))  # (side^2,)
        twice = torch.logaddexp(places[:again], places[n:]) - math.log(2)
        scores = torch.cat([twice, places[again:n]])
        return BagOutput(
            output=self.head(z),
            embedding=z,
            attention=scores.softmax(dim=0),
            scores=scores,
            patch_outputs=None,
            auxiliary=None,
        )
