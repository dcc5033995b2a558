"""Optimisers and rates that a recipe asks for."""

# mypy: allow-subclassing-any
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from histofast.classify.recipe import Recipe

_HEAD_RATE = 10  # times the rate of the whole, where the head trains alone


class AdamP(torch.optim.Optimizer):
    """AdamW whose steps along a weight's own direction are left out where they only grow its norm.

    Behind a BatchNorm the length of a weight does not matter, but momentum grows it and so lowers the
    effective rate. A step is projected where gradient and weight are nearly orthogonal, by channel or in
    the whole, and its weight decay is lowered then.

    Reference: Heo, Chun, Oh et al., 2021, AdamP: slowing down the slowdown for momentum optimizers on
    scale-invariant weights, algorithm 2; delta and the ratio of weight decay are the paper's.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, weight_decay: float) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.betas, self.eps, self.delta, self.decay_ratio = (0.9, 0.999), 1e-8, 0.1, 0.1

    def step(self, closure: Any = None) -> None:
        """Take one step."""
        assert closure is None, "the loss is computed before"
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step(parameter, group["lr"], group["weight_decay"])

    def _step(self, p: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        beta1, beta2 = self.betas
        gradient = p.grad
        assert gradient is not None
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = math.sqrt(1 - beta2 ** state["step"])
        direction = state["mean"] / (state["square"].sqrt() / scale + self.eps)
        decay = 1.0
        if p.ndim > 1:
            direction, decay = self._projected(p, gradient, direction)
        if weight_decay:
            p.mul_(1 - lr * weight_decay * decay)
        p.add_(direction, alpha=-lr / (1 - beta1 ** state["step"]))

    def _projected(self, p: Tensor, gradient: Tensor, direction: Tensor) -> tuple[Tensor, float]:
        for rows in (p.shape[0], 1):  # each channel by itself, then the whole
            w, g = p.reshape(rows, -1), gradient.reshape(rows, -1)
            lengths = w.norm(dim=1) * g.norm(dim=1) + self.eps
            cosine = ((w * g).sum(1) / lengths).abs().max()
            if cosine < self.delta / math.sqrt(w.shape[1]):
                unit = w / (w.norm(dim=1, keepdim=True) + self.eps)
                d = direction.reshape(rows, -1)
                along = (unit * d).sum(1, keepdim=True)
                return (d - along * unit).reshape(p.shape), self.decay_ratio
        return direction, 1.0


def optimiser_of(recipe: Recipe, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe over parameters."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    if recipe.optimiser == "adamp":
        return AdamP(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def rate_at(recipe: Recipe, step: int, *, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, from 0."""
    alone = recipe.head_epochs * steps_per_epoch if recipe.freeze == "head-then-all" else 0
    if step < alone:
        return _HEAD_RATE * recipe.lr if recipe.head_lr is None else recipe.head_lr
    top = recipe.lr
    if recipe.freeze == "head" and recipe.head_lr is not None:
        top = recipe.head_lr
    now, steps = step - alone, recipe.epochs * steps_per_epoch - alone
    rising = round(recipe.warmup * steps)
    if now < rising:
        return top * (now + 1) / rising
    if recipe.schedule == "constant":
        return top
    if recipe.schedule == "step":
        return top * float(recipe.step_factor ** (now // (recipe.step_epochs * steps_per_epoch)))
    return top * 0.5 * (1 + math.cos(math.pi * (now - rising) / max(1, steps - rising)))
