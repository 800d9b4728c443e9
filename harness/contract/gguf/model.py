"""Which models of GGUF files are understood: their sizes, and what each tensor is called in transformers.

A field or a tensor that is not understood is a reason to refuse the file: without it another model would be computed.
Source: the names that the package `gguf` gives to tensors and fields, and what llama.cpp computes with them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from harness.contract.base import Dtype, Reason
from harness.contract.gguf.header import GgufHeader, RefusedGguf
from harness.contract.stored import StoredTensor
from harness.contract.suggest import quoted

_SPLIT = "split.count"
_ROTARY_FACTORS = "rope_freqs.weight"
_FIELDS = frozenset(
    {
        "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count",
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
    }
)  # fmt: skip
"""What every family may have, after the architecture's name and a dot."""
_WINDOWED = frozenset({"attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"})

_SAME_EVERYWHERE = (
    ("attn_norm.weight", "input_layernorm.weight", "hidden"),
    ("attn_q.weight", "self_attn.q_proj.weight", "queries hidden"),
    ("attn_k.weight", "self_attn.k_proj.weight", "keys hidden"),
    ("attn_v.weight", "self_attn.v_proj.weight", "keys hidden"),
    ("attn_output.weight", "self_attn.o_proj.weight", "hidden queries"),
    ("ffn_gate.weight", "mlp.gate_proj.weight", "inner hidden"),
    ("ffn_up.weight", "mlp.up_proj.weight", "inner hidden"),
    ("ffn_down.weight", "mlp.down_proj.weight", "hidden inner"),
)
_TWO_NORMS = (("ffn_norm.weight", "post_attention_layernorm.weight", "hidden"),)
_SANDWICH_NORMS = (
    ("post_attention_norm.weight", "post_attention_layernorm.weight", "hidden"),
    ("ffn_norm.weight", "pre_feedforward_layernorm.weight", "hidden"),
    ("post_ffw_norm.weight", "post_feedforward_layernorm.weight", "hidden"),
)
_BIASES = (
    ("attn_q.bias", "self_attn.q_proj.bias", "queries"),
    ("attn_k.bias", "self_attn.k_proj.bias", "keys"),
    ("attn_v.bias", "self_attn.v_proj.bias", "keys"),
)
_HEAD_NORMS = (
    ("attn_q_norm.weight", "self_attn.q_norm.weight", "head"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight", "head"),
)


@dataclass(frozen=True)
class GgufFamily:
    """One value of `general.architecture`. `block` are the tensors of each block: name, name in transformers, shape.

    `pairs_neighbours`: rows 2i and 2i + 1 of queries and keys turn together, where transformers has i and i + half.
    `norms_plus_one`: norms hold 1 + w, where transformers has w. `windowed`: attention reaches back so far only in all
    blocks but every sixth.
    """

    architecture: str
    model_type: str
    block: tuple[tuple[str, str, str], ...]
    pairs_neighbours: bool = False
    norms_plus_one: bool = False
    windowed: bool = False


_FAMILIES = {
    "llama": GgufFamily("LlamaForCausalLM", "llama", (*_SAME_EVERYWHERE, *_TWO_NORMS), pairs_neighbours=True),
    "qwen2": GgufFamily("Qwen2ForCausalLM", "qwen2", (*_SAME_EVERYWHERE, *_TWO_NORMS, *_BIASES)),
    "qwen3": GgufFamily("Qwen3ForCausalLM", "qwen3", (*_SAME_EVERYWHERE, *_TWO_NORMS, *_HEAD_NORMS)),
    "gemma3": GgufFamily(
        "Gemma3ForCausalLM",
        "gemma3_text",
        (*_SAME_EVERYWHERE, *_SANDWICH_NORMS, *_HEAD_NORMS),
        norms_plus_one=True,
        windowed=True,
    ),
}


@dataclass(frozen=True)
class Placed:
    """A tensor of the file, and what it is called in transformers."""

    name: str
    tensor: StoredTensor


@dataclass(frozen=True)
class GgufModel:
    """Sizes in the words of transformers' configurations. `rotary_factors` divide the frequencies, where there are any.

    `rotary_scaling` divides all positions alike; 1.0 leaves them.
    """

    family: GgufFamily
    hidden_size: int
    intermediate_size: int
    blocks: int
    heads: int
    key_heads: int
    head_size: int
    context_tokens: int
    norm_epsilon: float
    rotary_base: float
    rotary_scaling: float
    vocabulary_size: int
    tied: bool
    placed: tuple[Placed, ...]
    rotary_factors: StoredTensor | None
    sliding_window: int | None
    window_rotary_base: float | None

    @property
    def stored_dtype(self) -> Dtype:
        """The dtype that most weights are stored in; bfloat16, as dense models have it, where they are quantized."""
        values: dict[str, int] = {}
        for one in self.placed:
            values[one.tensor.dtype] = values.get(one.tensor.dtype, 0) + one.tensor.values
        most = max(values, key=lambda stored: values[stored])
        return {"F32": Dtype.FLOAT32, "F16": Dtype.FLOAT16}.get(most, Dtype.BFLOAT16)

    @property
    def parameter_count(self) -> int:
        return sum(one.tensor.values for one in self.placed)


def understand(header: GgufHeader) -> GgufModel:
    """What model a file holds.

    Raises:
        RefusedGguf: of a kind that is not understood here, or incomplete.
    """
    name = header.text("general.architecture")
    family = _FAMILIES.get(name)
    if family is None:
        raise RefusedGguf(
            f"the GGUF file is of the architecture {quoted(name)}",
            hint=f"understood are {', '.join(_FAMILIES)}; give another model as safetensors (`hub:` or `dir:`)",
            reason=Reason.ARCHITECTURE,
        )
    _refuse_unread(header, name, family)
    heads = _at_least_1(header, f"{name}.attention.head_count")
    hidden = _at_least_1(header, f"{name}.embedding_length")
    head_size = header.count(f"{name}.attention.key_length", hidden // heads)
    _refuse_head(header, name, head_size)
    embedding = _tensor(header, "token_embd.weight", 2)
    sizes = {
        "hidden": hidden,
        "inner": _at_least_1(header, f"{name}.feed_forward_length"),
        "queries": heads * head_size,
        "keys": header.count(f"{name}.attention.head_count_kv", heads) * head_size,
        "head": head_size,
        "vocabulary": embedding.shape[0],
    }
    blocks = _at_least_1(header, f"{name}.block_count")
    placed = tuple(_placed(header, family, blocks, sizes))
    factors = header.tensors.get(_ROTARY_FACTORS)
    read = {one.tensor.name for one in placed} | ({_ROTARY_FACTORS} if family.pairs_neighbours else set())
    if strangers := sorted(header.tensors.keys() - read):
        raise RefusedGguf(
            f"the GGUF file has the tensor {quoted(strangers[0])}, which a {family.architecture} does not read here",
            hint="give the model as safetensors (`hub:` or `dir:`)",
            reason=Reason.ARCHITECTURE,
        )
    return GgufModel(
        family=family,
        hidden_size=hidden,
        intermediate_size=sizes["inner"],
        blocks=blocks,
        heads=heads,
        key_heads=sizes["keys"] // head_size,
        head_size=head_size,
        context_tokens=_at_least_1(header, f"{name}.context_length"),
        norm_epsilon=header.number(f"{name}.attention.layer_norm_rms_epsilon"),
        rotary_base=header.number(f"{name}.rope.freq_base", 10_000.0),
        rotary_scaling=_rotary_scaling(header, name),
        vocabulary_size=sizes["vocabulary"],
        tied="output.weight" not in header.tensors,
        placed=placed,
        rotary_factors=factors,
        sliding_window=_at_least_1(header, f"{name}.attention.sliding_window") if family.windowed else None,
        window_rotary_base=header.number(f"{name}.rope.freq_base_swa", 10_000.0) if family.windowed else None,
    )


def _refuse_unread(header: GgufHeader, name: str, family: GgufFamily) -> None:
    """What says that this is a part of a model, or another one than the sizes alone."""
    if header.count(_SPLIT, 1) > 1:
        raise RefusedGguf(
            f"the model is split over {header.count(_SPLIT)} GGUF files",
            hint="join them with `llama-gguf-split --merge`",
            reason=Reason.FORMAT,
        )
    known = _FIELDS | (_WINDOWED if family.windowed else frozenset())
    own = {key.removeprefix(f"{name}.") for key in header.fields if key.startswith(f"{name}.")}
    if strange := sorted(own - known):
        raise RefusedGguf(
            f"the GGUF file has the field {quoted(f'{name}.{strange[0]}')}, whose effect is not known here",
            hint="give the model as safetensors (`hub:` or `dir:`)",
            reason=Reason.ARCHITECTURE,
        )
    if family.windowed and header.count(f"{name}.attention.sliding_window_pattern", 6) != 6:
        raise RefusedGguf(
            "the GGUF file has another pattern of sliding windows than five in six blocks",
            hint="give the model as safetensors (`hub:` or `dir:`)",
            reason=Reason.ARCHITECTURE,
        )


def _refuse_head(header: GgufHeader, name: str, head_size: int) -> None:
    for key in ("attention.value_length", "rope.dimension_count"):
        if header.count(f"{name}.{key}", head_size) != head_size or head_size % 2 or not head_size:
            raise RefusedGguf(
                f"the header's {name}.{key} is not the size of a head, {head_size}",
                hint="give the model as safetensors (`hub:` or `dir:`)",
                reason=Reason.SHAPE,
            )


def _rotary_scaling(header: GgufHeader, name: str) -> float:
    kind = header.fields.get(f"{name}.rope.scaling.type", "none")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise RefusedGguf(
            f"the GGUF file scales its rotary embedding by {quoted(str(kind))}, which is not understood here",
            hint="give the model as safetensors (`hub:` or `dir:`)",
            reason=Reason.ARCHITECTURE,
        )
    return header.number(f"{name}.rope.scaling.factor")


def _placed(header: GgufHeader, family: GgufFamily, blocks: int, sizes: dict[str, int]) -> Iterator[Placed]:
    outer = [("token_embd.weight", "model.embed_tokens.weight", "vocabulary hidden")]
    outer += [("output_norm.weight", "model.norm.weight", "hidden")]
    if "output.weight" in header.tensors:
        outer.append(("output.weight", "lm_head.weight", "vocabulary hidden"))
    if blocks > len(header.tensors):
        raise RefusedGguf(f"the GGUF file has {len(header.tensors)} tensors for its {blocks} blocks")
    inner = [
        (f"blk.{number}.{stored}", f"model.layers.{number}.{name}", shape)
        for number in range(blocks)
        for stored, name, shape in family.block
    ]
    for stored, name, shape in (*outer, *inner):
        expected = tuple(sizes[size] for size in shape.split())
        tensor = _tensor(header, stored, len(expected))
        if tensor.shape != expected:
            raise RefusedGguf(f"{stored} is of shape {list(tensor.shape)}, and its header says {list(expected)}")
        yield Placed(name, tensor)


def _tensor(header: GgufHeader, name: str, dimensions: int) -> StoredTensor:
    tensor = header.tensors.get(name)
    if tensor is None or len(tensor.shape) != dimensions or not prod(tensor.shape):
        raise RefusedGguf(f"the GGUF file lacks the tensor {name}")
    return tensor


def _at_least_1(header: GgufHeader, name: str) -> int:
    count = header.count(name)
    if not count:
        raise RefusedGguf(f"the header's {name} is 0")
    return count
