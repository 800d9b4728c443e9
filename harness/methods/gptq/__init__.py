"""GPTQ: one-shot quantization with weight reconstruction."""

from harness.methods.gptq.method import OPTIONS, parse

__all__ = ["OPTIONS", "parse"]
