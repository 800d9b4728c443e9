"""AWQ: activation-aware scaling and clipping before rounding."""

from harness.methods.awq.method import parse

__all__ = ["parse"]
