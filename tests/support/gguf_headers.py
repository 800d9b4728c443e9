"""GGUF files of no model in particular: headers, vocabularies, and the tensors of a Llama of one block."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFWriter, TokenType

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "a", "b", "c", "▁a", "ab", "bc", "abc", "▁ab", "\n"]
SCORED = ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES, "\n\n", *WORDS]
"""A vocabulary as Gemma's is laid out. `ab` is scored above `bc`, and `▁ab` above `abc`, as their places say."""
SPELT = ["<u>", "<b>", "<e>", "a", "b", "1", "2", "Ġ", "ab", "Ġab", "bb"]
"""A byte-level vocabulary, whose merges are MERGES in this order."""
MERGES = ["a b", "Ġ ab", "b b"]
_BLOCK = {
    "attn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32),
    "ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64),
}  # fmt: skip


def write(path: Path, *, leave_out: str = "", extra: tuple[str, ...] = (), **changes: Any) -> Path:
    """A Llama of one block, whose weights are zeros. `changes` are those of `add_scored`, and sizes."""
    writer = gguf.GGUFWriter(path, changes.pop("family", "llama"))
    if split := changes.pop("split", 0):
        writer.add_uint16("split.count", split)
    writer.add_context_length(64)
    writer.add_embedding_length(changes.pop("hidden", 32))
    writer.add_block_count(changes.pop("blocks", 1))
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    add_scored(writer, **changes)
    shapes = {f"blk.0.{name}.weight": shape for name, shape in _BLOCK.items()}
    shapes |= {"token_embd.weight": (len(SCORED), 32), "output_norm.weight": (32,)} | dict.fromkeys(extra, (2,))
    for name, shape in shapes.items():
        if name != leave_out:
            writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    finish(writer)
    return path


def add_scored(writer: GGUFWriter, **changes: Any) -> None:
    """The vocabulary SCORED with what Gemma's files say of theirs."""
    normal = SCORED.index("▁")
    types = [
        *[TokenType.CONTROL] * 3,
        TokenType.UNKNOWN,
        *[TokenType.BYTE] * 256,
        TokenType.USER_DEFINED,
        *[TokenType.NORMAL] * len(WORDS),
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(changes.get("tokens", SCORED))
    writer.add_token_scores([-1000.0] * normal + [-float(one) for one in (0, 1, 2, 3, 6, 4, 7, 8, 5, 9)])
    writer.add_token_types(changes.get("types", [int(one) for one in types]))
    writer.add_bos_token_id(changes.get("begin", 2))
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(changes.get("adds_begin", True))
    writer.add_add_space_prefix(changes.get("blank_before", False))
    if "file_type" in changes:
        writer.add_file_type(changes["file_type"])
    for name, value in changes.get("extra_fields", {}).items():
        writer.add_key_value(name, value, *_kind(value))


def add_spelt(writer: GGUFWriter, split: str = "smollm") -> None:
    """The byte-level vocabulary SPELT."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(SPELT)
    writer.add_token_types([3, 3, 3] + [1] * (len(SPELT) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages }}")


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(value: Any) -> tuple[Any, ...]:
    from gguf import GGUFValueType

    return (GGUFValueType.get_type(value),)


def spelt_embedding(writer: GGUFWriter) -> None:
    """An embedding of as many rows as SPELT has."""
    writer.add_tensor("token_embd.weight", np.ones((len(SPELT), 32), dtype=np.float32))
