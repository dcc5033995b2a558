"""Vision transformers as their publishers spell and compute them, in plain torch: what renaming is held against."""

from __future__ import annotations

import re

import torch
from torch.nn import functional as F

State = dict[str, torch.Tensor]

# From timm's key in a block to the publisher's; queries, keys and values have a rule of their own.
_VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_DINOV2 = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1"}
_DINOV2 |= {"ls2.gamma": "layer_scale2.lambda1"}
_SWIGLU = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}


def published(state: State, kind: str, *, gated: bool = False, chunk: int | None = None) -> State:
    """Respell the tensors of a model of timm as `kind` does; with registers the class token gives its position.

    `chunk`: blocks in a chunk of DINOv2's, `blocks.0.1.`, whose indices go on from chunk to chunk.
    """
    state = {k: v.detach().clone() for k, v in state.items()}
    if kind == "none":
        return state
    if kind == "swin":
        return _of_timm_05(state)
    width = state["cls_token"].shape[-1]
    if "reg_token" in state:
        own = torch.linspace(-0.5, 0.5, width, dtype=state["cls_token"].dtype).view(1, 1, -1)
        state["cls_token"] = state["cls_token"] - own
        state["pos_embed"] = torch.cat([own, state["pos_embed"]], 1)
    if kind == "dinov2":
        state = {_of_dinov2(k, gated=gated, chunk=chunk): v for k, v in state.items()}
        return state | {"mask_token": torch.zeros(1, width)}
    found: State = {}
    for key, value in state.items():
        block = re.match(r"blocks\.(\d+)\.(.*)", key)
        if block is None:
            head = next(h for h in _OUTSIDE if key == h or key.startswith(f"{h}."))
            found[_OUTSIDE[head] + key.removeprefix(head)] = value
            continue
        before = f"encoder.layer.{block[1]}."
        if block[2].startswith("attn.qkv."):
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                name = f"attention.attention.{part}.{key.rpartition('.')[2]}"
                found[before + name] = rows.clone()
            continue
        table = _VIT if kind == "hf-vit" else _DINOV2 | (_SWIGLU if gated else {})
        name = block[2]
        for ours, theirs in table.items():
            if name == ours or name.startswith(f"{ours}."):
                name = theirs + name.removeprefix(ours)
                break
        found[before + name] = value
    if kind == "hf-vit":
        return found | {
            "pooler.dense.weight": torch.ones(width, width),
            "pooler.dense.bias": torch.ones(width),
        }
    return found | {"embeddings.mask_token": torch.zeros(1, width)}


