"""Networks of Keras Applications, layer by layer in float64, and the files that Keras writes of them.

Written from the definition alone: kernels are (h, w, in, out), `same` pads with zeros, an average does
not count what is padded. `Layers` names what it is asked for as Keras does: from a file, or made up.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F

Arrays = dict[str, dict[str, np.ndarray]]  # layer -> weight -> numbers
_ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


class Layers:
    """Layers by name on (n, c, h, w) float64; those that `arrays` lacks are made up and kept there."""

    def __init__(self, arrays: Arrays, *, eps: float, bias: bool, scale: bool = True) -> None:
        self.arrays, self._eps, self._bias, self._scale = arrays, eps, bias, scale
        self._rng = np.random.default_rng(0)
        self._n = 0

    def _weight(self, layer: str, name: str, *shape: int) -> torch.Tensor:
        own = self.arrays.setdefault(layer, {})
        if name not in own:
            spread = (2 / np.prod(shape[:-1])) ** 0.5 if name == "kernel" else 0.2
            positive = name in ("gamma", "moving_variance")
            drawn = self._rng.normal(1.0 if positive else 0.0, spread, shape)
            own[name] = (np.abs(drawn) + 0.1 * positive).astype(np.float16)
            if not positive:
                own[name] = drawn.astype(np.float16)
        return torch.from_numpy(own[name].astype(np.float64))

    def conv(self, x, layer, d, kernel, *, stride=1, same=False):
        h, w = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        weight = self._weight(layer, "kernel", h, w, x.shape[1], d).permute(3, 2, 0, 1)
        bias = self._weight(layer, "bias", d) if self._bias else None
        padding = (h // 2, w // 2) if same else 0
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)

    def norm(self, x, layer):
        d = x.shape[1]
        gamma = self._weight(layer, "gamma", d) if self._scale else torch.ones(d).double()
        beta, mean, var = (
            self._weight(layer, name, d) for name in ("beta", "moving_mean", "moving_variance")
        )
        factor = gamma / torch.sqrt(var + self._eps)
        return (x - mean[:, None, None]) * factor[:, None, None] + beta[:, None, None]

    def counted(self, x, d, kernel, *, stride=1, same=True):
        """A convolution, a BatchNorm and a ReLU that Keras names by counting."""
        self._n += 1
        x = self.conv(x, f"conv2d_{self._n}", d, kernel, stride=stride, same=same)
        return F.relu(self.norm(x, f"batch_normalization_{self._n}"))


def _stem(layers, x, conv, bn):
    x = F.relu(layers.norm(layers.conv(F.pad(x, (3, 3, 3, 3)), conv, 64, 7, stride=2), bn))
    return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2)


def resnet50(layers: Layers, rgb: np.ndarray, *, old: bool = False) -> np.ndarray:
    """(n, h, w, 3) RGB in 0..255 -> (n, 2048); `old` are the names of before 2019."""
    x = torch.from_numpy(rgb[..., ::-1] - np.array([103.939, 116.779, 123.68])).permute(0, 3, 1, 2)
    x = _stem(layers, x, *(("conv1", "bn_conv1") if old else ("conv1_conv", "conv1_bn")))
    for group, (blocks, d) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 2):
        for block in range(blocks):
            letter = f"{group}{'abcdef'[block]}_branch"
            names = ["1", "2a", "2b", "2c"]
            convs = [f"conv{group}_block{block + 1}_{i}_conv" for i in range(4)]
            norms = [f"conv{group}_block{block + 1}_{i}_bn" for i in range(4)]
            if old:
                convs = [f"res{letter}{name}" for name in names]
                norms = [f"bn{letter}{name}" for name in names]
            stride = 2 if block == 0 and group > 2 else 1
            shortcut = x
            if block == 0:
                shortcut = layers.norm(layers.conv(x, convs[0], 4 * d, 1, stride=stride), norms[0])
            y = F.relu(layers.norm(layers.conv(x, convs[1], d, 1, stride=stride), norms[1]))
            y = F.relu(layers.norm(layers.conv(y, convs[2], d, 3, same=True), norms[2]))
            y = layers.norm(layers.conv(y, convs[3], 4 * d, 1), norms[3])
            x = F.relu(y + shortcut)
    return x.mean((2, 3)).numpy()


def densenet121(layers: Layers, rgb: np.ndarray, *, slashes: bool = True) -> np.ndarray:
    """(n, h, w, 3) RGB in 0..255 -> (n, 1024); `slashes` as Keras 2 names the first two layers."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy((rgb / 255 - mean) / std).permute(0, 3, 1, 2)
    x = _stem(layers, x, *(("conv1/conv", "conv1/bn") if slashes else ("conv1_conv", "conv1_bn")))
    for group, blocks in enumerate((6, 12, 24, 16), 2):
        for block in range(1, blocks + 1):
            name = f"conv{group}_block{block}"
            y = layers.conv(F.relu(layers.norm(x, f"{name}_0_bn")), f"{name}_1_conv", 128, 1)
            y = F.relu(layers.norm(y, f"{name}_1_bn"))
            x = torch.cat([x, layers.conv(y, f"{name}_2_conv", 32, 3, same=True)], 1)
        if group < 5:
            y = F.relu(layers.norm(x, f"pool{group}_bn"))
            y = layers.conv(y, f"pool{group}_conv", x.shape[1] // 2, 1)
            x = F.avg_pool2d(y, 2)
    return F.relu(layers.norm(x, "bn")).mean((2, 3)).numpy()


def _average(x):
    total = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=1)
    there = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1)), 3, stride=1)
    return total / there


