"""GGUF files: what their header says, and what of it is understood here.

The plan reads a file that is at hand with this, and the fetch before it makes a checkpoint of one, so that both refuse
the same files. The tensors themselves are for the fetch.
"""

from harness.contract.gguf.header import GgufHeader, RefusedGguf, read_header
from harness.contract.gguf.model import GgufFamily, GgufModel, Placed, understand
from harness.contract.gguf.vocabulary import BYTE_LEVEL_SPLITS, GgufVocabulary, TokenType, read_vocabulary

__all__ = [
    "BYTE_LEVEL_SPLITS",
    "GgufFamily",
    "GgufHeader",
    "GgufModel",
    "GgufVocabulary",
    "Placed",
    "RefusedGguf",
    "TokenType",
    "read_header",
    "read_vocabulary",
    "understand",
]
