"""LLM-Pruner: structured pruning by importance, and recovery with low-rank adapters."""

from harness.methods.llm_pruner.method import OPTIONS, parse

__all__ = ["OPTIONS", "parse"]
