"""What is said of a look at a race, while it goes on, in the run's record and below its answer."""

from collections.abc import Sequence

from orchestrator.decide.answer import RaceLook
from orchestrator.evidence.value import Variant


def look_text(look: RaceLook) -> str:
    scored = ", ".join(f"{count} items of {task}" for task, count in look.items.items())
    if look.likely is None:
        return f"after {scored}: dense alone, to see at which tasks it beats guessing"
    out = [f"{one.variant.label} is set aside, since {one.reason}" for one in look.fell]
    share = f"{share_text(look.likely)} of the full runs that this may come to give the answer of what was seen"
    left = f"left: {labels(look.left) or 'none'}"
    return f"after {scored}: {'; '.join([share, *out, left])}"


def labels(variants: Sequence[Variant]) -> str:
    return ", ".join(one.label for one in variants)


def share_text(share: float) -> str:
    return f"{100 * share:.1f} %"
