"""GPTQ: one-shot quantization with weight reconstruction."""

from harness.methods.gptq.method import parse

__all__ = ["parse"]
