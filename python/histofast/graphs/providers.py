"""Which of ONNX Runtime's providers really run here: each is tried on a tiny encoder."""

from __future__ import annotations

import numpy as np

from histofast.encoders import INPUT, OUTPUT, runtime


def provider_problems() -> dict[str, str | None]:
    """Return, for each provider that ONNX Runtime lists, what keeps it from working, or None.

    Raises:
        ModelError: onnxruntime cannot be imported.
    """
    from histofast.graphs import building  # onnx is heavy: only who asks pays

    model = building.to_bytes(building.tiny_encoder())
    return {name: _problem(name, model) for name in runtime.runtime().get_available_providers()}


def _problem(provider: str, model: bytes) -> str | None:
    reason = runtime.why_not(provider)
    if reason is not None:
        return reason
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    try:
        session = runtime.make_session(model, provider=provider)
        if session is None:
            return "ONNX Runtime fell back to another provider"
        got = session.run([OUTPUT], {INPUT: pixels})[0]
    except runtime.runtime_errors() as error:
        return runtime.first_line(error)
    wanted = pixels.mean(axis=(1, 2)) / 255
    return None if np.allclose(got, wanted, atol=1e-4) else f"computes {got[0, 0]} for a known mean"
