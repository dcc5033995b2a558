"""Several checkpoints of one architecture in, one out.

A tensor of two or more dimensions is a matrix here: a row for each output channel. Vectors (biases,
BatchNorm weights) are merged as vectors; where a method is one of matrices, they are averaged. Running
statistics are averaged, counters are those of the first: measure both anew on images of the target, for a
merged network with old statistics looks useless.

`theta_0` is the base that all parts began with, `tau_k = theta_k - theta_0`. Reference, in the order of
METHODS: Wortsman et al., 2022 (model soups); Ilharco et al., 2023 (task arithmetic); Yadav et al., 2023
(TIES); Jang et al., 2024 (Model Stock); Marczak et al., 2025 (Iso-C). svd-pre and svd-post are our
reading of HistoKT's weight distillation, whose formula is not published; so are ranks by EVBMF (Nakajima et
al., 2013), which HistoKT has of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from histofast._numbers import real_number, whole_number
from histofast._words import did_you_mean
from histofast.errors import ModelError
from histofast.similarity import evbmf

Method = Literal["mean", "greedy", "task", "ties", "stock", "svd-pre", "svd-post", "iso"]
METHODS: tuple[str, ...] = get_args(Method)
ON_A_BASE = frozenset({"task", "ties", "stock", "iso"})
OF_RANK = frozenset({"svd-pre", "svd-post"})
Rank = int | Literal["evbmf"]
EVBMF: Literal["evbmf"] = "evbmf"  # each tensor has its own rank

State = Mapping[str, Tensor]
_KEPT = 0.2  # share of each tau that ties keeps
_STATISTICS = ("running_mean", "running_var")


def merge_states(
    states: Sequence[State],
    method: str,
    *,
    base: State | None = None,
    rank: Rank | None = None,
    scale: float = 1.0,
    score: Callable[[State], float] | None = None,
) -> dict[str, Tensor]:
    """Merge the state dicts of one architecture.

    | method | what comes out |
    |---|---|
    | mean | the mean of all |
    | greedy | from the best by `score` on, each joins the mean where the score does not drop |
    | task | base + scale * the sum of tau |
    | ties | base + scale * the mean of what is left of tau: the largest fifth of each, of the sign that wins |
    | stock | t * mean + (1 - t) * base, t = k cos / (1 + (k - 1) cos), cos between the tau of a tensor |
    | svd-pre | the mean of truncations to `rank` |
    | svd-post | the mean, truncated to `rank` |
    | iso | base + scale * the sum of tau with all singular values replaced by their mean |

    Args:
        states: k >= 2, of the same keys and shapes, in any order: the result does not depend on it.
        method: one of `METHODS`.
        base: what all began with; for task, ties, stock and iso.
        rank: singular values that are kept, >= 1; for svd-pre and svd-post. "evbmf": in each matrix as
            many as stand out of its noise (`similarity.evbmf`), but at least one.
        scale: of the sum, for task, ties and iso.
        score: of a candidate on held-out data, higher is better; for greedy.

    Returns:
        A state dict in float32.

    Raises:
        ModelError: keys or shapes that differ, numbers that are not finite.
        TypeError: a rank or a scale that is no number.
        ValueError: an unknown method, one part only, something that the method needs or has no use for.
    """
    rank = _checked_rank(rank)
    scale = real_number("scale", scale, at_least=0)
    _check_arguments(len(states), method, base=base, rank=rank, score=score)
    wide = [_wide(state, states[0]) for state in states]
    wide.sort(key=_content)  # sums are of one order, whatever that of the parts
    if method == "greedy":
        assert score is not None
        return _narrow(_greedy(wide, states[0], score), states[0])
    begun = None if base is None else _wide(base, states[0])
    merged = {}
    for key in wide[0]:
        parts = [state[key] for state in wide]
        if key.endswith(_STATISTICS):
            merged[key] = _mean(parts)
        else:
            merged[key] = _of_tensor(
                parts, method, base=None if begun is None else begun[key], rank=rank, scale=scale
            )
    return _narrow(merged, states[0])


def _of_tensor(
    parts: Sequence[Tensor], method: str, *, base: Tensor | None, rank: Rank | None, scale: float
) -> Tensor:
    is_matrix = parts[0].ndim > 1
    if base is None:
        if not is_matrix or method == "mean":
            return _mean(parts)
        assert rank is not None
        if method == "svd-pre":
            return _mean([_truncated(part, rank) for part in parts])
        return _truncated(_mean(parts), rank)
    taus = [part - base for part in parts]
    if method == "stock":
        return base + _stock_share(taus) * _mean(taus)
    if method == "task":
        return base + scale * torch.stack(taus).sum(0)
    if method == "ties":
        return base + scale * _elected(taus)
    return base + scale * (_levelled(torch.stack(taus).sum(0)) if is_matrix else _mean(taus))


# --- Methods -----------------------------------------------------------------------------------


def _mean(parts: Sequence[Tensor]) -> Tensor:
    if all(torch.equal(part, parts[0]) for part in parts[1:]):
        return parts[0].clone()  # to the last bit
    return torch.stack(list(parts)).mean(0)


def _greedy(
    states: list[dict[str, Tensor]], like: State, score: Callable[[State], float]
) -> dict[str, Tensor]:
    ranked = sorted(states, key=lambda state: -score(_narrow(state, like)))
    chosen, best = [ranked[0]], score(_narrow(ranked[0], like))
    for state in ranked[1:]:
        tried = _averaged([*chosen, state])
        found = score(_narrow(tried, like))
        if found >= best:
            chosen, best = [*chosen, state], found
    return _averaged(chosen)


def _averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: _mean([state[key] for state in states]) for key in states[0]}


def _elected(taus: Sequence[Tensor]) -> Tensor:
    """The mean of those entries of the trimmed taus whose sign is that of their sum."""
    trimmed = torch.stack([_trimmed(tau) for tau in taus])
    agrees = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
    return (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def _trimmed(tau: Tensor) -> Tensor:
    """The entries that are among the largest fifth, at least one; the others 0."""
    kept = max(1, round(_KEPT * tau.numel()))
    least = tau.abs().flatten().kthvalue(tau.numel() - kept + 1).values
    return torch.where(tau.abs() >= least, tau, 0)


def _stock_share(taus: Sequence[Tensor]) -> float:
    """k cos / (1 + (k - 1) cos) of the mean cosine between two; parts that did not move: 1."""
    flat = torch.stack([tau.flatten() for tau in taus])
    norms = flat.norm(dim=1)
    if not bool((norms > 0).all()):
        return 1.0
    k = len(taus)
    if all(torch.equal(tau, taus[0]) for tau in taus[1:]):
        return 1.0
    cosines = (flat @ flat.T) / (norms[:, None] * norms)
    cosine = float((cosines.sum() - cosines.diagonal().sum()) / (k * (k - 1)))
    cosine = min(max(cosine, 0.0), 1.0)  # parts that went apart say nothing of a common direction
    return k * cosine / (1 + (k - 1) * cosine)


def _truncated(tensor: Tensor, rank: Rank) -> Tensor:
    matrix = tensor.reshape(len(tensor), -1)
    if rank == EVBMF:
        rank = max(1, evbmf(matrix.numpy()).rank)
    if rank >= min(matrix.shape):
        return tensor.clone()
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).reshape(tensor.shape)


def _levelled(tensor: Tensor) -> Tensor:
    matrix = tensor.reshape(len(tensor), -1)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    if not bool(s.any()):
        return tensor.clone()
    return ((u * s.mean()) @ vh).reshape(tensor.shape)


# --- What comes in and goes out ----------------------------------------------------------------


def _checked_rank(rank: Rank | None) -> Rank | None:
    given: Any = rank
    match given:
        case None | "evbmf":
            return rank
        case str():
            raise ValueError(f"rank must be a whole number or {EVBMF}, got {given!r}")
    number: int = whole_number("rank", given, at_least=1)
    return number


def _check_arguments(k: int, method: str, *, base: object, rank: object, score: object) -> None:
    if method not in METHODS:
        near = did_you_mean(method, METHODS)
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}{near}")
    if k < 2:
        raise ValueError(f"a merge must have at least two parts, got {k}")
    for name, value, wanted in (
        ("base", base, ON_A_BASE),
        ("rank", rank, OF_RANK),
        ("score", score, {"greedy"}),
    ):
        if method in wanted and value is None:
            raise ValueError(f"{name} must be given for method {method}, got none")
        if method not in wanted and value is not None:
            raise ValueError(f"{name} must be left out for method {method}: it has no use for it")


def _wide(state: State, like: State) -> dict[str, Tensor]:
    """Return the floating tensors of a state in float64, in one order."""
    if set(state) != set(like):
        apart = sorted(set(state) ^ set(like))
        raise ModelError(
            f"parts of a merge must be of one network, got {len(apart)} tensors that are not in all, "
            f"first {apart[0]}"
        )
    found = {}
    for key in sorted(like):
        if state[key].shape != like[key].shape:
            raise ModelError(
                f"parts of a merge must be of one network, got {key} of shape "
                f"{tuple(like[key].shape)} and {tuple(state[key].shape)}"
            )
        if not state[key].is_floating_point():
            continue
        found[key] = state[key].detach().cpu().double()
        if not bool(found[key].isfinite().all()):
            raise ModelError(f"parts of a merge must be finite, got NaN or infinity in {key}")
    return found


def _content(state: Mapping[str, Tensor]) -> list[float]:
    return [float(value.sum()) for value in state.values()] + [
        float(value.abs().max()) for value in state.values() if value.numel()
    ]


def _narrow(merged: Mapping[str, Tensor], like: State) -> dict[str, Tensor]:
    return {
        key: merged[key].float() if key in merged else value.clone() for key, value in like.items()
    }
