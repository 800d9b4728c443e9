"""Plans ask the support tables: what no backend can do is listed with reason and source, and never attempted."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.contract import Device, DeviceKind, Dtype, LayerWidths, MethodDescription, Operation, Reason, Setting
from orchestrator.cli.app import app
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.manifest.sources import parse_model
from orchestrator.plan import build_plan
from orchestrator.plan.architectures import known_architectures
from orchestrator.plan.serving import compressed_checkpoint, verdict
from orchestrator.plan.support import Checkpoint, Served
from orchestrator.stages import NotPlanned, Plan

CATALOG = ImageCatalog(Path(__file__).parents[2] / "images")
FETCH = CATALOG.only(Operation.FETCH).description
HUB = {"name": "tiny", "source": "hub:org/tiny@" + "0" * 40}
CPU, CUDA = Device(threads=1), Device(kind=DeviceKind.CUDA)
ONCE = {"benchmark": 1}


def plan_of(method: str, setting: str, *, device: Device = CPU, **options: object) -> Plan:
    """A method's checkpoint and the dense model on both backends that exist."""
    entry = {"method": method, "setting": setting, "options": options, "calibration": {"dataset": "c4"}}
    asked = {"backends": ["transformers", "vllm"]}
    manifest = Manifest.model_validate(
        {"name": "serving", "models": [HUB], "compress": [entry], "benchmark": asked, "rounds": ONCE}
    )
    return build_plan(manifest, CATALOG, device, None)


def plan_in(dtype: Dtype) -> Plan:
    """Packed weights of 4 bits, evaluated and timed by vLLM on a CPU in one dtype."""
    entry = {"method": "gptq", "setting": "W4A16g64", "calibration": {"dataset": "c4"}}
    asked = {
        "evaluate": {"tasks": ["arc_easy"], "engine": "vllm", "dtype": dtype},
        "benchmark": {"backends": ["vllm"], "dtype": dtype},
        "rounds": ONCE,
    }
    manifest = Manifest.model_validate({"name": "in", "models": [HUB], "compress": [entry], **asked})
    return build_plan(manifest, CATALOG, CPU, None)


def chosen(plan: Plan) -> list[str]:
    """What was decided about backends; that the architecture is not known yet is another matter."""
    return [one for one in plan.decisions if not one.startswith("the architecture is not known")]


def refused(plan: Plan) -> list[tuple[str, Reason]]:
    return [(one.backend, one.reason) for one in plan.not_planned]


@pytest.mark.parametrize(
    ("method", "setting", "options", "reason"),
    [
        ("gptq", "W8A16", {}, Reason.FORMAT),
        ("gptq", "W4A16g64", {"layout": "gptq", "symmetric": True, "act_order": True}, Reason.FORMAT),
        ("gptqmodel-gptq", "W8A16g32", {}, Reason.FORMAT),
    ],
)
def test_what_an_engine_cannot_serve_is_not_planned_there(
    method: str, setting: str, options: dict[str, object], reason: Reason
) -> None:
    plan = plan_of(method, setting, **options)
    assert refused(plan) == [("vllm", reason)]
    timed = [stage.id for stage in plan.stages if stage.id.startswith("benchmark/tiny/") and "/dense/" not in stage.id]
    assert [name.rpartition("/")[2] for name in timed] == ["transformers"]
    assert plan.not_planned[0].source


def test_a_dtype_that_the_engine_has_no_kernel_for_is_not_planned() -> None:
    plan = plan_in(Dtype.FLOAT32)
    assert [(one.operation, one.reason) for one in plan.not_planned] == [
        (Operation.EVALUATE, Reason.DTYPE),
        (Operation.BENCHMARK, Reason.DTYPE),
    ]
    assert not plan_in(Dtype.BFLOAT16).not_planned


@pytest.mark.parametrize(
    ("method", "setting", "options", "export"),
    [
        ("gptq", "W4A16", {"layout": "gptq"}, "compressed-tensors/pack-quantized"),
        ("omniquant", "W4A16", {"layout": "gptq"}, "compressed-tensors/pack-quantized"),
        ("llm-pruner", "20%", {"export": "original"}, "dense-padded"),
        ("llm-pruner", "official-flag:25%", {}, "dense-padded"),
    ],
)
def test_what_an_engine_reads_in_another_layout_is_exported_for_it(
    method: str, setting: str, options: dict[str, object], export: str
) -> None:
    plan = plan_of(method, setting, **options)
    assert refused(plan) == []
    label = f"tiny/{method}-{setting}"
    assert plan.stage(f"benchmark/{label}/vllm").needs == (f"export/{label}/{export}",)
    assert plan.stage(f"benchmark/{label}/transformers").needs == (f"compress/{label}",)


@pytest.mark.parametrize(
    ("method", "setting", "options"),
    [
        ("gptq", "W4A16", {}),
        ("gptq", "W4A16", {"layout": "gptq", "symmetric": True}),
        ("gptq", "W4A16", {"layout": "gptq", "symmetric": True, "act_order": True}),
        ("gptq", "W4A16g64", {"layout": "gptq", "symmetric": True, "act_order": True, "static_groups": True}),
        ("omniquant", "W4A16", {"layout": "gptq", "symmetric": True}),
        ("awq", "W4A16g32", {"layout": "awq"}),
        ("smoothquant", "W8A8", {}),
        ("llm-pruner", "20%", {}),
        ("llm-pruner", "official-flag:25%", {"export": "uniform"}),
    ],
)
def test_what_an_engine_serves_is_planned_there(method: str, setting: str, options: dict[str, object]) -> None:
    assert refused(plan_of(method, setting, **options)) == []


