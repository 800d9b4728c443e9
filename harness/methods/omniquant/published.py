"""What OmniQuant's authors set for which model and bits, in their scripts: used where a request says nothing.

Their scripts are for OPT, LLaMA-1, Llama-2 and Falcon. Every other family here gets Llama-2's values.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from harness.contract import AttentionRounding, Setting

_OPT = "OPTForCausalLM"
_LLAMA_1_CONTEXT = 2048
_LLAMA_1_30B_HIDDEN = 6656
_OPT_66B_HIDDEN = 9216
_NOT_QUANTIZED_BITS = 16
_FULL_PRECISION_BITS = 8


class Family(Enum):
    """A family that the authors have scripts for; the value is how a note names it."""

    OPT = "OPT"
    LLAMA_1 = "LLaMA-1"
    LLAMA_2 = "Llama-2"


@dataclass(frozen=True)
class Published:
    """`let`: whether a transformation is learned. `full_precision`: whether training is in float32."""

    family: Family
    reason: str
    epochs: int
    let: bool
    let_lr: float
    alpha: float
    aug_loss: bool
    full_precision: bool


def published(setting: Setting, architecture: str, config: Any) -> Published:
    """The authors' choices for a setting and a model, which is told by its architecture and its config."""
    family, reason = _family(architecture, config)
    weight_bits, activation_bits = setting.weight_bits or 0, setting.activation_bits or 0
    weight_only = activation_bits >= _NOT_QUANTIZED_BITS
    two_bits = weight_only and weight_bits == 2
    four_bits = weight_bits == activation_bits == 4
    hidden = getattr(config, "hidden_size", 0)
    large_llama_1 = hidden == _LLAMA_1_30B_HIDDEN
    three_bits_of_the_largest_opt = (
        family is Family.OPT
        and hidden == _OPT_66B_HIDDEN
        and weight_only
        and weight_bits == 3
        and not setting.group_size
    )
    return Published(
        family=family,
        reason=reason,
        epochs=40 if two_bits else 20,
        let=not weight_only or family is Family.OPT,
        let_lr=1e-3 if four_bits and family is Family.LLAMA_2 else 5e-3,
        alpha=0.75
        if four_bits and (family is not Family.LLAMA_1 or large_llama_1)
        else 0.3
        if three_bits_of_the_largest_opt
        else 0.5,
        aug_loss=(two_bits and family is not Family.OPT) or (four_bits and family is Family.LLAMA_1),
        full_precision=any(
            _FULL_PRECISION_BITS <= bits < _NOT_QUANTIZED_BITS for bits in (weight_bits, activation_bits)
        ),
    )


def attention_rounding(architecture: str) -> AttentionRounding:
    """Where the authors' layers round queries, keys and values: OPT's before they are split into heads."""
    return AttentionRounding.PROJECTIONS if architecture == _OPT else AttentionRounding.HEADS


def _family(architecture: str, config: Any) -> tuple[Family, str]:
    if architecture == _OPT:
        return Family.OPT, "by its architecture"
    if architecture == "LlamaForCausalLM":
        context = getattr(config, "max_position_embeddings", 0)
        if context <= _LLAMA_1_CONTEXT:
            return Family.LLAMA_1, f"by its context of {context} tokens"
        return Family.LLAMA_2, f"by its context of {context} tokens"
    return Family.LLAMA_2, f"for lack of values for {architecture}"