def inception_v3(layers: Layers, rgb: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) RGB in 0..255 -> (n, 2048)."""
    c, cat = layers.counted, torch.cat
    x = torch.from_numpy(rgb / 127.5 - 1).permute(0, 3, 1, 2)
    x = c(c(c(x, 32, 3, stride=2, same=False), 32, 3, same=False), 64, 3)
    x = c(c(F.max_pool2d(x, 3, stride=2), 80, 1, same=False), 192, 3, same=False)
    x = F.max_pool2d(x, 3, stride=2)
    for pooled in (32, 64, 64):
        one, five = c(x, 64, 1), c(c(x, 48, 1), 64, 5)
        three = c(c(c(x, 64, 1), 96, 3), 96, 3)
        x = cat([one, five, three, c(_average(x), pooled, 1)], 1)
    three = c(x, 384, 3, stride=2, same=False)
    double = c(c(c(x, 64, 1), 96, 3), 96, 3, stride=2, same=False)
    x = cat([three, double, F.max_pool2d(x, 3, stride=2)], 1)
    for d in (128, 160, 160, 192):
        one, seven = c(x, 192, 1), c(c(c(x, d, 1), d, (1, 7)), 192, (7, 1))
        double = c(c(c(x, d, 1), d, (7, 1)), d, (1, 7))
        double = c(c(double, d, (7, 1)), 192, (1, 7))
        x = cat([one, seven, double, c(_average(x), 192, 1)], 1)
    three = c(c(x, 192, 1), 320, 3, stride=2, same=False)
    seven = c(c(c(x, 192, 1), 192, (1, 7)), 192, (7, 1))
    x = cat([three, c(seven, 192, 3, stride=2, same=False), F.max_pool2d(x, 3, stride=2)], 1)
    for _ in range(2):
        one, y = c(x, 320, 1), c(x, 384, 1)
        three = cat([c(y, 384, (1, 3)), c(y, 384, (3, 1))], 1)
        y = c(c(x, 448, 1), 384, 3)
        double = cat([c(y, 384, (1, 3)), c(y, 384, (3, 1))], 1)
        x = cat([one, three, double, c(_average(x), 192, 1)], 1)
    return x.mean((2, 3)).numpy()


# --- Files -----------------------------------------------------------------------------------


def read_layers(path: Path) -> Arrays:
    """The layers of a file of weights, by its attributes `layer_names` and `weight_names`."""
    with h5py.File(path) as file:
        return {
            layer: {
                name.rpartition("/")[2].removesuffix(":0"): file[layer][name][()]
                for name in file[layer].attrs["weight_names"]
            }
            for layer in file.attrs["layer_names"]
        }


def _ordered(weights: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return sorted(weights.items(), key=lambda item: _ORDER.index(item[0]))


def write_h5(path: Path, layers: Arrays, *, whole: bool = False, within: str = "") -> Path:
    """As Keras 2 writes weights; `whole`: a whole model, with an optimizer; `within` another model."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        root.attrs["layer_names"] = [within] if within else list(layers)
        for layer, weights in layers.items():
            group = root.require_group(within or layer)
            names = [f"{layer}/{name}:0" for name, _ in _ordered(weights)]
            group.attrs["weight_names"] = names
            for name, (_, value) in zip(names, _ordered(weights), strict=True):
                group[name] = value
        if whole:
            file["optimizer_weights/training/Adam/conv1/kernel/m:0"] = np.zeros((3, 3))
            file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {}})
    return path


def _class_of(weights: dict[str, np.ndarray]) -> str:
    if "moving_mean" in weights:
        return "BatchNormalization"
    return "Conv2D" if weights["kernel"].ndim == 4 else "Dense"


_GROUPS = {"BatchNormalization": "batch_normalization", "Conv2D": "conv2d", "Dense": "dense"}


def write_weights_h5(path: Path, layers: Arrays, *, named: bool = True) -> Path:
    """As Keras 3 writes weights; early versions gave the layers no names there."""
    seen: Counter[str] = Counter()
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        file["optimizer/vars/0"] = np.float32(7)
        for layer, weights in layers.items():
            group = _GROUPS[_class_of(weights)]
            place = f"layers/{group}_{seen[group]}/vars" if seen[group] else f"layers/{group}/vars"
            seen[group] += 1
            file.create_group(place)
            if named:
                file[place].attrs["name"] = layer
            for i, (_, value) in enumerate(_ordered(weights)):
                file[f"{place}/{i}"] = value
    return path


def write_keras(path: Path, layers: Arrays, *, named: bool = True) -> Path:
    """As Keras 3 writes a whole model."""
    inner = write_weights_h5(path.with_suffix(".inner"), layers, named=named)
    config = {
        "class_name": "Functional",
        "config": {
            "layers": [
                {"class_name": "InputLayer", "config": {"name": "input_layer"}},
                *({"class_name": _class_of(w), "config": {"name": n}} for n, w in layers.items()),
            ]
        },
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.write(inner, "model.weights.h5")
    inner.unlink()
    return path
