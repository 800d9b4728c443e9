"""The prompts of a benchmark: drawn, or given as the input `prompts`, a file or a folder with one, cut to one length.

Lines of `.jsonl` hold `token_ids` or `text`; in `.txt` files blank lines lie between texts. Texts need the checkpoint's
tokenizer, and get the special tokens that it adds by itself.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import BadRequest

Prompts = tuple[tuple[int, ...], ...]
"""The token numbers of each."""
_HINT = "give lines of JSON with token_ids or text, each long enough, or let the prompts be drawn"


def drawn_prompts(vocabulary: int, batch_size: int, tokens: int, seed: int) -> Prompts:
    """Token numbers drawn evenly from the vocabulary, the same for every backend."""
    import torch

    drawn = torch.randint(vocabulary, (batch_size, tokens), generator=torch.Generator().manual_seed(seed))
    return tuple(tuple(prompt) for prompt in drawn.tolist())


def read_prompts(where: Path, checkpoint: Path, *, count: int, tokens: int) -> Prompts:
    """The first `count` prompts of at least `tokens` tokens, each cut to that length.

    Raises:
        BadRequest: there is no such file, it holds something else, or too few prompts are long enough.
    """
    found = []
    tokenizer: Any = None
    for entry in _entries(_file(where)):
        if isinstance(entry, str):
            tokenizer = tokenizer or _tokenizer(checkpoint)
            entry = tokenizer(entry)["input_ids"]
        if len(entry) >= tokens:
            found.append(tuple(entry[:tokens]))
        if len(found) == count:
            return tuple(found)
    raise BadRequest(
        f"the input 'prompts' has {len(found)} prompts of at least {tokens} tokens, and a batch needs {count}",
        hint=_HINT,
    )


def _file(where: Path) -> Path:
    if where.is_file():
        return where
    files = sorted(path for path in where.glob("*") if re.search(r"\.(jsonl|jsonl\.gz|txt)$", path.name))
    if len(files) != 1:
        raise BadRequest(f"the input 'prompts' has {len(files)} files with prompts instead of one", hint=_HINT)
    return files[0]


def _entries(path: Path) -> Iterator[str | list[int]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        if path.suffix == ".txt":
            yield from (text for text in re.split(r"\n\s*\n", file.read()) if text.strip())
            return
        for number, line in enumerate(file, start=1):
            yield _entry(line, number)


def _entry(line: str, number: int) -> str | list[int]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as broken:
        raise BadRequest(f"line {number} of the input 'prompts' is no JSON: {broken}", hint=_HINT) from broken
    ids, text = (row.get("token_ids"), row.get("text")) if isinstance(row, dict) else (None, None)
    if isinstance(ids, list) and all(type(one) is int and one >= 0 for one in ids):
        return ids
    if isinstance(text, str):
        return text
    raise BadRequest(f"line {number} of the input 'prompts' has neither token_ids nor text", hint=_HINT)


def _tokenizer(checkpoint: Path) -> Any:
    from harness.models.loading import load_tokenizer

    return load_tokenizer(checkpoint)
