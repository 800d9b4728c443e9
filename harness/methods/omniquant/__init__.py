"""OmniQuant: learned clipping and learned equivalent transformations, block by block."""

from harness.methods.omniquant.method import parse

__all__ = ["parse"]
