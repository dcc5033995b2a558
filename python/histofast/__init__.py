"""histofast: whole-slide images in, verified feature files out."""

from histofast._core import version as __version__

__all__ = ["__version__"]
