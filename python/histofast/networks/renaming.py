"""Vision transformers under the keys of their publishers: renamed to those that timm has.

Each table says what a published key is called there. A state dict goes in, one goes out; which tensors are
needed is not checked here, but where it is loaded. The sum of two tensors in half precision is in float32.

`dinov2`: github.com/facebookresearch/dinov2. `blocks.C.N.` of several chunks C is block N; `mlp.w12` is gate
and value in this order, as timm's SwiGLUPacked has them.
`hf-vit`, `hf-dinov2`: transformers, as published files spell it, and as its version 5 writes it anew; the
latter also Dinov2WithRegisters. Queries, keys and values are joined in this order.
`swin`: timm's Swin as its version 0.5 has it, in which a stage ends with its downsampling and buffers are kept,
or as today.
With registers, timm adds positions to patches only: the class token takes its own, cls + pos[0].
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from histofast.errors import ModelError
from histofast.networks.weights import SECOND_COPIES

State = dict[str, torch.Tensor]

_BLOCK = r"^(?:encoder\.)?(?:layers?)\.(\d+)\."  # of transformers: encoder.layer.3.
_QKV = re.compile(
    _BLOCK + r"attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)$"
)
_GATED = re.compile(_BLOCK + r"mlp\.(gate_proj|up_proj)\.(weight|bias)$")
_PARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}

# (pattern, what it becomes), all that match are applied in this order.
_Table = tuple[tuple[str, str], ...]
_DINOV2: _Table = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)
_HF: _Table = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
)
_HF_VIT: _Table = (
    *_HF,
    (_BLOCK + r"layernorm_before\.", r"blocks.\1.norm1."),
    (_BLOCK + r"layernorm_after\.", r"blocks.\1.norm2."),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
)
_HF_DINOV2: _Table = (
    *_HF,
    (_BLOCK + r"(norm[12])\.", r"blocks.\1.\2."),
    (_BLOCK + r"layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (_BLOCK + r"mlp\.(?:weights_in|fc1)\.", r"blocks.\1.mlp.fc1."),
    (_BLOCK + r"mlp\.(?:weights_out|down_proj|fc2)\.", r"blocks.\1.mlp.fc2."),
)
# Key that every network of the kind has, after its prefix; what of a file is no part of it.
_NONE, _TIMM_MARK = (), r"patch_embed\.proj\.weight$"
_HF_MARK = r"embeddings\.patch_embeddings\.projection\.weight$"
_KINDS: dict[str, tuple[_Table, str, str]] = {
    "none": (_NONE, _TIMM_MARK, r"^head(_dist)?\."),
    "dinov2": (_DINOV2, _TIMM_MARK, r"^(head|mask_token)\b"),
    "hf-vit": (_HF_VIT, _HF_MARK, r"^(pooler\.|embeddings\.mask_token$)"),
    "hf-dinov2": (_HF_DINOV2, _HF_MARK, r"^embeddings\.mask_token$"),
    "swin": (
        _NONE,
        r"patch_embed\.proj\.(?:0\.)?weight$",
        r"^head\.|\.(attn_mask|relative_position_index)$",
    ),
}
RENAMES = tuple(_KINDS)


def renamed(state: Mapping[str, torch.Tensor], kind: str) -> State:
    """Return a publisher's tensors under timm's keys, without prefix, heads and second copies.

    Args:
        state: by the publisher's keys, maybe under a prefix such as `teacher.backbone.`.
        kind: one of `RENAMES`; `none` are timm's own keys.

    Raises:
        ModelError: no such network in it; two tensors that would be one; queries without keys or values.
    """
    table, mark, aside = _KINDS[kind]
    inner = _under_prefix(state, mark, kind)
    inner = {key: value for key, value in inner.items() if not re.search(aside, key)}
    if kind.startswith("hf-"):
        inner = _joined(inner, _QKV, ("query", "key", "value"), "attn.qkv")
        inner = _joined(inner, _GATED, ("gate_proj", "up_proj"), "mlp.fc1")
    found: State = {}
    for key, value in inner.items():
        new = key
        for pattern, becomes in table:
            new = re.sub(pattern, becomes, new)
        if new in found:
            raise ModelError(f"{key} is a second {new}: it is not of the kind {kind}")
        found[new] = value
    if kind == "swin":
        return _downsampled_first(found)
    return found if kind == "none" else _with_own_position(found)


def _under_prefix(state: Mapping[str, torch.Tensor], mark: str, kind: str) -> State:
    prefixes = [key[: m.start()] for key in state if (m := re.search(rf"(?:^|(?<=\.)){mark}", key))]
    if not prefixes:
        raise ModelError(f"it has no tensors of a network of the kind {kind}")
    # Of a teacher and a student the teacher; of equals the first.
    prefix = min(prefixes, key=lambda p: sum(word in p.split(".") for word in SECOND_COPIES))
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _joined(state: State, pattern: re.Pattern[str], order: tuple[str, ...], name: str) -> State:
    """Join the parts of a layer that timm has as one, in their order, along the rows."""
    rest: State = {}
    parts: dict[str, State] = {}
    for key, value in state.items():
        match = pattern.match(key)
        if match is None:
            rest[key] = value
            continue
        part = _PARTS.get(match[2], match[2])
        parts.setdefault(f"blocks.{match[1]}.{name}.{match[3]}", {})[part] = value
    for key, found in parts.items():
        if missing := [part for part in order if part not in found]:
            raise ModelError(f"{key} lacks its {missing[0]}")
        rest[key] = torch.cat([found[part] for part in order])
    return rest


def _downsampled_first(state: State) -> State:
    """Let the downsampling that ends a stage begin the next one, where it does not yet."""
    if not any(key.startswith("layers.0.downsample.") for key in state):
        return state
    later = re.compile(r"^layers\.(\d+)\.downsample\.")
    return {
        later.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample.", key): value
        for key, value in state.items()
    }


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _with_own_position(state: State) -> State:
    """Give the class token its position where registers stand between it and the patches."""
    if "reg_token" not in state or not {"cls_token", "pos_embed"} <= state.keys():
        return state
    position = state["pos_embed"]  # (1, 1 + patches, d)
    token = _wide(state["cls_token"]) + _wide(position[:, :1])
    return state | {"cls_token": token, "pos_embed": position[:, 1:]}
