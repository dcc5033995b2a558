"""Plain NumPy definitions of what the kernels compute: the specification, no cleverness.

Each section defines one kernel; tests/test_<kernel>.py holds the kernel to it.
"""

from __future__ import annotations

import numpy as np
