"""ONNX files as others make them: float planes, fixed batches, weights in a second file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Sketch:
    """A graph in the making, its nodes named as torch's older exporter names them."""

    def __init__(self, *, half: bool = False) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.dtype = np.float16 if half else np.float32
        self._rng = np.random.default_rng(0)

    def add(self, path: str, inputs: list[str], **attributes: Any) -> str:
        tensor = f"{path}_output_0"
        operation = path.rpartition("/")[2]
        self.nodes.append(helper.make_node(operation, inputs, [tensor], name=path, **attributes))
        return tensor

    def weight(self, name: str, *shape: int, scale: float = 1.0) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        values = self._rng.normal(0, scale / fan**0.5, shape).astype(self.dtype)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def integers(self, name: str, *values: int) -> str:
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def conv(self, path: str, x: str, d_in: int, d: int, side: int = 3, stride: int = 1) -> str:
        inputs = [x, self.weight(f"{path}.w", d, d_in, side, side), self.weight(f"{path}.b", d)]
        pad = side // 2 if side % 2 else 0
        return self.add(f"/{path}/Conv", inputs, strides=[stride] * 2, pads=[pad] * 4)

    def save(self, path: Path, shape: list[Any], outputs: dict[str, Any], **options: Any) -> Path:
        """Write the graph; `outputs` are names and shapes, the input is `x`."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self.nodes,
            "main_graph",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()],
            self.constants,
        )
        opset = options.pop("opset", 17)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=options.pop("ir_version", 8),
            producer_name="elsewhere",
        )
        onnx.save(model, path, **options)
        return path


def residual(
    path: Path,
    *,
    batch: int | str = "n",
    sides: tuple[int | str, int | str] = ("h", "w"),
    end: str = "fc",
    half: bool = False,
    channels_last: bool = False,
    extra: tuple[str, ...] = (),
    **options: Any,
) -> Path:
    """Write a net of a stem, `layer1` (4 channels, residual) and `layer2` (6 channels, /4).

    Args:
        path: of the file.
        batch: fixed to a number, or free.
        sides: height and width likewise.
        end: `layer2` (n, 6, h, w), `avgpool` (n, 6, 1, 1), `fc` (n, 5) or `both` of the first two.
        half: in float16.
        channels_last: the input is (n, h, w, 3).
        extra: names of further outputs.
        options: opset, ir_version, and what `onnx.save` takes.
    """
    s = Sketch(half=half)
    x = s.add("/Transpose", ["x"], perm=[0, 3, 1, 2]) if channels_last else "x"
    x = s.add("/relu/Relu", [s.conv("conv1", x, 3, 4, stride=2)])
    y = s.conv("layer1/layer1.0/conv1", x, 4, 4)
    y = s.add("/layer1/layer1.0/Add", [y, x])
    x = s.add("/layer1/layer1.0/relu/Relu", [y])
    x = s.add("/layer2/relu/Relu", [s.conv("layer2/conv1", x, 4, 6, stride=2)])
    ends = {x: [batch, 6, "a", "b"]}
    if end != "layer2":
        x = s.add("/avgpool/GlobalAveragePool", [x])
        ends = ends | {x: [batch, 6, 1, 1]} if end == "both" else {x: [batch, 6, 1, 1]}
    if end == "fc":
        rows = batch if isinstance(batch, int) else -1
        x = s.add("/Reshape", [x, s.integers("shape", rows, 6)])
        x = s.add("/fc/Gemm", [x, s.weight("fc.w", 6, 5), s.weight("fc.b", 5)])
        ends = {x: [batch, 5]}
    ends |= {name: [batch, "c", "a", "b"] for name in extra}
    shape = [batch, *sides, 3] if channels_last else [batch, 3, *sides]
    return s.save(path, shape, ends, **options)


def unet(path: Path, *, levels: int = 4, **options: Any) -> Path:
    """Write a U-Net of `down_layers.i`, a `bottom` and `up_layers.i`, (n, 2, h, w) at its end.

    Each level halves the size, so that only multiples of 2 ** levels go in.
    """
    s = Sketch()
    x, d, skips = "x", 3, []
    for i in range(levels):
        x = s.conv(f"down_layers.{i}/conv", x, d, 4 + i)
        x = s.add(f"/down_layers.{i}/relu/Relu", [x])
        d = 4 + i
        skips.append((x, d))
        x = s.add(f"/pool_{i}/MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = s.add("/bottom/relu/Relu", [s.conv("bottom/conv", x, d, 12)])
    d = 12
    for i, (skip, beside) in enumerate(reversed(skips)):
        kernel = s.weight(f"up_layers.{i}.up", d, beside, 2, 2)
        x = s.add(f"/up_layers.{i}/up/ConvTranspose", [x, kernel], strides=[2, 2])
        x = s.add(f"/up_layers.{i}/Concat", [x, skip], axis=1)
        x = s.add(
            f"/up_layers.{i}/relu/Relu", [s.conv(f"up_layers.{i}/conv", x, 2 * beside, beside)]
        )
        d = beside
    x = s.conv("last", x, d, 2, side=1)
    return s.save(path, ["n", 3, "h", "w"], {x: ["n", 2, "h", "w"]}, **options)


def tokens(path: Path, *, batch: int = 1, **options: Any) -> Path:
    """Write 16 tokens of 8 px and a class token, d = 6, as a fixed batch: (batch, 17, 6)."""
    s = Sketch()
    x = s.conv("patch_embed", "x", 3, 6, side=8, stride=8)
    x = s.add("/Reshape", [x, s.integers("shape", batch, 6, -1)])
    x = s.add("/Transpose", [x], perm=[0, 2, 1])
    token = np.broadcast_to(np.random.default_rng(1).normal(size=6), (batch, 1, 6))
    s.constants.append(numpy_helper.from_array(token.astype(np.float32), "token"))
    x = s.add("/Concat", ["token", x], axis=1)
    x = s.add("/Add", [x, s.weight("position", 1, 17, 6)])
    y = s.add("/blocks/blocks.0/mix/MatMul", [x, s.weight("mix", 6, 6)])
    y = s.add("/blocks/blocks.0/heads/Reshape", [y, s.integers("heads", batch, 17, 2, 3)])
    y = s.add("/blocks/blocks.0/back/Reshape", [y, s.integers("back", 0, 0, 6)])
    x = s.add("/blocks/blocks.0/Add", [x, y])
    return s.save(path, [batch, 3, 32, 32], {x: [batch, 17, 6]}, **options)


def planes(patches: np.ndarray) -> np.ndarray:
    """Standardised planes by definition, (n, 3, h, w) float32."""
    x = (patches / 255.0 - np.array(MEAN)) / np.array(STD)
    return x.transpose(0, 3, 1, 2).astype(np.float32)


# --- torch ---------------------------------------------------------------------------------------


def torch_networks() -> dict[str, tuple[Any, int]]:
    """Small networks of residual blocks and of attention, with the patch size of each."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, d_in: int, d: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(d_in, d, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(d)
            self.relu = nn.ReLU()
            self.conv2 = nn.Conv2d(d, d, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(d)
            self.downsample = None
            if d_in != d:
                conv = nn.Conv2d(d_in, d, 1, stride, bias=False)
                self.downsample = nn.Sequential(conv, nn.BatchNorm2d(d))

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.relu = nn.ReLU()
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
            self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
            self.fc = nn.Linear(16, 10)

        def forward(self, x: Any) -> Any:
            x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
            return self.fc(self.layer2(x).mean((2, 3)))

    class Attention(nn.Module):
        def __init__(self, d: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm = nn.LayerNorm(d)
            self.qkv = nn.Linear(d, 3 * d)
            self.proj = nn.Linear(d, d)

        def forward(self, x: Any) -> Any:
            n, t, d = x.shape
            y = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, d // self.heads)
            q, k, v = y.permute(2, 0, 3, 1, 4).unbind(0)
            weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)
            return x + self.proj((weights @ v).transpose(1, 2).reshape(n, t, d))

    class Transformer(nn.Module):
        def __init__(self, d: int = 16) -> None:
            super().__init__()
            self.patch_embed = nn.Conv2d(3, d, 8, 8)
            self.token = nn.Parameter(torch.randn(1, 1, d))
            self.position = nn.Parameter(torch.randn(1, 17, d))
            self.blocks = nn.Sequential(Attention(d, 2), Attention(d, 2))
            self.norm = nn.LayerNorm(d)

        def forward(self, x: Any) -> Any:
            x = self.patch_embed(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
            return self.norm(self.blocks(x))

    torch.manual_seed(0)
    networks = {"residual": (Residual().eval(), 64), "transformer": (Transformer().eval(), 32)}
    for network, _ in networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return networks


def torch_export(
    network: Any, path: Path, *, side_px: int, dynamo: bool, batch: int | None
) -> Path:
    """Export with one of torch's two exporters; a batch of None is left free."""
    import torch

    example = torch.zeros(batch or 2, 3, side_px, side_px)
    if dynamo:
        free = {} if batch else {"dynamic_shapes": ({0: "n"},)}
        free |= {"external_data": False}
    else:
        free = {"input_names": ["x"]} | ({} if batch else {"dynamic_axes": {"x": {0: "n"}}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), path, dynamo=dynamo, verbose=False, **free)
    return path


def torch_unet() -> Any:
    """A U-Net of torch: `down_layers`, each one module of several, `bottom`, `up_layers`."""
    import torch
    from torch import nn

    def block(d_in: int, d: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(d_in, d, 3, 1, 1), nn.ReLU(), nn.Conv2d(d, d, 3, 1, 1), nn.ReLU()
        )

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [4, 5, 6, 7]
            self.down_layers = nn.ModuleList(map(block, [3, *widths], widths))
            self.pool = nn.MaxPool2d(2)
            self.bottom = block(7, 12)
            self.ups = nn.ModuleList(
                nn.ConvTranspose2d(a, b, 2, 2)
                for a, b in zip([12, 7, 6, 5], widths[::-1], strict=True)
            )
            self.up_layers = nn.ModuleList(block(2 * d, d) for d in widths[::-1])
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x: Any) -> Any:
            skips = []
            for layer in self.down_layers:
                x = layer(x)
                skips.append(x)
                x = self.pool(x)
            x = self.bottom(x)
            for up, layer in zip(self.ups, self.up_layers, strict=True):
                x = layer(torch.cat([up(x), skips.pop()], 1))
            return self.last(x)

    torch.manual_seed(0)
    return UNet().eval()


__all__ = ["MEAN", "STD", "Sketch", "TensorProto", "planes", "residual", "tokens", "unet"]
