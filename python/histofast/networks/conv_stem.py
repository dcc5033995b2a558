"""The stem of CTransPath, which a Swin transformer of timm takes by the argument `embed_layer='ConvStem'`.

Written from its description: Wang et al., 2022, Transformer-based unsupervised contrastive learning for
histopathological image classification.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_SIDE_PX = 4  # of what becomes a token: two steps of 2


class ConvStem(nn.Module):
    """Pictures (n, 3, h, w) to tokens (n, h / 4, w / 4, d), by convolutions that overlap.

    Twice 3 x 3 in steps of 2 without a bias, BatchNorm and ReLU, to d / 8 and d / 4 channels; then 1 x 1 to d,
    and a norm. Its arguments are those that timm's Swin gives to its `embed_layer`.

    Raises:
        ValueError: tokens of another side than 4 px, a width that 8 does not divide.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm_layer: Callable[[int], nn.Module],
        *,
        strict_img_size: bool,
        output_fmt: str,
        **placed: Any,
    ) -> None:
        super().__init__()
        if patch_size != _SIDE_PX or embed_dim % 8:
            raise ValueError(
                f"ConvStem must have patches of {_SIDE_PX} px and a width that 8 divides, got {patch_size} "
                f"and {embed_dim}"
            )
        height_px, width_px = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size = (height_px, width_px)
        self.patch_size = (_SIDE_PX, _SIDE_PX)
        self.grid_size = (height_px // _SIDE_PX, width_px // _SIDE_PX)
        layers: list[nn.Module] = []
        for channels in (embed_dim // 8, embed_dim // 4):
            conv = nn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False, **placed)
            layers += [conv, nn.BatchNorm2d(channels, **placed), nn.ReLU()]
            in_chans = channels
        self.proj = nn.Sequential(*layers, nn.Conv2d(in_chans, embed_dim, 1, **placed))
        self.norm = norm_layer(embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return tokens
