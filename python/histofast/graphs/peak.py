"""How fast this machine multiplies matrices through ONNX Runtime: what an encoder can hope for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from histofast._machine import available_cpus
from histofast.encoders import OpenGraph
from histofast.graphs.graph import IR_VERSION, OPSET

_SIDE = 1024  # larger is no faster: the product runs at the peak from a few hundred on
_LOOKS = 5  # of which the fastest counts: a busy neighbour hits some


class Gemm:
    """A float32 product of two square matrices, run like an encoder: one per thread at a time."""

    def __init__(self, *, threads: int) -> None:
        rng = np.random.default_rng(0)
        factor = rng.standard_normal((_SIDE, _SIDE), np.float32)
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "gemm",
            [value("x", onnx.TensorProto.FLOAT, [_SIDE, _SIDE])],
            [value("y", onnx.TensorProto.FLOAT, [_SIDE, _SIDE])],
            [numpy_helper.from_array(factor, "w")],
        )
        model = helper.make_model(
            graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
        )
        self._opened = OpenGraph(model.SerializeToString(), where="a product of matrices")
        self._factor = factor
        self._threads = threads
        self.flops = 2 * _SIDE**3 * threads  # of one call of `run`

    def run(self) -> float:
        """Return the seconds that one product per thread takes."""

        def one(_: int) -> None:
            self._opened.run({"x": self._factor}, ["y"])

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(one, range(self._threads)))  # threads started, memory touched
            began = time.perf_counter()
            list(pool.map(one, range(self._threads)))
            return time.perf_counter() - began


@cache
def peak_flops_per_s() -> float:
    """Return the operations per second of float32 products on all CPUs of this process, timed once.

    Less than a second; a multiply-add is two operations.
    """
    gemm = Gemm(threads=available_cpus())
    return gemm.flops / min(gemm.run() for _ in range(_LOOKS))