def _of_timm_05(state: State) -> State:
    """Respell a Swin transformer as timm 0.5 has it: stages end with their downsampling, buffers are kept."""
    found = {}
    for key, value in state.items():
        if match := re.match(r"layers\.(\d+)\.downsample\.(.*)", key):
            key = f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
        found[key] = value
        if key.endswith(".attn.qkv.weight"):
            block = key.removesuffix(".attn.qkv.weight")
            found[f"{block}.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
            found[f"{block}.attn_mask"] = torch.zeros(1, 49, 49)
    return found | {"head.weight": torch.ones(5, 7), "head.bias": torch.ones(5)}


def stem(state: State, x: torch.Tensor) -> torch.Tensor:
    """Compute the tokens of CTransPath's ConvStem, (n, h / 4, w / 4, d)."""
    stem = "patch_embed."
    of = {k.removeprefix(stem): v for k, v in state.items() if k.startswith(stem)}
    for conv, norm in (("proj.0", "proj.1"), ("proj.3", "proj.4")):
        x = F.conv2d(x, of[f"{conv}.weight"], stride=2, padding=1)
        mean, variance, scale, bias = (
            of[f"{norm}.{key}"].view(-1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (variance + 1e-5).sqrt() * scale + bias).clamp(min=0)
    x = torch.einsum("nchw,dc->nhwd", x, of["proj.6.weight"][:, :, 0, 0]) + of["proj.6.bias"]
    return _norm(of, "norm", x, 1e-5)


def _of_dinov2(key: str, *, gated: bool, chunk: int | None) -> str:
    if gated:
        key = key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
    if chunk is not None:
        key = re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // chunk}.{m[1]}.", key)
    return "register_tokens" if key == "reg_token" else key


def saved_again(state: State) -> State:
    """Respell a published file of transformers as its version 5 saves it."""
    found: State = {}
    for key, value in state.items():
        if ".mlp.weights_in." in key:
            for part, rows in zip(("gate_proj", "up_proj"), value.chunk(2), strict=True):
                found[key.replace("weights_in", part)] = rows
            continue
        key = re.sub(r"attention\.attention\.(\w)\w+\.", r"attention.\1_proj.", key)
        key = key.replace("attention.output.dense", "attention.o_proj")
        key = key.replace("intermediate.dense", "mlp.fc1").replace(
            "mlp.weights_out", "mlp.down_proj"
        )
        key = re.sub(r"(layer\.\d+)\.output\.dense", r"\1.mlp.fc2", key)
        found[
            re.sub(r"^encoder\.layer\.", "layers.", key) if "pooler.dense.bias" in state else key
        ] = value
    return found


def tokens(state: State, kind: str, x: torch.Tensor, *, heads: int, eps: float) -> torch.Tensor:
    """Compute all tokens after the last norm, (n, t, d), from a publisher's tensors (no chunks)."""
    hugging = kind.startswith("hf-")
    of = (
        _OUTSIDE.__getitem__
        if hugging
        else lambda key: {"reg_token": "register_tokens"}.get(key, key)
    )
    kernel = state[of("patch_embed.proj") + ".weight"]
    z = F.conv2d(x, kernel, state[of("patch_embed.proj") + ".bias"], stride=kernel.shape[-1])
    z = torch.cat([state[of("cls_token")].expand(len(x), -1, -1), z.flatten(2).mT], 1)
    z = z + state[of("pos_embed")]
    if of("reg_token") in state:
        z = torch.cat([z[:, :1], state[of("reg_token")].expand(len(x), -1, -1), z[:, 1:]], 1)
    for i in range(
        sum(key.endswith((".norm1.weight", ".layernorm_before.weight")) for key in state)
    ):
        b = f"encoder.layer.{i}." if hugging else f"blocks.{i}."
        inner = {k.removeprefix(b): v for k, v in state.items() if k.startswith(b)}
        z = _block(inner, kind, z, heads=heads, eps=eps)
    return _norm(state, of("norm"), z, eps)


def _norm(s: State, name: str, z: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(z, z.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)


def _linear(s: State, name: str, z: torch.Tensor) -> torch.Tensor:
    return F.linear(z, s[f"{name}.weight"], s[f"{name}.bias"])


def _block(s: State, kind: str, z: torch.Tensor, *, heads: int, eps: float) -> torch.Tensor:
    vit = kind == "hf-vit"
    y = _norm(s, "layernorm_before" if vit else "norm1", z, eps)
    if kind == "dinov2":
        parts = _linear(s, "attn.qkv", y).chunk(3, -1)
    else:
        parts = [_linear(s, f"attention.attention.{p}", y) for p in ("query", "key", "value")]
    q, k, v = (
        p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in parts
    )  # (n, heads, t, d/heads)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    y = (weights @ v).transpose(1, 2).flatten(2)
    y = _linear(s, "attn.proj" if kind == "dinov2" else "attention.output.dense", y)
    scale = {"dinov2": "ls{}.gamma", "hf-dinov2": "layer_scale{}.lambda1"}.get(kind, "").format
    z = z + y * s.get(scale(1), torch.ones(()))
    y = _norm(s, "layernorm_after" if vit else "norm2", z, eps)
    return z + _mlp(s, vit, y) * s.get(scale(2), torch.ones(()))


def _mlp(s: State, vit: bool, y: torch.Tensor) -> torch.Tensor:
    for first, second in (("mlp.w12", "mlp.w3"), ("mlp.weights_in", "mlp.weights_out")):
        if f"{first}.weight" in s:
            gate, value = _linear(s, first, y).chunk(2, -1)
            return _linear(s, second, F.silu(gate) * value)
    first, second = ("intermediate.dense", "output.dense") if vit else ("mlp.fc1", "mlp.fc2")
    return _linear(s, second, F.gelu(_linear(s, first, y)))
