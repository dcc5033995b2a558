"""Risks, times and events in, the loss of a proportional hazards model out."""

from __future__ import annotations

import torch
from torch import Tensor


def cox_loss(log_risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Return the negative Breslow log partial likelihood of a risk set, per event.

    Args:
        log_risk: (b,) floating point log hazards; half precision is computed in float32.
        time: (b,) when the event happened or observation ended.
        event: (b,) 1 or True where it happened, 0 where observation ended.

    Returns:
        Scalar: mean over events i of logsumexp(log_risk[time >= time[i]]) - log_risk[i]. Zero, with
        zero gradient, without events. Memory grows with b squared.

    Raises:
        ValueError: other shapes.

    Reference: Cox, 1972, Regression models and life-tables; Breslow, 1974, for tied times.
    """
    if log_risk.ndim != 1 or not log_risk.shape == time.shape == event.shape:
        raise ValueError(
            "log_risk, time and event must be of one shape (b,), got "
            f"{tuple(log_risk.shape)}, {tuple(time.shape)} and {tuple(event.shape)}"
        )
    if log_risk.dtype in (torch.float16, torch.bfloat16):
        log_risk = log_risk.float()
    happened = event.bool()
    if not happened.any():
        return log_risk.sum() * 0
    at_risk = time[None, :] >= time[happened][:, None]  # (events, b)
    everyone = log_risk.expand(at_risk.shape).masked_fill(~at_risk, -torch.inf)
    return (everyone.logsumexp(dim=1) - log_risk[happened]).mean()
