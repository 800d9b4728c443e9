"""Training examples for the recovery: prompts that are read, and answers that are learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.calibration.text import choose_split, instruction_prompt, instruction_text, read_texts
from harness.checkpoint import open_dataset, read_rows
from harness.errors import BadRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
_MULTIPLE = 8


@dataclass(frozen=True)
class Example:
    """Token ids, of which those from `answer` on are learnt."""

    tokens: tuple[int, ...]
    answer: int

    @property
    def learnt(self) -> int:
        """Tokens that are predicted and count; the first token of all has nothing before it."""
        return len(self.tokens) - max(self.answer, 1)


@dataclass(frozen=True)
class Examples:
    """`dropped` rows had no answer left within the cutoff."""

    name: str
    digest: str
    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    dropped: int


def read_examples(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", *, cutoff: int, validation_rows: int, seed: int
) -> Examples:
    """Instructions with their answers, or plain texts, which are learnt whole; shuffled, and a part held out.

    The held-out part has `validation_rows`, but at most a tenth of all.

    Raises:
        BadRequest: the set holds neither, or fewer than two usable rows.
    """
    descriptor = open_dataset(folder)
    split = choose_split(descriptor)
    rows = read_rows(folder, split)
    if rows[0].keys() >= {"instruction", "input", "output"}:
        pairs = [(instruction_prompt(row), instruction_text(row)) for row in rows]
    else:
        pairs = [("", text) for text in read_texts(folder, descriptor.name, split)]
    made = [_example(tokenizer, prompt, text, cutoff) for prompt, text in pairs]
    usable = [example for example in made if example.learnt > 0]
    if len(usable) < 2:
        raise BadRequest(
            f"data set {descriptor.name!r} has {len(usable)} row(s) to train on within {cutoff} tokens",
            hint="give a larger set, or raise recovery_cutoff_tokens",
        )
    order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = min(validation_rows, max(1, len(usable) // 10))
    shuffled = [usable[index] for index in order]
    return Examples(
        name=descriptor.name,
        digest=descriptor.digest,
        training=tuple(shuffled[held_out:]),
        validation=tuple(shuffled[:held_out]),
        dropped=len(made) - len(usable),
    )


def _example(tokenizer: "PreTrainedTokenizerBase", prompt: str, text: str, cutoff: int) -> Example:
    """The text up to `cutoff` tokens, with the end token where there is room; the prompt's tokens are not learnt."""
    tokens = list(tokenizer(text, verbose=False)["input_ids"])[:cutoff]
    end = tokenizer.eos_token_id
    if isinstance(end, int) and len(tokens) < cutoff and tokens[-1:] != [end]:
        tokens.append(end)
    answer = 0 if not prompt else min(len(_without_end(tokenizer, prompt)), len(tokens))
    return Example(tuple(tokens), answer)


def _without_end(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    tokens = list(tokenizer(text, verbose=False)["input_ids"])
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens


def collate(examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both int64 [examples, longest]. Padding stands on the right, where no token looks at it."""
    width = -(-max(len(one.tokens) for one in examples) // _MULTIPLE) * _MULTIPLE
    tokens = torch.zeros(len(examples), width, dtype=torch.int64)
    labels = torch.full((len(examples), width), IGNORED)
    for row, one in enumerate(examples):
        ids = torch.tensor(one.tokens)
        tokens[row, : len(ids)] = ids
        labels[row, one.answer : len(ids)] = ids[one.answer :]
    return tokens.to(device), labels.to(device)
