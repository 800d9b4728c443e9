"""A GGUF file as a Hugging Face folder: its configuration, its weights made dense, its tokenizer."""

from harness.fetch.gguf.unpacking import unpack_gguf

__all__ = ["unpack_gguf"]
