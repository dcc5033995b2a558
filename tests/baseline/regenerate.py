"""Draw the pictures again that figures are held against: python tests/baseline/regenerate.py"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

if __name__ == "__main__":
    from report_figures import FIGURES
    from test_report_figures import small

    for name, figure in FIGURES.items():
        small(figure).save(FOLDER / f"{name}.png", optimize=True)
