"""Checkpoints and data sets of a few kilobytes, made on the spot: random weights, one token a byte."""

import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from harness.checkpoint import publish
from harness.contract import CheckpointDescriptor, CheckpointFormat, DatasetDescriptor, Dtype, Quantization, Sparsity
from harness.reporter import Reporter

BEGINNING, END = "<s>", "</s>"
DIMENSIONS = {
    "vocab_size": 264,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
GROUPED = {**DIMENSIONS, "num_key_value_heads": 2, "intermediate_size": 48}
CONFIGURATIONS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, head_dim=16, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **GROUPED,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=40,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "opt": lambda: transformers.OPTConfig(**DIMENSIONS, ffn_dim=48, word_embed_proj_dim=32),
    "opt-projected": lambda: transformers.OPTConfig(**DIMENSIONS, ffn_dim=48, word_embed_proj_dim=16),
}


def small_gemma3(**changed: Any) -> PreTrainedModel:
    """A random Gemma 3 of 4 layers, every second one full; norms far from what they start as, two rotary bases."""
    shape = GROUPED | {"hidden_size": 64, "num_hidden_layers": 4, "head_dim": 32, "query_pre_attn_scalar": 32}
    bases = {"full_attention": 50000.0, "sliding_attention": 700.0}
    windows = {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"] * 2}
    rotary = {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(**{**shape, **windows, "rope_parameters": rotary, **changed})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.uniform_(-0.5, 1)
            elif "embed" not in name:
                weight.normal_(std=0.2)
    return model.eval().requires_grad_(False)


def small_model(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A random model with weights large enough for its likelihoods to differ clearly from token to token."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGURATIONS[family](), attn_implementation="sdpa")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.normal_(std=0.2)
    return model.eval().requires_grad_(False)


def byte_tokenizer(*, add_beginning: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte, then `<s>` and `</s>`; with `add_beginning` each text begins with `<s>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BEGINNING, END])
    if add_beginning:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGINNING} $A", special_tokens=[(BEGINNING, tokenizer.token_to_id(BEGINNING))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGINNING,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


def publish_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    *,
    add_beginning: bool = False,
    sparsity: Sparsity | None = None,
    quantization: Quantization | None = None,
) -> Path:
    """Publish `model` as the dense float32 checkpoint `folder`."""
    staging = folder.with_name(f"{folder.name}.staging")
    model.save_pretrained(staging)
    byte_tokenizer(add_beginning=add_beginning).save_pretrained(staging)
    publish(
        staging,
        folder,
        lambda files: CheckpointDescriptor(
            files=files,
            format=CheckpointFormat.DENSE,
            dtype=Dtype.FLOAT32,
            architecture=type(model).__name__,
            parameter_count=sum(weight.numel() for weight in model.parameters()),
            source="made by a test",
            sparsity=sparsity,
            quantization=quantization,
        ),
    )
    return folder


def publish_dataset(folder: Path, name: str, splits: dict[str, Iterable[dict[str, Any]]]) -> Path:
    """Publish the rows of each split as the data set `name` in `folder`."""
    staging = folder.with_name(f"{folder.name}.staging")
    staging.mkdir(parents=True)
    counts = {}
    for split, rows in splits.items():
        lines = [json.dumps(row) for row in rows]
        (staging / f"{split}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
        counts[split] = len(lines)
    publish(
        staging, folder, lambda files: DatasetDescriptor(files=files, name=name, origin="made by a test", rows=counts)
    )
    return folder


class Recorder:
    """A reporter whose events can be read back."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.reporter = Reporter(self._stream)

    def events(self, kind: str) -> list[dict[str, Any]]:
        events = (json.loads(line) for line in self._stream.getvalue().splitlines())
        return [event for event in events if event["event"] == kind]