def test_the_device_decides_too() -> None:
    assert refused(plan_of("gptq", "W8A16")) == [("vllm", Reason.FORMAT)]
    assert refused(plan_of("gptq", "W8A16", device=CUDA)) == []


@pytest.mark.parametrize(("method", "setting"), [("sparsegpt", "2:4"), ("wanda", "50%"), ("smoothquant", "W4A4")])
def test_compression_that_brings_nothing_where_it_is_served_is_noted(method: str, setting: str) -> None:
    decisions = chosen(plan_of(method, setting))
    assert [decision.partition(" ")[0] for decision in decisions] == ["transformers", "vllm"]
    assert all("dense weights" in decision and f"{method}-{setting}" in decision for decision in decisions)


def test_structured_pruning_leaves_no_zeros_behind() -> None:
    assert chosen(plan_of("llm-pruner", "20%")) == []


def traits_of(name: str, setting: str, **options: bool | str) -> Checkpoint:
    method: MethodDescription = CATALOG.methods[name][1]
    return compressed_checkpoint(Checkpoint.dense(), method, Setting.parse(setting), options)


def test_a_methods_description_says_what_its_options_make_of_the_checkpoint() -> None:
    assert traits_of("omniquant", "W8A8").symmetric is True
    assert traits_of("omniquant", "W4A16g64").symmetric is False
    assert traits_of("gptqmodel-gptq", "W4A16g64", order="activation").activation_order is True
    assert traits_of("llm-pruner", "official-flag:25%").layer_widths is LayerWidths.PER_LAYER
    assert traits_of("sparsegpt", "50%").zeros is True


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"architectures": ["OPTForCausalLM"], "model_type": "opt"}, "OPTForCausalLM"),
        ({"architectures": ["ChatGLMModel"], "model_type": "chatglm"}, "GlmForCausalLM"),
        ({"model_type": "llama"}, None),
        ([], None),
    ],
)
def test_a_local_models_architecture_is_read(tmp_path: Path, config: object, architecture: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert known_architectures(FETCH, None)(parse_model(f"dir:{tmp_path}")) == architecture


def test_a_model_of_the_hub_is_planned_and_left_to_the_worker() -> None:
    assert known_architectures(FETCH, None)(parse_model(HUB["source"])) is None
    assert isinstance(verdict("vllm", CATALOG, CPU, Checkpoint.dense()), Served)


def test_the_plan_command_lists_what_is_not_planned(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    entry = {"method": "gptq", "setting": "W8A16", "calibration": {"dataset": "c4"}}
    document = {"name": "m", "models": [HUB], "compress": [entry], "benchmark": {"backends": ["vllm"]}}
    manifest.write_text(json.dumps({**document, "device": "cpu", "runtime": "process"}))
    shown = CliRunner().invoke(app, ["plan", str(manifest), "--store", str(tmp_path / "store")])
    assert shown.exit_code == 0
    (line,) = [line for line in shown.stderr.splitlines() if line.startswith("not planned: ")]
    assert "benchmark gptq-W8A16 of tiny on vllm" in line
    assert "(format; source: run: " in line


def test_the_support_command_is_complete_in_json_and_narrow_in_text() -> None:
    document = json.loads(CliRunner().invoke(app, ["support", "--json"]).stdout)
    assert {table["backend"] for table in document["backends"]} == set(CATALOG.backends)
    for row in (row for table in document["backends"] for row in table["rows"]):
        assert row["devices"]
        assert row["source"]
        assert (row["answer"] == "no") == (row["reason"] is not None)
    text = CliRunner().invoke(app, ["support"]).stdout
    assert max(map(len, text.splitlines())) <= 80


def test_the_support_command_narrows_by_backend_format_and_device() -> None:
    arguments = ["support", "--backend", "vllm", "--format", "gptq", "--device", "cuda", "--json"]
    (table,) = json.loads(CliRunner().invoke(app, arguments).stdout)["backends"]
    assert table["versions"].keys() == {"cuda"}
    assert all("cuda" in row["devices"] and (not row["formats"] or "gptq" in row["formats"]) for row in table["rows"])
    assert any(row["answer"] == "yes" for row in table["rows"])


@pytest.mark.parametrize("arguments", [["--format", "gtpq"], ["--device", "tpu"], ["--backend", "vlm"]])
def test_the_support_command_knows_its_words(arguments: list[str]) -> None:
    failure = CliRunner().invoke(app, ["support", *arguments]).exception
    assert failure is not None
    assert getattr(failure, "hint", "")


def test_older_records_without_a_source_are_read() -> None:
    document = {"subject": {"model": "m", "family": "m"}, "backend": "vllm", "reason": "format", "message": "no"}
    assert NotPlanned.model_validate(document).source == ""
