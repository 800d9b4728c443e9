"""OmniQuant: learned clipping and learned equivalent transformations, block by block."""

from harness.methods.omniquant.method import OPTIONS, parse

__all__ = ["OPTIONS", "parse"]
