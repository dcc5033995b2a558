"""Which of ONNX Runtime's providers really run here: each is tried on a tiny encoder."""

from __future__ import annotations

import numpy as np

from histofast.encoders import runtime
from histofast.encoders.spec import INPUT, OUTPUT


def try_providers(mean_colour: bytes) -> dict[str, str | None]:
    """Return, for each provider that ONNX Runtime lists, what keeps it from working, or None.

    Args:
        mean_colour: an encoder file whose features are the mean colour, in [0, 1] units.

    Raises:
        ModelError: onnxruntime cannot be imported.
    """
    listed = runtime.runtime().get_available_providers()
    return {provider: _problem(provider, mean_colour) for provider in listed}


def _problem(provider: str, mean_colour: bytes) -> str | None:
    reason = runtime.why_not(provider)
    if reason is not None:
        return reason
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    try:
        session = runtime.make_session(mean_colour, provider=provider)
        if session is None:
            return "ONNX Runtime fell back to another provider"
        got = session.run([OUTPUT], {INPUT: pixels})[0]
    except runtime.runtime_errors() as error:
        return runtime.first_line(error)
    wanted = pixels.mean(axis=(1, 2)) / 255
    return None if np.allclose(got, wanted, atol=1e-4) else f"computes {got[0, 0]} for a known mean"
