"""ChatGLM2 and ChatGLM3 as transformers' own GLM model: the same arithmetic in another layout, without remote code.

The repositories name their weights after their own code, which is never run. The fused query-key-value matrix holds the
queries' rows, then the keys', then the values'; the fused matrix of the feed-forward holds the gate's rows first, as
GLM's does. The rotary embedding turns neighbouring pairs in the first half of each head in both.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, PositiveFloat, PositiveInt, ValidationError

from harness.checkpoint import CONFIG_NAME, INDEX_NAME, ForeignCheckpoint, inspect_foreign
from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.fetch.sentencepiece import build_tokenizer, read_model
from harness.fetch.tokenizer import SETTINGS_NAME, TOKENIZER_NAME
from harness.reporter import Reporter

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPE = "chatglm"
_VOCABULARY_NAME = "tokenizer.model"
_APPENDED_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_PREFIX = ("[gMASK]", "sop")
_ROTARY_BASE = 10000.0
_ROTARY_SHARE = 0.5
_DROPPED = "transformer.rotary_pos_emb.inv_freq"
_OUTSIDE_BLOCKS = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "input_layernorm.weight": "input_layernorm.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_BLOCK = re.compile(r"^transformer\.encoder\.layers\.(\d+)\.(.+)$")
_FUSED = re.compile(r"^self_attention\.query_key_value\.(weight|bias)$")


class ChatGlmConfig(BaseModel):
    """`config.json` of a model that can be converted: what GLM has no counterpart for must have the one value here.

    `rope_ratio` stretches positions in one published model and the rotary base in another, so only 1 is unambiguous.
    """

    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_attention_heads: PositiveInt
    multi_query_group_num: PositiveInt
    kv_channels: PositiveInt
    ffn_hidden_size: PositiveInt
    padded_vocab_size: PositiveInt
    seq_length: PositiveInt
    layernorm_epsilon: PositiveFloat
    torch_dtype: str = "float16"
    eos_token_id: int = 2
    pad_token_id: int = 0
    multi_query_attention: Literal[True]
    add_qkv_bias: Literal[True]
    add_bias_linear: Literal[False]
    rmsnorm: Literal[True] = True
    post_layer_norm: Literal[True] = True
    original_rope: Literal[True] = True
    rope_ratio: Literal[1] = 1
    apply_residual_connection_post_layernorm: Literal[False] = False
    tie_word_embeddings: Literal[False] = False
    quantization_bit: Literal[0] = 0
    pre_seq_len: None = None

    @property
    def fused_rows(self) -> tuple[int, int, int]:
        """The rows of queries, keys and values in the fused matrix."""
        keys = self.multi_query_group_num * self.kv_channels
        return self.num_attention_heads * self.kv_channels, keys, keys


@dataclass(frozen=True)
class Converted:
    folder: Path
    notes: tuple[str, ...]


def is_chatglm(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == MODEL_TYPE


def check_convertible(config: Mapping[str, Any]) -> ChatGlmConfig:
    """Raise Unsupported where a `chatglm` config describes something other than ChatGLM2 or ChatGLM3."""
    try:
        return ChatGlmConfig.model_validate(dict(config))
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"this chatglm model cannot be converted to GLM: {field} in {CONFIG_NAME}: {first['msg']}",
            hint="ChatGLM2-6B and ChatGLM3-6B in their plain versions can; of GLM-4 take the version for transformers",
        ) from invalid


def convert(
    source: Path, destination: Path, reporter: Reporter, *, consume: bool, links_into: Path | None = None
) -> Converted:
    """Write the model of `source` in GLM's layout into `destination`, one weight file at a time.

    `consume` removes each weight file of `source` once it is converted, which saves its space.

    Raises:
        BadCheckpoint: the folder is incomplete, or its weights are not those of its config.
        Unsupported: the model, or its tokenizer, is none that can be converted.
    """
    foreign = inspect_foreign(source, links_into)
    config = check_convertible(foreign.config)
    _refuse_other_tensors(foreign, config)
    destination.mkdir(parents=True)
    _write_json(destination / CONFIG_NAME, _glm_config(config))
    tokenizer_notes = _convert_tokenizer(source, destination)
    _convert_weights(source, foreign, config, destination, reporter, consume=consume)
    return Converted(destination, ("converted from ChatGLM's layout to GLM's", *tokenizer_notes))


def _glm_config(config: ChatGlmConfig) -> dict[str, Any]:
    rotary = {"rope_type": "default", "rope_theta": _ROTARY_BASE, "partial_rotary_factor": _ROTARY_SHARE}
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "attention_bias": True,
        "dtype": config.torch_dtype,
        "eos_token_id": config.eos_token_id,
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "max_position_embeddings": config.seq_length,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.multi_query_group_num,
        "pad_token_id": config.pad_token_id,
        "partial_rotary_factor": _ROTARY_SHARE,
        "rms_norm_eps": config.layernorm_epsilon,
        "rope_parameters": rotary,
        "tie_word_embeddings": False,
        "vocab_size": config.padded_vocab_size,
    }


def _refuse_other_tensors(foreign: ForeignCheckpoint, config: ChatGlmConfig) -> None:
    fused = ("self_attention.query_key_value.weight", "self_attention.query_key_value.bias")
    blocks = (
        f"transformer.encoder.layers.{index}.{part}"
        for index in range(config.num_layers)
        for part in (*_IN_BLOCK, *fused)
    )
    odd = sorted((foreign.tensors.keys() - {_DROPPED}) ^ {*_OUTSIDE_BLOCKS, *blocks})
    if odd:
        raise BadCheckpoint(
            f"{len(odd)} tensor(s) are missing or strange to a ChatGLM of {config.num_layers} layers, first {odd[0]}",
            hint="config.json and the weights come from different models; copy or download them together",
        )
    rows = sum(config.fused_rows)
    for name, entry in foreign.tensors.items():
        if name.endswith(fused) and entry.shape[0] != rows:
            raise BadCheckpoint(
                f"{name} has {entry.shape[0]} rows, but config.json says {rows}",
                hint="config.json and the weights come from different models; copy or download them together",
            )


def _convert_weights(
    source: Path,
    foreign: ForeignCheckpoint,
    config: ChatGlmConfig,
    destination: Path,
    reporter: Reporter,
    *,
    consume: bool,
) -> None:
    from safetensors.torch import load_file, save_file

    placed: dict[str, str] = {}
    total_bytes = 0
    for done, file in enumerate(foreign.weight_files, start=1):
        converted = {
            name: tensor
            for key, value in load_file(source / file).items()
            for name, tensor in _rename(key, value, config)
        }
        save_file(converted, destination / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(converted, file)
        total_bytes += sum(tensor.numel() * tensor.element_size() for tensor in converted.values())
        if consume:
            (source / file).unlink()
        reporter.progress(done, len(foreign.weight_files), "files")
    if (source / INDEX_NAME).is_file():
        _write_json(destination / INDEX_NAME, {"metadata": {"total_size": total_bytes}, "weight_map": placed})


def _rename(name: str, tensor: "Tensor", config: ChatGlmConfig) -> Iterator[tuple[str, "Tensor"]]:
    """The GLM tensors that one ChatGLM tensor holds, by name; none for the rotary frequencies, which GLM computes."""
    import torch

    block = _BLOCK.match(name)
    if block is None:
        if name != _DROPPED:
            yield _OUTSIDE_BLOCKS[name], tensor
        return
    prefix, part = f"model.layers.{block[1]}", block[2]
    if fused := _FUSED.match(part):
        for letter, rows in zip("qkv", torch.split(tensor, list(config.fused_rows)), strict=True):
            yield f"{prefix}.self_attn.{letter}_proj.{fused[1]}", rows.clone()
    else:
        yield f"{prefix}.{_IN_BLOCK[part]}", tensor


def _convert_tokenizer(source: Path, destination: Path) -> tuple[str, ...]:
    """A `tokenizer.json` that is there already is taken; else it is made from the SentencePiece model."""
    settings = {
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": "<unk>",
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    _write_json(destination / SETTINGS_NAME, settings)
    if (source / TOKENIZER_NAME).is_file():
        (destination / TOKENIZER_NAME).write_bytes((source / TOKENIZER_NAME).read_bytes())
        return ()
    if not (source / _VOCABULARY_NAME).is_file():
        raise BadCheckpoint(
            f"{source} has neither {TOKENIZER_NAME} nor {_VOCABULARY_NAME}",
            hint="copy or download the model's tokenizer with it",
        )
    _make_tokenizer(source / _VOCABULARY_NAME).save(str(destination / TOKENIZER_NAME))
    return (
        f"{TOKENIZER_NAME} made from the SentencePiece model {_VOCABULARY_NAME}; texts begin with {' '.join(_PREFIX)}",
    )


def _make_tokenizer(path: Path) -> Any:
    """The marks before a text are never found inside one: `sop` is also a part of words."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(read_model(path), _APPENDED_TOKENS)
    prefix = " ".join(f"{token}:0" for token in _PREFIX)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{prefix} $A:0",
        pair=f"{prefix} $A:0 $B:0",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in _PREFIX],
    )
    return tokenizer


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True), encoding="utf-8")
