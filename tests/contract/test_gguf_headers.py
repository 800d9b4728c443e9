"""What the header of a GGUF file says, and every way in which it can be wrong, in one sentence each."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from harness.contract.ggml import BLOCKS
from harness.contract.gguf import RefusedGguf, read_header, read_vocabulary, understand
from tests.support.gguf_headers import SCORED, write


def read(path: Path) -> None:
    header = read_header(path)
    read_vocabulary(header, understand(header).vocabulary_size)


def test_block_types_are_those_that_the_package_dequantizes():
    known = {int(one): one.name for one in gguf.GGMLQuantizationType}
    for number, (name, values, size_bytes) in BLOCKS.items():
        assert known[number] == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (values, size_bytes)
        if values > 1:
            block = np.zeros((1, size_bytes), dtype=np.uint8)
            assert gguf.dequantize(block, gguf.GGMLQuantizationType(number)).shape == (1, values)


def test_fields_and_tensors_are_those_that_the_package_reads(tmp_path: Path):
    path = write(tmp_path / "a.gguf")
    header, reader = read_header(path), gguf.GGUFReader(path)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            found = header.fields[name]
            assert (list(found) if not isinstance(found, str | int | float) else found) == field.contents()
    places = {one.name: (one.begin, one.size_bytes, one.shape) for one in header.tensors.values()}
    assert places == {
        one.name: (int(one.data_offset), int(one.n_bytes), tuple(map(int, one.shape[::-1]))) for one in reader.tensors
    }


def test_sizes_are_read_as_they_were_before_32_bits(tmp_path: Path):
    model = understand(read_header(write(tmp_path / "a.gguf")))
    assert model.norm_epsilon == 1e-5
    assert (model.heads, model.key_heads, model.head_size, model.tied) == (4, 2, 8, True)
    assert model.parameter_count == len(SCORED) * 32 + 3 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "other": (lambda whole: b"NOPE" + whole[4:], "is no GGUF file"),
    "empty": (lambda _: b"", "is no GGUF file"),
    "big-endian": (lambda whole: b"GGUF" + struct.pack(">I", 3) + whole[8:], "is GGUF of version 50331648"),
    "header cut": (lambda whole: whole[:200], "goes beyond its end"),
    "tensors cut": (lambda whole: whole[:-4], "is cut off: it ends at byte"),
    "too many tensors": (lambda whole: whole[:8] + struct.pack("<Q", 2**40) + whole[16:], "no room for them"),
    "too many fields": (lambda whole: whole[:16] + struct.pack("<Q", 2**40) + whole[24:], "no room for them"),
    "endless text": (lambda whole: whole[:24] + struct.pack("<Q", 2**60) + whole[32:], "goes beyond its end"),
    "not a text": (lambda whole: whole.replace(b"<bos>", b"<b\xffs>"), "holds a text that is not UTF-8"),
    "a field twice": (lambda whole: whole.replace(b"ggml.scores", b"ggml.tokens"), "tokenizer.ggml.tokens' twice"),
    "no such type": (lambda whole: whole.replace(b"architecture\x08", b"architecture\x63"), "unknown type"),
    "a tensor twice": (lambda whole: whole.replace(b"blk.0.attn_k.weight", b"blk.0.attn_v.weight"), "twice"),
    "another shape": (
        lambda whole: whole.replace(b"attn_k.weight\x02\0\0\0\x20", b"attn_k.weight\x02\0\0\0\x10"),
        "blk.0.attn_k.weight is of shape",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, name: str):
    damage, words = DAMAGE[name]
    path = write(tmp_path / "a.gguf")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(RefusedGguf) as refused:
        read(path)
    assert words in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("cut", range(24, 900, 37))
def test_a_header_cut_anywhere_is_refused(tmp_path: Path, cut: int):
    path = write(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RefusedGguf, match=r"cut off|no room"):
        read(path)


@pytest.mark.parametrize(
    ("changes", "words", "understood"),
    [
        ({"family": "mamba"}, "is of the architecture 'mamba'", False),
        ({"extra": ("blk.0.attn_q.bias",)}, "has the tensor 'blk.0.attn_q.bias'", False),
        ({"extra_fields": {"llama.expert_count": 8}}, "the field 'llama.expert_count'", False),
        ({"extra_fields": {"llama.rope.scaling.type": "yarn"}}, "by 'yarn'", False),
        ({"extra_fields": {"llama.rope.dimension_count": 4}}, "not the size of a head", False),
        ({"extra_fields": {"llama.attention.value_length": 4}}, "not the size of a head", False),
        ({"extra_fields": {"tokenizer.ggml.precompiled_charsmap": "x"}}, "own rules for characters", False),
        ({"split": 2}, "is split over 2 GGUF files", False),
        ({"leave_out": "blk.0.attn_k.weight"}, "lacks the tensor blk.0.attn_k.weight", True),
        ({"leave_out": "token_embd.weight"}, "lacks the tensor token_embd.weight", True),
        ({"blocks": 2}, "lacks the tensor blk.1.attn_norm.weight", True),
        ({"blocks": 2**31}, "for its 2147483648 blocks", True),
        ({"hidden": 0}, "embedding_length is 0", True),
        ({"hidden": 64}, "token_embd.weight is of shape", True),
        ({"tokens": [*SCORED[:-1], "a"]}, "has a token twice", True),
        ({"tokens": [*SCORED[:5], "x", *SCORED[6:]]}, "tokens for some bytes only", True),
        ({"tokens": SCORED[:-1]}, f"has {len(SCORED) - 1} tokens, and its embedding {len(SCORED)} rows", True),
        ({"types": [1]}, f"has {len(SCORED)} tokens, and 1 in tokenizer.ggml.token_type", True),
        ({"begin": 10_000}, "bos_token_id is 10000", True),
    ],
)
def test_what_is_not_understood_is_told_from_damage(tmp_path: Path, changes: dict, words: str, understood: bool):
    path = write(tmp_path / "a.gguf", **changes)
    with pytest.raises(RefusedGguf) as refused:
        read(path)
    assert words in refused.value.message
    assert (refused.value.reason is None) is understood


def test_what_is_no_file_is_never_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(RefusedGguf, match="not a regular file"):
        read_header(tmp_path / "a.gguf")
