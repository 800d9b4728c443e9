"""What each track is made of: the parts that are averaged, and the names expected in each.

The split of track 1 is the one that gives the printed OM_knowledge and OM_inference; see `orchestrator.paper`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from harness.contract import Frozen
from orchestrator.scoring.track import Track

KNOWLEDGE_TASKS = ("mmlu", "arc_challenge", "arc_easy")
INFERENCE_TASKS = ("hellaswag", "piqa", "winogrande", "qnli", "mnli", "wikitext2")
TRACK_1_TASKS = KNOWLEDGE_TASKS + INFERENCE_TASKS
TRACK_6_TASKS = ("advglue", "truthfulqa")

_FIXED_PARTS: dict[Track, dict[str, tuple[str, ...]]] = {
    Track.PERFORMANCE: {"knowledge": KNOWLEDGE_TASKS, "inference": INFERENCE_TASKS},
    Track.GENERALIZATION: {"perplexity": ("wikitext2",)},
    Track.TRAINING_CONSUMPTION: {"time": ("compress_seconds",), "memory": ("peak_memory_bytes",)},
    Track.INFERENCE_CONSUMPTION: {"memory": ("peak_memory_bytes",), "size": ("disk_bytes",), "macs": ("macs",)},
    Track.TRUSTWORTHINESS: {"robustness": ("advglue",), "truthfulness": ("truthfulqa",)},
}


class Place(NamedTuple):
    """Where one value of a variant belongs."""

    part: str
    name: str
    model: str


def place_label(track: Track, part: str, name: str) -> str:
    """What to call a value within its track: in track 5 the batch sizes of all backends have the same names."""
    return f"{part} {name}" if track is Track.HARDWARE_ACCELERATION else name


class Expectation(Frozen):
    """All that a complete score of `track` holds: every name of every part, for every model."""

    track: Track
    models: tuple[str, ...]
    parts: dict[str, tuple[str, ...]]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(
            Place(part, name, model) for part, names in self.parts.items() for name in names for model in self.models
        )


def expect(
    track: Track, models: Sequence[str], *, backends: Sequence[str] = (), batch_sizes: Sequence[int] = (1,)
) -> Expectation:
    """The complete content of a track. In track 5 each backend is a part, and each batch size a name (`batch 8`)."""
    parts = _FIXED_PARTS.get(track)
    if parts is None:
        names = tuple(f"batch {size}" for size in batch_sizes)
        parts = dict.fromkeys(backends, names)
    return Expectation(track=track, models=tuple(models), parts=parts)
