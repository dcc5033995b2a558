"""Class activation maps: activations of a layer and gradients in, one map per picture out.

k counts channels, A_k is a map (h, w) of the layer, g_k the gradient of a class's logit by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Method = Literal["gradcam", "gradcam++", "hirescam"]


def grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU(sum_k mean(g_k) A_k).

    Args:
        maps, gradients: (n, k, h, w).

    Returns:
        (n, h, w).

    Reference: Selvaraju et al., 2017, eq. 1 and 2.
    """
    weights = gradients.mean((2, 3))  # (n, k)
    return torch.einsum("nk,nkhw->nhw", weights, maps).clamp(min=0)


def grad_cam_plus(maps: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU(sum_k w_k A_k), w_k = sum of a_k ReLU(g_k), a_k = g^2 / (2 g^2 + sum(A_k) g^3).

    Where the gradient or the denominator is 0, a_k is 0. Unlike the others it does not grow in
    proportion with the gradient.

    Args:
        maps, gradients: (n, k, h, w).

    Returns:
        (n, h, w).

    Reference: Chattopadhyay et al., 2018, eq. 19, of an exponential of the logit.
    """
    below = 2 + maps.sum((2, 3), keepdim=True) * gradients  # g^2 cancels
    shares = torch.where((gradients == 0) | (below == 0), 0, 1 / below)
    weights = (shares * gradients.clamp(min=0)).sum((2, 3))  # (n, k)
    return torch.einsum("nk,nkhw->nhw", weights, maps).clamp(min=0)


def hires_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU(sum_k g_k A_k), each place by its own gradient.

    Args:
        maps, gradients: (n, k, h, w).

    Returns:
        (n, h, w).

    Reference: Draelos, Carin, 2020, Use HiResCAM instead of Grad-CAM.
    """
    return (maps * gradients).sum(1).clamp(min=0)


METHODS: Mapping[Method, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus,
    "hirescam": hires_cam,
}
NAMES: Mapping[Method, str] = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiRes-CAM",
}


def check_method(method: str) -> Method:
    """Return a method, if there is one of this name.

    Raises:
        ValueError: there is none.
    """
    for name in get_args(Method):
        if name == method:
            return name  # type: ignore[no-any-return]
    raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


def check_methods(methods: Sequence[str]) -> list[Method]:
    """Return methods, if there are some and all of these names.

    Raises:
        ValueError: none, or no such method.
    """
    chosen = [check_method(method) for method in methods]
    if not chosen:
        raise ValueError(f"methods must name at least one of {', '.join(METHODS)}, got none")
    return chosen
