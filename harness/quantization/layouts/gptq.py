"""GPTQ's layout: codes packed along the inputs, and for each input the number of its group.

`qweight` int32 [inputs · bits / 32, rows]; `qzeros` int32 [groups, rows · bits / 32]; `scales` [groups, rows]; `g_idx`
int32 [inputs]. Two conventions for the zeros exist, told apart by `checkpoint_format`: `gptq` stores the zero minus
one, `gptq_v2` the zero itself. The first cannot hold a zero of 0 (readers differ in what they make of it), so it is
written where every zero is in the middle, which any reader knows, and the second where the quantization is asymmetric.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from harness.contract import Quantization
from harness.quantization.bits import WORD_BITS, pack_bits, unpack_bits
from harness.quantization.layouts.refusals import (
    contradiction,
    refuse_bits,
    refuse_quantized_activations,
    refuse_size,
    refuse_uneven_groups,
)
from harness.quantization.layouts.scheme import Scheme, StoredConfig, read_as
from harness.quantization.weight import QuantizedWeight

NAME = "gptq"
SUFFIXES = frozenset({"qweight", "qzeros", "scales", "g_idx"})
OPTIONAL: frozenset[str] = frozenset()
MARKERS = frozenset({"qweight"})
_BITS = (2, 3, 4, 8)


def encode(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """See `harness.quantization.layouts.encode`."""
    bits = weight.bits
    rows, inputs = weight.codes.shape
    refuse_bits(NAME, bits, _BITS)
    for what, size in (("input", inputs), ("output", rows)):
        refuse_size(NAME, what, size, _codes_in_whole_words(bits))
    refuse_uneven_groups(NAME, weight)
    zeros = weight.zero - 1 if weight.symmetric else weight.zero
    group_of = weight.group_of if weight.group_of is not None else _consecutive(weight.scale.shape[1], inputs)
    return {
        "qweight": pack_bits(weight.codes, bits).T.contiguous(),
        "qzeros": pack_bits(zeros.T, bits),
        "scales": weight.scale.to(dtype).T.contiguous(),
        "g_idx": group_of.to(torch.int32),
    }


def decode(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """See `harness.quantization.layouts.decode`."""
    bits = scheme.bits
    packed, scales, group_of = tensors["qweight"], tensors["scales"], tensors["g_idx"]
    (inputs,), (groups, rows) = group_of.shape, scales.shape
    if packed.shape != (inputs * bits // WORD_BITS, rows) or inputs % groups:
        raise contradiction(NAME, f"{bits} bits of {rows} x {inputs} weights in {list(packed.shape)} words")
    zeros = _plus_one(tensors["qzeros"], bits, rows) if scheme.zeros_less_one else tensors["qzeros"]
    ordinary = torch.equal(group_of, _consecutive(groups, inputs).to(group_of.device))
    if not (ordinary or scheme.act_order):
        raise contradiction(NAME, "the inputs are grouped out of their order, but desc_act is false")
    return QuantizedWeight(
        codes=unpack_bits(packed.T, bits, inputs),
        scale=scales.T.contiguous(),
        zero=unpack_bits(zeros, bits, rows).T.contiguous(),
        bits=bits,
        symmetric=bool(scheme.symmetric),
        group_of=None if ordinary else group_of,
    )


def make(quantization: Quantization, ignored: Sequence[str], act_order: bool) -> dict[str, object]:
    """See `harness.quantization.layouts.quantization_config`. Every reader leaves out the head unasked."""
    refuse_bits(NAME, quantization.weight_bits, _BITS)
    refuse_quantized_activations(NAME, quantization)
    return {
        "quant_method": "gptq",
        "bits": quantization.weight_bits,
        "group_size": quantization.group_size or -1,
        "sym": quantization.symmetric,
        "desc_act": act_order,
        "lm_head": False,
        "checkpoint_format": "gptq" if quantization.symmetric else "gptq_v2",
        "pack_dtype": "int32",
        "dynamic": {f"-:{re.escape(name)}$": {} for name in ignored if name != "lm_head"},
    }


class _Config(StoredConfig):
    quant_method: Literal["gptq"]
    bits: int
    group_size: int
    sym: bool
    desc_act: bool = False
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    pack_dtype: Literal["int32"] = "int32"


def read(config: Mapping[str, object]) -> Scheme:
    """See `harness.quantization.layouts.read_scheme`."""
    stored = read_as(_Config, NAME, config)
    return Scheme(
        bits=stored.bits,
        symmetric=stored.sym,
        group_size=max(stored.group_size, 0),
        zeros_less_one=stored.checkpoint_format == "gptq",
        act_order=stored.desc_act,
    )


def _plus_one(zeros: Tensor, bits: int, rows: int) -> Tensor:
    """Packed zeros, each one more than those given.

    Where the bits divide a word, the writers took the ones off whole words, with the borrow from field to field that a
    zero of 0 causes, so that adding whole words restores any zero.
    """
    if WORD_BITS % bits == 0:
        ones = sum(1 << shift for shift in range(0, WORD_BITS, bits))
        return zeros + torch.tensor(ones, dtype=torch.int64).to(torch.int32).to(zeros.device)
    return pack_bits(unpack_bits(zeros, bits, rows) + 1 & 2**bits - 1, bits)


def _codes_in_whole_words(bits: int) -> int:
    """The smallest number of codes that fills whole words."""
    return WORD_BITS if WORD_BITS % bits else WORD_BITS // bits


def _consecutive(groups: int, inputs: int) -> Tensor:
    return (torch.arange(inputs) // (inputs // groups)).to(torch.int32)
