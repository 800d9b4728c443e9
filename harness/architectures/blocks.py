"""Where an architecture keeps its decoder blocks, and which linears of a block share an input.

Covered: the families in `FAMILIES`. Not covered: mixtures of experts, and models that need remote code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from harness.contract import Reason
from harness.errors import Unsupported


@dataclass(frozen=True)
class Family:
    """Architectures with one layout. `groups` are linears that read the same tensor, in the order they are computed.

    The groups, and the order within them, are those of the true-sequential mode of GPTQ and SparseGPT. `norms` names,
    for the first and the third group, the norm whose output they read; a norm multiplies by its weight plus
    `norm_offset`. Of `up`, the last `in_features` of the down projection's rows feed it; `gate` and `up` are one where
    the checkpoint fuses them.
    """

    architectures: tuple[str, ...]
    blocks: str
    groups: tuple[tuple[str, ...], ...]
    norms: tuple[str, str]
    norm_offset: int = 0
    attention: str = "self_attn"
    gated: bool = True


@dataclass(frozen=True)
class NamedLinear:
    """`name` is the full module name, so `<name>.weight` is the parameter."""

    name: str
    module: nn.Linear


@dataclass(frozen=True)
class LinearGroup:
    """Linears of one block that read the same tensor, and so share whatever is computed from it."""

    linears: tuple[NamedLinear, ...]

    @property
    def in_features(self) -> int:
        return self.linears[0].module.in_features


@dataclass(frozen=True)
class Block:
    """One decoder block. Its four groups are: queries, keys and values; attention output; gate and up; down."""

    index: int
    name: str
    module: nn.Module
    groups: tuple[LinearGroup, ...]
    family: Family

    @property
    def input_norm(self) -> nn.Module:
        """The norm before the attention."""
        return self.module.get_submodule(self.family.norms[0])

    @property
    def mlp_norm(self) -> nn.Module:
        """The norm before the feed-forward part."""
        return self.module.get_submodule(self.family.norms[1])

    @property
    def attention(self) -> nn.Module:
        return self.module.get_submodule(self.family.attention)

    @property
    def norms_come_first(self) -> bool:
        """Whether each norm's output goes to its linears alone: not so in post-norm blocks (OPT-350m)."""
        return bool(getattr(self.module, "do_layer_norm_before", True))

    @property
    def linears(self) -> tuple[NamedLinear, ...]:
        return tuple(linear for group in self.groups for linear in group.linears)


_QKV = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj")

FAMILIES = (
    Family(
        architectures=("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
        blocks="model.layers",
        groups=(_QKV, ("self_attn.o_proj",), ("mlp.up_proj", "mlp.gate_proj"), ("mlp.down_proj",)),
        norms=("input_layernorm", "post_attention_layernorm"),
    ),
    Family(
        architectures=("Gemma3ForCausalLM",),
        blocks="model.layers",
        groups=(_QKV, ("self_attn.o_proj",), ("mlp.up_proj", "mlp.gate_proj"), ("mlp.down_proj",)),
        norms=("input_layernorm", "pre_feedforward_layernorm"),
        norm_offset=1,
    ),
    Family(
        architectures=("GlmForCausalLM", "Glm4ForCausalLM"),
        blocks="model.layers",
        groups=(_QKV, ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",)),
        norms=("input_layernorm", "post_attention_layernorm"),
    ),
    Family(
        architectures=("OPTForCausalLM",),
        blocks="model.decoder.layers",
        groups=(_QKV, ("self_attn.out_proj",), ("fc1",), ("fc2",)),
        norms=("self_attn_layer_norm", "final_layer_norm"),
        gated=False,
    ),
)

KNOWN_ARCHITECTURES = tuple(architecture for family in FAMILIES for architecture in family.architectures)


def family_named(architecture: str) -> Family:
    """The family of an architecture, by the name of its class.

    Raises:
        Unsupported: it is not in `FAMILIES`.
    """
    family = next((family for family in FAMILIES if architecture in family.architectures), None)
    if family is None:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"{architecture} is not an architecture whose decoder blocks are known here",
            hint=f"known: {', '.join(KNOWN_ARCHITECTURES)}; another is one entry in harness/architectures/blocks.py",
        )
    return family


def decoder_blocks(model: nn.Module) -> tuple[Block, ...]:
    """The decoder blocks of a causal language model, in order.

    Raises:
        Unsupported: the architecture is not in `FAMILIES`, or its blocks hold other linears than the family's.
    """
    family = family_named(type(model).__name__)
    modules = model.get_submodule(family.blocks)
    return tuple(
        _describe_block(family, index, f"{family.blocks}.{index}", module)
        for index, module in enumerate(modules.children())
    )


def _describe_block(family: Family, index: int, name: str, module: nn.Module) -> Block:
    present = {path: part for path, part in module.named_modules() if isinstance(part, nn.Linear)}
    expected = {path for group in family.groups for path in group}
    if present.keys() != expected:
        odd = ", ".join(sorted(present.keys() ^ expected))
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"{name} does not hold the linears of its family: {odd}",
            hint="a variant such as a mixture of experts needs its own entry in harness/architectures/blocks.py",
        )
    groups = tuple(
        LinearGroup(tuple(NamedLinear(f"{name}.{path}", present[path]) for path in group)) for group in family.groups
    )
    return Block(index=index, name=name, module=module, groups=groups, family=family)


def linears_of(blocks: Sequence[Block]) -> tuple[NamedLinear, ...]:
    """Every linear of all the blocks, in the order of computation."""
    return tuple(linear for block in blocks for linear in block.linears)
