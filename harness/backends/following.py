"""The tokens of timed runs against a plain greedy loop: a time counts only where its work was done.

The loop is untimed and takes no step: what was generated is read again as part of a prompt, and each token must be the
one that greedily follows all before it. A difference is allowed where the two tokens lie so near each other that
another order of additions decides between them; how near is kept in the result.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.contract import Dtype, TokenCheck
from harness.errors import Implausible

if TYPE_CHECKING:
    from torch import nn

_EPSILONS = {Dtype.FLOAT32: 2.0**-23, Dtype.FLOAT16: 2.0**-10, Dtype.BFLOAT16: 2.0**-7}
_ROUNDING_STEPS = 64
_LEAST_TIE_NATS = 1e-3
_USUAL_SPREAD_NATS = 3.0
_MOST_SPREADS = 2.0
"""Of tens of thousands of random logits the first stands about four of their standard deviations above the mean."""
_MOST_NOISES = 8.0
"""The difference of two logits has 1.4 times the noise of one, and the first of a near tie is sought among many."""
_WHOLE_BITS = 16


@dataclass(frozen=True)
class Following:
    """The token that greedily follows, and by how many nats it stands above the one that was generated instead.

    None where the library does not tell. Up to `tie_nats` is rounding.
    """

    token: int
    gap_nats: float | None
    tie_nats: float


def tie_nats(dtype: Dtype, activation_bits: int = _WHOLE_BITS, spread_nats: float = _USUAL_SPREAD_NATS) -> float:
    """Up to which difference of log-likelihoods two ways of computing the same may choose different tokens.

    `spread_nats` is the standard deviation of the logits, by which rounding errors scale. Activations that are rounded
    to a few bits jump from code to code: a step of symmetric codes is 2^(1 - bits) of the largest. Never more than a
    part of what the first token usually stands above any other, so that other work than the model's is still found.
    """
    step = 2.0 ** (1 - activation_bits) if activation_bits < _WHOLE_BITS else 0.0
    steps = min(_ROUNDING_STEPS * max(_EPSILONS[dtype], step), _MOST_SPREADS)
    return max(_LEAST_TIE_NATS, steps * spread_nats)


def measured_tie_nats(dtype: Dtype, noise_nats: float, spread_nats: float) -> float:
    """What `tie_nats` estimates, for a model of which it was measured how its logits answer to other rounding.

    `noise_nats` is the root of their mean square change when the input of every block is moved by one step of `dtype`.
    Activations in codes of few bits flip at that, and how far it goes from there depends on the model: with random
    weights it is a large part of the logits' spread.
    """
    usual = tie_nats(dtype, spread_nats=spread_nats)
    return max(usual, min(_MOST_NOISES * noise_nats, _MOST_SPREADS * spread_nats))


@contextmanager
def moved_by_one_step(blocks: Iterable["nn.Module"], dtype: Dtype) -> Iterator[None]:
    """Every block reads hidden states of which each was moved up or down by one step of `dtype`, at random."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def moved(
        _: "nn.Module", arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = arguments[0] if arguments else named["hidden_states"]
        signs = torch.randint(0, 2, hidden.shape, generator=generator).to(hidden.device) * 2 - 1
        other = (hidden.double() * (1 + _EPSILONS[dtype] * signs)).to(hidden.dtype)
        return ((other, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": other})

    hooks = [block.register_forward_pre_hook(moved, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def some_positions(count: int) -> tuple[int, ...]:
    """Where to look in a sequence of generated tokens, for a library that must be asked for each."""
    return tuple(sorted({1, count // 2, count - 1}))


def compare(generated: Sequence[int], following: Mapping[int, Following]) -> TokenCheck | None:
    """Hold tokens against what follows, by their places; None where nothing is known to.

    Raises:
        Implausible: a token is not the greedy one, nor near it; or most of those are not whose nearness is not known.
    """
    differing = {place: one for place, one in following.items() if one.token != generated[place]}
    for place, one in sorted(differing.items()):
        if one.gap_nats is not None and one.gap_nats > one.tie_nats:
            raise Implausible(
                f"token {place} of a timed run is {generated[place]}, and the plain greedy loop gives {one.token},"
                f" which is likelier by {one.gap_nats:.3g} nats; rounding explains {one.tie_nats:.3g}",
                hint="what was timed is not this model's decoding, so its speed means nothing",
            )
    unknown = [place for place, one in differing.items() if one.gap_nats is None]
    if 2 * len(unknown) > len(following):
        raise Implausible(
            f"{len(unknown)} of {len(following)} tokens of a timed run are not those of the plain greedy loop",
            hint="what was timed is not this model's decoding, so its speed means nothing",
        )
    if not following:
        return None
    return TokenCheck(
        compared=len(following),
        differing=len(differing),
        largest_gap_nats=max((one.gap_nats for one in differing.values() if one.gap_nats is not None), default=None),
    )


def joined(checks: Sequence[TokenCheck]) -> TokenCheck:
    """Several sequences' checks as one."""
    gaps = [one.largest_gap_nats for one in checks if one.largest_gap_nats is not None]
    return TokenCheck(
        compared=sum(one.compared for one in checks),
        differing=sum(one.differing for one in checks),
        largest_gap_nats=max(gaps, default=None),
    )
