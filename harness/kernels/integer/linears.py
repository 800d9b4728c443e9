"""Linears over integer codes: of the weights alone, or of weights and activations."""

from typing import Any

import torch
from torch import Tensor, nn

from harness.kernels.integer.weights import PackedCodes
from harness.kernels.operator import OpaqueLinear
from harness.kernels.scratch import Scratch
from harness.quantization.weight import QuantizedWeight

_FEWEST_TOKENS = 32
"""cuBLAS multiplies 8-bit integers of more than 16 tokens only."""
_LARGEST_CODE = 127


class CodesLinear(OpaqueLinear):
    """y = x Wᵀ + b with packed codes for W: by a kernel, or made dense for the call, as `choices` says.

    The product alone is opaque to torch.compile, and the bias is not.
    """

    def __init__(self, weight: PackedCodes, bias: Tensor | None, scratch: Scratch) -> None:
        super().__init__(weight.in_features, weight.rows)
        self.choices: Any = None
        self.scratch = scratch
        self._bits = weight.bits
        self.register_buffer("words", weight.words)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero", weight.zero)
        self.register_buffer("bias", bias)
        scratch.reserve(weight.rows * weight.in_features)

    @property
    def weight(self) -> PackedCodes:
        return PackedCodes(self.words, self.scale, self.zero, self._bits)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features], in x's dtype."""
        y = super().forward(x)
        return y if self.bias is None else y + self.bias  # type: ignore[operator]

    def multiply(self, x: Tensor) -> Tensor:
        """The product without the bias."""
        from harness.kernels.integer.choice import guess
        from harness.kernels.integer.launch import expand, multiply

        weight = self.weight
        if self.choices is None:
            self.choices = guess(weight)
        flat = x.reshape(-1, self.in_features)
        launch = self.choices.launch(flat.shape[0])
        if launch is None:
            y = nn.functional.linear(flat, expand(weight, self.scratch.like(x)))
        else:
            y = multiply(weight, flat, launch)
        return y.view(*x.shape[:-1], self.out_features)


class Int8Linear(nn.Module):
    """y = x Wᵀ + b in 8-bit integers: a scale for each row of W, and one for each token of x, found as it occurs.

    The codes of x are those of `harness.quantization.activations.fake_quantize_tokens`, symmetric; sums are exact.
    """

    product_dtype = torch.int8
    """What its product is computed in, where that is not the model's dtype."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.codes.shape
        codes = (weight.codes.to(torch.int16) - weight.zero.to(torch.int16)).to(torch.int8)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", weight.scale.to(torch.float32).view(1, -1))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features], in x's dtype."""
        flat = x.reshape(-1, self.in_features)
        tokens = flat.shape[0]
        values = flat.to(torch.float32)
        scale = values.abs().amax(-1, keepdim=True) / _LARGEST_CODE
        scale = torch.where(scale == 0, 1, scale)
        codes = (values / scale).round().clamp(-_LARGEST_CODE - 1, _LARGEST_CODE).to(torch.int8)
        if tokens < _FEWEST_TOKENS:
            codes = nn.functional.pad(codes, (0, 0, 0, _FEWEST_TOKENS - tokens))
        multiply: Any = torch._int_mm
        sums: Tensor = multiply(codes, self.codes.t())[:tokens]  # type: ignore[operator]
        y = (sums.to(torch.float32) * scale * self.scale).to(x.dtype)  # type: ignore[operator]
        y = y if self.bias is None else y + self.bias  # type: ignore[operator]
        return y.view(*x.shape[:-1], self.out_features)
