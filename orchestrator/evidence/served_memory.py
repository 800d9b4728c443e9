"""Which figure is track 4's memory: that of a checkpoint in its own format, as something serves it, all by one rule.

A library that makes packed weights dense has the memory of a dense model, whatever is stored. So the memory of all
variants is taken from the one of a run's measurements that holds the most of them as they are stored: the profile,
whose model is dense, where nothing is packed, and otherwise a backend. What that one does not serve has no memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.contract import BenchmarkResult, ProfileResult
from orchestrator.evidence.value import Gap, Value, Variant
from orchestrator.tracks import Track

PROFILE = "the profile"
MEMORY_PART = "memory"
_NOT_MEASURED = "it was not measured"


@dataclass(frozen=True)
class MemoryFigure:
    """A memory that was measured, and by what: `the profile`, or a backend's name.

    `unlike` says in a clause why it is not that of the variant's own format; None where it is.
    """

    value: Value
    measured_by: str
    unlike: str | None


@dataclass(frozen=True)
class ServedMemory:
    """The values that count, the gaps where others would stand, and what measured them: None where nothing did."""

    values: tuple[Value, ...]
    gaps: tuple[Gap, ...]
    measured_by: str | None


def unlike_the_format(result: ProfileResult | BenchmarkResult, caveat: str | None) -> str | None:
    """Why this memory is not that of the format; `caveat` is what the plan says of the checkpoint that was served."""
    if result.dequantized or (result.dequantized is None and _says_so(result.notes)):
        return "packed weights are made dense"
    return None if caveat is None else f"another checkpoint is served: {caveat}"


def _says_so(notes: Iterable[str]) -> bool:
    """Results that are older than `dequantized` have it in their notes, in these words."""
    packed = (note for note in notes if "the simulated quantization" not in note)
    return any("of the dequantized model" in note or "quantization brings no speed here" in note for note in packed)


def memory_protocol(result: ProfileResult | BenchmarkResult) -> str:
    """What must be alike for two memories to be compared."""
    if isinstance(result, ProfileResult):
        return result.memory.method
    sizes = ", ".join(str(speed.batch_size) for speed in result.speeds)
    room = "" if result.kv_cache_tokens is None else f", room for {result.kv_cache_tokens} tokens"
    return f"{result.memory.method} of {result.backend}, {result.protocol} at batch {sizes}{room}"


def memories_by(figures: Iterable[MemoryFigure]) -> list[Value]:
    """Each as what it is for whoever deploys it so, made dense or not: the part of its place is what measured it."""
    return [
        one.value.model_copy(update={"place": one.value.place.model_copy(update={"part": one.measured_by})})
        for one in figures
    ]


def choose(figures: Sequence[MemoryFigure]) -> str | None:
    """Of what measured memory, the one that held the most as it is stored; of equals the profile, then the first."""
    names = dict.fromkeys(sorted((figure.measured_by for figure in figures), key=lambda name: name != PROFILE))
    held = {
        name: {_subject(one) for one in figures if one.measured_by == name and one.unlike is None} for name in names
    }
    return max(held, key=lambda name: len(held[name]), default=None)


def _subject(figure: MemoryFigure) -> tuple[Variant, str]:
    return figure.value.variant, figure.value.place.model


def served_memory(figures: Sequence[MemoryFigure], absent: Mapping[tuple[Variant, str, str], str]) -> ServedMemory:
    """`absent` says why something measured no memory, by variant, model and what was to measure it."""
    name = choose(figures)
    if name is None:
        return ServedMemory((), (), None)
    chosen = [figure for figure in figures if figure.measured_by == name]
    unlike = {_subject(one): one.unlike for one in chosen}
    subjects = dict.fromkeys([*map(_subject, figures), *(key[:2] for key in absent)])
    gaps = []
    for variant, model in subjects:
        why = unlike.get((variant, model), absent.get((variant, model, name), _NOT_MEASURED))
        if why is not None:
            reason = f"memory counts as {name} holds it, and there: {why}"
            track = Track.INFERENCE_CONSUMPTION
            gaps.append(Gap(variant=variant, model=model, track=track, part=MEMORY_PART, reason=reason))
    return ServedMemory(tuple(figure.value for figure in chosen if figure.unlike is None), tuple(gaps), name)
