"""The six tracks: what each is made of, the parts that are averaged and the names expected in each.

The split of track 1 is the one that gives the printed OM_knowledge and OM_inference; see `orchestrator.score.paper`.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from functools import lru_cache

from harness.contract import Frozen
from orchestrator.manifest import ScoringEntry
from orchestrator.manifest.excluding import Exclusions


class Track(IntEnum):
    """Numbered as in the paper's section 3; each has one overall metric."""

    PERFORMANCE = 1
    GENERALIZATION = 2
    TRAINING_CONSUMPTION = 3
    INFERENCE_CONSUMPTION = 4
    HARDWARE_ACCELERATION = 5
    TRUSTWORTHINESS = 6

    @property
    def title(self) -> str:
        return _TITLES[self][0]

    @property
    def metric(self) -> str:
        """The name of the track's overall metric, as the paper writes it."""
        return _TITLES[self][1]

    @property
    def noun(self) -> str:
        """What one expected name of the track is, in the plural."""
        return _TITLES[self][2]

    @property
    def is_relative(self) -> bool:
        """True where there is no dense value, so that the greatest value among the methods takes its place."""
        return self is Track.TRAINING_CONSUMPTION

    @property
    def is_of_costs(self) -> bool:
        """True where values are measured in rounds, or counted, and not made of items."""
        return self is Track.HARDWARE_ACCELERATION or self in _COST_PARTS


_TITLES = {
    Track.PERFORMANCE: ("Compression performance", "OM_perf", "data sets"),
    Track.GENERALIZATION: ("Generalization ability", "OM_gen", "data sets"),
    Track.TRAINING_CONSUMPTION: ("Training consumption", "OM_train", "measures"),
    Track.INFERENCE_CONSUMPTION: ("Inference consumption", "OM_inf", "measures"),
    Track.HARDWARE_ACCELERATION: ("Hardware acceleration", "OM_hard", "speeds"),
    Track.TRUSTWORTHINESS: ("Trustworthiness", "OM_trust", "data sets"),
}


class Mode(StrEnum):
    """How OM_gen averages: `paper` counts every model once, as the printed tables do; `strict` first averages within
    each model family, as the text of Eq. 2 says. The other five metrics are the same in both."""

    PAPER = "paper"
    STRICT = "strict"


KNOWLEDGE_TASKS = ("mmlu", "arc_challenge", "arc_easy")
INFERENCE_TASKS = ("hellaswag", "piqa", "winogrande", "qnli", "mnli", "wikitext2")
TRACK_1_TASKS = KNOWLEDGE_TASKS + INFERENCE_TASKS
TRACK_6_TASKS = ("advglue", "truthfulqa")
PERPLEXITY_TASK = "wikitext2"
TRUTHFULNESS_TASK = "truthfulqa"

_TASK_PARTS: dict[Track, dict[str, tuple[str, ...]]] = {
    Track.PERFORMANCE: {"knowledge": KNOWLEDGE_TASKS, "inference": INFERENCE_TASKS},
    Track.GENERALIZATION: {"perplexity": (PERPLEXITY_TASK,)},
    Track.TRUSTWORTHINESS: {"robustness": ("advglue",), "truthfulness": (TRUTHFULNESS_TASK,)},
}
_COST_PARTS: dict[Track, dict[str, tuple[str, ...]]] = {
    Track.TRAINING_CONSUMPTION: {"time": ("compress_seconds",), "memory": ("peak_memory_bytes",)},
    Track.INFERENCE_CONSUMPTION: {"memory": ("peak_memory_bytes",), "size": ("disk_bytes",), "macs": ("macs",)},
}


class Place(Frozen):
    """Where a value stands: a part is averaged first, `name` is the data set or measure within it."""

    track: Track
    part: str
    name: str
    model: str

    def __eq__(self, other: object) -> bool:
        """As pydantic's, in a fraction of its time: each value of a run is found by its place, many times."""
        return self is other or (type(other) is Place and self.__dict__ == other.__dict__)

    def __hash__(self) -> int:
        return hash((self.part, self.name, self.model))

    @property
    def label(self) -> str:
        return place_label(self.track, self.part, self.name)

    def __str__(self) -> str:
        return f"{self.label} of {self.model}"


