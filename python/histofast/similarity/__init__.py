"""How alike two representations are: arrays in, numbers out."""

from histofast.similarity._cka import cka

__all__ = ["cka"]
