"""What the pruning methods are asked for: a ratio of zeros, or n zeros in every m consecutive columns."""

from collections.abc import Sequence

from harness.architectures.blocks import Block
from harness.contract import Reason, Setting
from harness.errors import Unsupported
from harness.methods.base import refuse_indivisible

Target = float | tuple[int, int]
"""A ratio of zeros, over the set of weights that the method compares, or (n, m)."""


def target_of(setting: Setting, method: str) -> Target:
    """Read a setting. Raises Unsupported where it is no ratio and no pattern."""
    target = setting.zeros_of or setting.ratio
    if target is None:
        raise Unsupported(
            Reason.SETTING,
            f"{method} prunes, so it has no setting {setting.name!r}",
            hint="use a ratio such as '50%', or a pattern such as '2:4'",
        )
    return target


def sparsity_of(target: Target) -> tuple[str, float]:
    """The pattern's name and the ratio of zeros, as a descriptor states them."""
    if isinstance(target, float):
        return "unstructured", target
    zeros, length = target
    return f"{zeros}:{length}", zeros / length


def refuse_broken_patterns(blocks: Sequence[Block], target: Target) -> None:
    """Raise Unsupported where a pattern does not divide some input size."""
    if not isinstance(target, float):
        refuse_indivisible(blocks, target[1], sparsity_of(target)[0])
