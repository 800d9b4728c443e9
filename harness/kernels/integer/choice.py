"""Which launch multiplies packed codes fastest here, and from how many tokens on a dense copy does: measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from harness.kernels.integer.launch import MAX_TOKENS, Launch, candidates, expand, multiply
from harness.kernels.integer.weights import PackedCodes
from harness.kernels.timing import copies_beyond_cache, microseconds_each


@dataclass(frozen=True)
class Choice:
    """The launch for up to `tokens` tokens, None to multiply with a dense copy made for the call."""

    tokens: int
    launch: Launch | None
    microseconds: float | None = None


@dataclass(frozen=True)
class Choices:
    """In rising order of tokens; beyond the last one a dense copy is made. `dense_microseconds` are those of one that
    lies there already, by the number of tokens, where anything was measured."""

    ordered: tuple[Choice, ...]
    dense_microseconds: tuple[tuple[int, float], ...] = ()

    def launch(self, tokens: int) -> Launch | None:
        return next((choice.launch for choice in self.ordered if tokens <= choice.tokens), None)

    def speed_up(self, tokens: int) -> float | None:
        """Over a linear whose dense weight lies in memory; None where not measured."""
        dense = dict(self.dense_microseconds).get(tokens)
        ours = next((choice.microseconds for choice in self.ordered if choice.tokens == tokens), None)
        return None if dense is None or ours is None else dense / ours


def guess(weight: PackedCodes) -> Choices:
    """Without a measurement: the kernels as far as they go."""
    return Choices(tuple(Choice(tokens, candidates(weight, tokens)[0]) for tokens in (1, MAX_TOKENS)))


@torch.inference_mode()
def measure(weight: PackedCodes, dtype: torch.dtype, *, tokens: Sequence[int], seed: int = 0) -> Choices:
    """Time every launch on the weight's CUDA device, over copies that do not fit into its cache together."""
    device = weight.words.device
    copies = [weight, *(_copy(weight) for _ in range(copies_beyond_cache(weight.words.nbytes, device) - 1))]
    scratch = torch.empty(weight.rows * weight.in_features, dtype=dtype, device=device)
    dense = [scratch.normal_().view(weight.rows, -1).clone()]
    dense += [dense[0].clone() for _ in range(copies_beyond_cache(dense[0].nbytes, device) - 1)]
    generator = torch.Generator(device).manual_seed(seed)
    chosen, whole = [], []
    for count in sorted(set(tokens)):
        x = torch.randn(count, weight.in_features, generator=generator, device=device).to(dtype)
        offers: list[tuple[float, Launch | None]] = [
            (microseconds_each([partial(_expanded, one, x, scratch) for one in copies]), None)
        ]
        if count <= MAX_TOKENS:
            for launch in candidates(weight, count):
                calls: list[Callable[[], object]] = [partial(multiply, one, x, launch) for one in copies]
                offers.append((microseconds_each(calls), launch))
        elapsed, best = min(offers, key=lambda offer: offer[0])
        chosen.append(Choice(count, best, elapsed))
        whole.append((count, microseconds_each([partial(linear, x, one) for one in dense])))
    return Choices(tuple(chosen), tuple(whole))


def _copy(weight: PackedCodes) -> PackedCodes:
    return replace(weight, words=weight.words.clone(), scale=weight.scale.clone())


def _expanded(weight: PackedCodes, x: Tensor, scratch: Tensor) -> Tensor:
    return linear(x, expand(weight, scratch))
