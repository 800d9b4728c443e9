"""Tokens of a GGUF file by llama.cpp's own tokenizer, and by the one that a fetch makes of the file.

Runs in the environment of `images/llama-cpp/locks/cpu.txt`.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.backends.llama_cpp import library
from harness.contract.gguf import read_header, read_vocabulary
from harness.fetch.gguf.tokenizer import write_tokenizer
from tests.support.gguf_files import random_model, write_model

pytest.importorskip("xllamacpp", reason="llama.cpp is installed in the environment of the image `llama-cpp` alone")

TEXTS = {
    "qwen3": ["ab c", " abc  abc", "a\n\n\nb", "é 日本", "a<eos>b<unk>c", "abcabc bcbc abab  c\n"],
    "qwen2": ["ab12 abbb  ab", "b<e>b ab 1", "abab bbbb a  b   12ab"],
}
"""A file of a Qwen3 has a scored vocabulary here, one of a Qwen2 a byte-level one, with few letters."""


@pytest.fixture(scope="module")
def opened() -> Any:
    found = library.open_library()
    found.llama_tokenize.restype = ctypes.c_int32
    found.llama_tokenize.argtypes = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int32,
        ctypes.POINTER(ctypes.c_int32),
        ctypes.c_int32,
        ctypes.c_bool,
        ctypes.c_bool,
    )
    return found


@pytest.fixture(params=TEXTS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file(family: str, tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.gguf", family, random_model(family))


@pytest.fixture
def theirs(opened: Any, file: Path) -> Iterator[Any]:
    parameters = opened.llama_model_default_params()
    parameters.vocab_only, parameters.load_mode = True, library.LOAD_WHOLE
    model = opened.llama_model_load_from_file(str(file).encode(), parameters)
    assert model
    yield opened.llama_model_get_vocab(model)
    opened.llama_model_free(model)


def test_every_text_has_the_same_tokens(opened: Any, family: str, file: Path, theirs: Any, tmp_path: Path):
    header = read_header(file)
    vocabulary = read_vocabulary(header, header.tensors["token_embd.weight"].shape[0])
    write_tokenizer(vocabulary, 64, tmp_path / "tokenizer")
    ours = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in TEXTS[family]:
        room = (ctypes.c_int32 * 100)()
        count = opened.llama_tokenize(theirs, text.encode(), len(text.encode()), room, 100, True, True)
        assert list(room[:count]) == ours(text).input_ids, text
