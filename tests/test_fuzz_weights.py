"""Broken copies of weights files: read into a network or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fuzzing
from extras import need

torch = need("torch")
safetensors = need("safetensors.torch")

import reference_keras
from histofast import networks

pytestmark = pytest.mark.slow
LAYER = "conv1"


def read(path: Path) -> None:
    networks.create("squeezenet1.1", weights=path, layer=LAYER)


def read_encoder(path: Path) -> None:
    networks.restore(path)


def state():
    return networks.create("squeezenet1.1", layer=LAYER).state_dict()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "attacked").mkdir()
    return tmp_path / "attacked"


def test_archives_of_torch(tmp_path, folder):
    paths = [tmp_path / "plain.pth", tmp_path / "checkpoint.pth"]
    torch.save(state(), paths[0])
    half = {key: value.half() for key, value in state().items()}
    torch.save({"state_dict": half, "optimizer": {"lr": 0.1}, "epoch": 3}, paths[1])
    strays = fuzzing.attack(read, paths, folder)
    assert not strays, fuzzing.told(strays)


def test_torch_files_from_before_archives(tmp_path, folder):
    path = tmp_path / "old.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    strays = fuzzing.attack(read, [path], folder)
    assert not strays, fuzzing.told(strays)


def test_safetensors(tmp_path, folder):
    path = tmp_path / "w.safetensors"
    safetensors.save_file(state(), path)
    strays = fuzzing.attack(read, [path], folder)
    assert not strays, fuzzing.told(strays)


def read_keras(path: Path) -> None:
    networks.read_weights(path)


def test_files_of_keras(tmp_path, folder):
    norm = {name: np.ones(4, np.float32) for name in ("beta", "moving_mean", "moving_variance")}
    layers = {
        "conv2d": {"kernel": np.ones((3, 3, 3, 4), np.float32), "bias": np.ones(4, np.float16)},
        "batch_normalization": norm,
        "dense": {"kernel": np.ones((4, 2)), "bias": np.ones(2)},
    }
    paths = [
        reference_keras.write_h5(tmp_path / "old.h5", layers, whole=True),
        reference_keras.write_weights_h5(tmp_path / "new.weights.h5", layers),
        reference_keras.write_keras(tmp_path / "whole.keras", layers, named=False),
    ]
    strays = fuzzing.attack(read_keras, paths, folder)
    assert not strays, fuzzing.told(strays)


def test_encoders_back_into_networks(tmp_path, folder):
    path = tmp_path / "network.onnx"
    networks.export(networks.create("squeezenet1.1", layer=LAYER), path)
    strays = fuzzing.attack(read_encoder, [path], folder, mutants=fuzzing.MUTANTS // 4)
    assert not strays, fuzzing.told(strays)