def place_label(track: Track, part: str, name: str) -> str:
    """What to call a value within its track: in track 5 the batch sizes of all backends have the same names."""
    return f"{part} {name}" if track is Track.HARDWARE_ACCELERATION else name


class Expectation(Frozen):
    """All that a complete score of `track` holds: every name of every part, for every model.

    `families` has the family of each model that is not a family of its own. `choices` says, in a clause each, what was
    chosen to count and does not show in the names. `exclusions` take places away, of some variants or of all.
    """

    track: Track
    models: tuple[str, ...]
    parts: dict[str, tuple[str, ...]]
    families: dict[str, str] = {}
    choices: tuple[str, ...] = ()
    exclusions: Exclusions = Exclusions()

    def places_of(self, method: str | None, setting: str | None) -> tuple[Place, ...]:
        """What a complete score of a variant holds; `method` is None for the dense model."""
        if not self.exclusions.entries:
            return self.places
        return tuple(
            place
            for place in self.places
            if not self.exclusions.leave_out_value(
                place.model, method, setting, self.track.value, place.part, place.name
            )
        )

    @property
    def places(self) -> tuple[Place, ...]:
        """Those of any variant."""
        return _places(self.track, tuple(self.parts.items()), self.models)

    def group(self, place: Place, mode: Mode) -> str:
        """What the place is averaged in first."""
        if self.track is Track.GENERALIZATION and mode is Mode.STRICT:
            return self.families.get(place.model, place.model)
        return place.part


@lru_cache(maxsize=2 * len(Track))
def _places(track: Track, parts: tuple[tuple[str, tuple[str, ...]], ...], models: tuple[str, ...]) -> tuple[Place, ...]:
    return tuple(
        Place(track=track, part=part, name=name, model=model)
        for part, names in parts
        for name in names
        for model in models
    )


def expect(
    track: Track,
    models: Sequence[str],
    *,
    families: Mapping[str, str] | None = None,
    backends: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1,),
    scoring: ScoringEntry | None = None,
    memory: str | None = None,
    exclusions: Exclusions | None = None,
) -> Expectation:
    """The complete content of a track. In track 5 each backend is a part, and each batch size a name (`batch 8`).

    `scoring` chooses between tasks and metrics; without it, the data sets of the paper's tables. `memory` is whose
    figure of memory counts in track 4. `exclusions` say what is not expected.
    """
    if track is Track.HARDWARE_ACCELERATION:
        parts = dict.fromkeys(backends, tuple(f"batch {size}" for size in batch_sizes))
    elif track in _COST_PARTS:
        parts = _COST_PARTS[track]
    else:
        parts = _chosen_parts(track, scoring or ScoringEntry())
    choices: tuple[str, ...] = ()
    if track is Track.TRUSTWORTHINESS and scoring is not None:
        choices = (f"truthfulness is {scoring.truthfulness}",)
    if track is Track.INFERENCE_CONSUMPTION and memory is not None:
        choices = (f"memory is that of each format as {memory} holds it",)
    return Expectation(
        track=track,
        models=tuple(models),
        parts=parts,
        families=dict(families or {}),
        choices=choices,
        exclusions=exclusions or Exclusions(),
    )


def expected_tasks(scoring: ScoringEntry) -> tuple[str, ...]:
    """Every task that complete scores need, each once."""
    tasks = (task for track in _TASK_PARTS for names in _chosen_parts(track, scoring).values() for task in names)
    return tuple(dict.fromkeys(tasks))


def parts_of_task(task: str, scoring: ScoringEntry) -> tuple[tuple[Track, str], ...]:
    """Every track and part that a task's figure enters: by default WikiText-2 enters both track 1 and track 2."""
    return tuple(
        (track, part) for track in _TASK_PARTS for part, names in _chosen_parts(track, scoring).items() if task in names
    )


def _chosen_parts(track: Track, scoring: ScoringEntry) -> dict[str, tuple[str, ...]]:
    chosen = scoring.chosen_tasks
    if track is Track.GENERALIZATION and scoring.generalization is not None:
        chosen[PERPLEXITY_TASK] = scoring.generalization
    return {part: tuple(chosen.get(name, name) for name in names) for part, names in _TASK_PARTS[track].items()}
