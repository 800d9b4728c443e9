"""A run as large as the paper's: 18 models, dense, seven methods at two settings each, all tasks, three libraries.

Its figures are invented, by a generator with a seed; so are some gaps, since a large run always has some.
"""

import random

from orchestrator.evidence.value import DENSE, Gap, Interval, Variant
from orchestrator.report import ModelEntry, RunReport, StageEntry, VariantEntry
from orchestrator.score.differing import MOST_OF_RUN, DifferingItem, OtherPick, TaskDifferences
from orchestrator.score.questions import MOST_CHARACTERS, MOST_OF_A_CHOICE
from orchestrator.store import StageStatus
from orchestrator.tracks import Track, expect
from tests.report.small_reports import make_report, observe, scoring_of

MODELS = tuple(f"model-{number:02d}" for number in range(18))
SETTINGS = {
    "llm-pruner": ("20%", "50%"),
    "wanda": ("50%", "2:4"),
    "sparsegpt": ("50%", "2:4"),
    "gptq": ("W8A16", "W4A16g64"),
    "awq": ("W8A16", "W4A16g64"),
    "smoothquant": ("W8A8", "W4A4"),
    "omniquant": ("W8A8", "W4A4"),
}
VARIANTS = tuple(Variant(method=method, setting=setting) for method, both in SETTINGS.items() for setting in both)
LIBRARIES = ("vllm", "tensorrt-llm", "mlc-llm")
_FAILED = (MODELS[3], VARIANTS[4])


def make_large_report() -> RunReport:
    generator = random.Random(7)
    expectations = [expect(track, MODELS, backends=LIBRARIES) for track in Track]
    values = [
        _value(generator, place, variant, model_number)
        for expectation in expectations
        for place in expectation.places
        for variant in (DENSE, *VARIANTS)
        for model_number in [MODELS.index(place.model)]
        if variant.is_scored_in(place.track) and (place.model, variant) != _FAILED
    ]
    gaps = [Gap(variant=_FAILED[1], model=_FAILED[0], reason="compress failed: the device's memory ran out")]
    scoring = scoring_of(values, expectations, gaps=gaps, variants=[DENSE, *VARIANTS])
    stages = tuple(
        StageEntry(
            name=f"evaluate/{model}/{variant.label.replace(' ', '-')}/{number}",
            operation="evaluate",
            status=StageStatus.DONE,
            key=f"{number:02d}" * 32,
            wall_seconds=60.0 + number,
        )
        for model in MODELS
        for variant in VARIANTS
        for number in range(7)
    )
    return make_report().model_copy(
        update={
            "models": tuple(ModelEntry(name=name, source=f"hub:org/{name}@{'0' * 40}") for name in MODELS),
            "variants": tuple(VariantEntry(variant=variant, image=variant.method) for variant in VARIANTS),
            "backends": LIBRARIES,
            "scoring": scoring,
            "stages": stages,
            "differing": tuple(_differing(number, model, task) for number, (model, task) in enumerate(_PICKED)),
        }
    )


_PICKED = tuple((model, f"task-{number}") for model in MODELS for number in range(10))


def _differing(number, model, task):
    """As many items as a report may have, with the longest texts: one of each of the first tasks."""
    items = range(1 if number < MOST_OF_RUN else 0)
    halves = (VARIANTS[::2], VARIANTS[1::2])
    shown = tuple(
        DifferingItem(
            item=item,
            group=None,
            document="0" * 16,
            right=0,
            dense=1,
            others=tuple(OtherPick(choice=2 + place, variants=half) for place, half in enumerate(halves)),
            question=("It's a question. " * MOST_CHARACTERS)[:MOST_CHARACTERS],
            choices=(("a choice, " * MOST_OF_A_CHOICE)[:MOST_OF_A_CHOICE],) * 4,
        )
        for item in items
    )
    facts = {"dataset": task, "origin": "hub:org/data", "licence": "CC BY-SA 4.0"}
    return TaskDifferences(
        model=model, task=task, engine="transformers", variants=14, items=14042, differing=9000, shown=shown, **facts
    )


def _value(generator, place, variant, model_number):
    size = 1 + model_number
    worse = 0 if variant.is_dense else generator.random() * 0.3
    if place.track is Track.HARDWARE_ACCELERATION:
        figure, unit, higher = 900 / size * (1 + worse), "tokens/s", True
    elif place.track.is_of_costs:
        figure = (1 - worse) * size * {"compress_seconds": 300, "macs": 8e11}.get(place.name, 2**30)
        unit = {"compress_seconds": "seconds", "macs": "macs"}.get(place.name, "bytes")
        higher = False
    elif place.name.startswith("wikitext2"):
        figure, unit, higher = 6 + 20 * worse, "perplexity", False
    else:
        figure, unit, higher = 0.7 - worse / 2, "fraction", True
    value = observe(
        place.track, place.part, place.name, variant, figure, place.model, higher_is_better=higher, unit=unit
    )
    return value.model_copy(update={"interval": Interval(low=figure * 0.98, high=figure * 1.02)})
