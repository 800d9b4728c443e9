"""Checkpoints and calibration text of a known model's shape, with random weights: nothing is downloaded.

python benchmarks/h200/shapes.py --shape llama-2-7b --like CHECKPOINT --into DIR [--layers N] [--device cuda]

makes one that reads text: its tokenizer is that of CHECKPOINT, and its vocabulary is as large as that one's.
"""

import argparse
import gzip
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.architectures.pruned_shapes import LayerWidths
from harness.checkpoint import publish, read_config
from harness.contract import CheckpointDescriptor, CheckpointFormat, DatasetDescriptor, Dtype

SHAPES = {
    "llama-2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
    },
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
    },
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
WEIGHT_STD = 0.02
_DOCUMENTS = 256

TensorShapes = dict[str, tuple[int, ...]]
"""The shape of each module's weight."""


def make_checkpoint(
    folder: Path, shape: str, *, layers: int | None, seed: int, device: torch.device, like: Path | None = None
) -> None:
    """Publish a float16 LLaMA of this shape, cut to `layers` if given; one shard a block.

    `like` is a checkpoint whose tokenizer and vocabulary size it gets; without, its words are w2, w3, and so on.
    """
    staging = folder.with_name(f"{folder.name}.staging")
    staging.mkdir(parents=True)
    settings: dict[str, Any] = SHAPES[shape] | {"bos_token_id": 0, "eos_token_id": 1}
    if layers is not None:
        settings["num_hidden_layers"] = layers
    if like is not None:
        other = read_config(like)
        settings |= {name: other[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    config = LlamaConfig(**settings, dtype="float16")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(staging)
    if like is None:
        tokenizer(config.vocab_size).save_pretrained(staging)
    else:
        for name in _TOKENIZER_FILES:
            if (like / name).exists():
                shutil.copyfile(like / name, staging / name)
    generator = torch.Generator(device).manual_seed(seed)
    heads = config.num_attention_heads
    shards = list(tensor_shapes(config.to_dict(), whole_widths(settings), config.hidden_size // heads))
    write_shards(
        staging,
        ({f"{name}.weight": _random(name, size, generator) for name, size in shard.items()} for shard in shards),
    )
    publish(
        staging,
        folder,
        lambda files: CheckpointDescriptor(
            files=files,
            format=CheckpointFormat.DENSE,
            dtype=Dtype.FLOAT16,
            architecture="LlamaForCausalLM",
            parameter_count=parameter_count(shards),
            source=f"random weights of the shape of {shape}, seed {seed}",
        ),
    )


def make_text(folder: Path, *, vocabulary: int, words: int, seed: int) -> None:
    """Publish random documents of `words` words each under the name of the calibration set c4."""
    staging = folder.with_name(f"{folder.name}.staging")
    staging.mkdir(parents=True)
    drawn = torch.randint(2, vocabulary, (_DOCUMENTS, words), generator=torch.Generator().manual_seed(seed))
    with gzip.open(staging / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": " ".join(f"w{word}" for word in row)}) + "\n" for row in drawn.tolist())
    publish(
        staging,
        folder,
        lambda files: DatasetDescriptor(files=files, name="c4", origin="random words", rows={"train": _DOCUMENTS}),
    )


def whole_widths(settings: Mapping[str, Any]) -> LayerWidths:
    """The widths of every layer of a model that is not pruned, out of its configuration."""
    return LayerWidths(
        heads=settings["num_attention_heads"],
        key_value_heads=settings["num_key_value_heads"],
        intermediate_size=settings["intermediate_size"],
    )


def tensor_shapes(config: Mapping[str, Any], widths: LayerWidths, head_size: int) -> Iterator[TensorShapes]:
    """Of a LLaMA with these widths in every layer: by module, the ends first, then a block at a time."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    queries, keys, middle = widths.heads * head_size, widths.key_value_heads * head_size, widths.intermediate_size
    yield {"model.embed_tokens": (vocabulary, hidden), "model.norm": (hidden,), "lm_head": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (middle, hidden),
            "mlp.up_proj": (middle, hidden),
            "mlp.down_proj": (hidden, middle),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        yield {f"model.layers.{layer}.{name}": size for name, size in block.items()}


def parameter_count(shards: Iterable[TensorShapes]) -> int:
    return sum(torch.Size(size).numel() for shard in shards for size in shard.values())


def write_shards(folder: Path, shards: Iterable[dict[str, torch.Tensor]]) -> None:
    """A file for each of `shards`, and the index of them all."""
    index: dict[str, str] = {}
    for number, tensors in enumerate(shards):
        name = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _random(name: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(size, dtype=torch.float16)
    values = torch.randn(size, generator=generator, device=generator.device, dtype=torch.float16)
    return (values * WEIGHT_STD).cpu()


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = ["<s>", "</s>", *(f"w{index}" for index in range(2, vocabulary))]
    words_only = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, "<s>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words_only, **special)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--like", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    device = torch.device(given.device)
    make_checkpoint(given.into, given.shape, layers=given.layers, seed=given.seed, device=device, like=given.like)


if __name__ == "__main__":
    main()
