"""AWQ: activation-aware scaling and clipping before rounding."""

from harness.methods.awq.method import OPTIONS, parse

__all__ = ["OPTIONS", "parse"]
