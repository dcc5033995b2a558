"""Pictures as what can be searched: coefficients of frequencies in, colours out; two kinds of them.

A *picture* here is (1, 3, px, px) float32, RGB in 0..1. Both kinds are periodic: what leaves on one side
comes in on the other.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from histofast.explain.channels.looks import Looks

_START, _OF_PHOTOGRAPHS = 11, 0.01  # stream of random numbers; spread of coefficients at the start
# Root of the covariance of colours in photographs, as published with Lucid.
_COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])


class Searched(Protocol):
    """A picture and what it is made of.

    Attributes:
        parameter: what is searched.
        wraps: whether the picture goes on beyond its sides; else it lies on grey.
    """

    parameter: Tensor
    wraps: bool

    def picture(self) -> Tensor:
        """Return (1, 3, px, px) float32 in 0..1, with a graph to `parameter`."""


class Spectrum:
    """Coefficients of frequencies, low ones weighing more, of colours that photographs have apart.

    Reference: Olah, Mordvintsev, Schubert, 2017, Feature Visualization, with the constants of Lucid.
    """

    wraps = False

    def __init__(self, px: int, *, seed: int, device: torch.device) -> None:
        drawn = np.random.default_rng([_START, seed]).normal(
            scale=_OF_PHOTOGRAPHS, size=(3, px, px // 2 + 1, 2)
        )
        self.px = px
        self.parameter = _asking(drawn, device)
        fy, fx = np.fft.fftfreq(px)[:, np.newaxis], np.fft.rfftfreq(px)[np.newaxis]
        scale = px / np.maximum(np.sqrt(fx**2 + fy**2), 1 / px)
        self._scale = torch.from_numpy(scale.astype(np.float32)).to(device)
        mixing = _COLOURS / np.linalg.norm(_COLOURS, axis=0).max()
        self._mixing = torch.from_numpy(mixing.astype(np.float32)).to(device)

    def picture(self) -> Tensor:
        """As of `Searched`."""
        spectrum = torch.view_as_complex(self.parameter) * self._scale
        plain = torch.fft.irfft2(spectrum, s=(self.px, self.px)) / 4
        return torch.sigmoid(_mixed(self._mixing, plain))


class Phases:
    """Phases of frequencies, whose magnitudes and colours are those of real pictures.

    Reference: Fel et al., 2023, Unlocking Feature Visualization for Deeper Networks with MAgnitude
    Constrained Optimization; here with the magnitudes and the optical densities of the user's pictures.
    """

    wraps = True

    def __init__(self, looks: Looks, *, seed: int, device: torch.device) -> None:
        drawn = np.random.default_rng([_START, seed]).uniform(
            -np.pi, np.pi, size=looks.magnitude.shape
        )
        self.px = looks.px
        self.parameter = _asking(drawn, device)
        self._mean = torch.from_numpy(looks.mean.astype(np.float32)).to(device).view(1, 3, 1, 1)
        self._mixing = torch.from_numpy(looks.root.astype(np.float32)).to(device)
        self._magnitude = torch.from_numpy(looks.magnitude.astype(np.float32)).to(device)

    def plain(self) -> Tensor:
        """Return (3, px, px) colours before they are mixed, whose spectrum has the magnitudes."""
        phases = _of_a_real_picture(self.parameter)
        return torch.fft.irfft2(torch.polar(self._magnitude, phases), s=(self.px, self.px))

    def picture(self) -> Tensor:
        """As of `Searched`."""
        density = self._mean + _mixed(self._mixing, self.plain())
        return (256 * torch.exp2(-density) - 1).clamp(0, 255) / 255


def total_variation(picture: Tensor) -> Tensor:
    """Return the mean over pixels and colours of the absolute steps to the right and down."""
    right = picture.diff(dim=-1).abs().sum()
    down = picture.diff(dim=-2).abs().sum()
    found: Tensor = (right + down) / picture.numel()
    return found


def _asking(
    drawn: np.ndarray[tuple[int, ...], np.dtype[np.float64]], device: torch.device
) -> Tensor:
    """Return numbers on a device that ask for gradients."""
    return torch.from_numpy(drawn.astype(np.float32)).to(device).requires_grad_()


def _mixed(mixing: Tensor, plain: Tensor) -> Tensor:
    """Return (1, 3, px, px): each pixel's colour times a matrix."""
    flat: Tensor = mixing @ plain.flatten(1)
    return flat.view(1, *plain.shape)


def _of_a_real_picture(phases: Tensor) -> Tensor:
    """Make those of two frequencies that a real picture has in common opposite.

    Half a spectrum holds both of them in its first column, and in its last where the side is even.
    """
    px = phases.shape[1]
    columns = [0, px // 2] if px % 2 == 0 else [0]
    own = phases[:, :, columns]
    opposite = torch.roll(own.flip(1), 1, dims=1)
    whole = phases.clone()
    whole[:, :, columns] = own - opposite
    return whole
