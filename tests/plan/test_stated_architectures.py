"""A manifest states what a model is, so that a plan knows where nothing else tells; what contradicts it is refused."""

from typing import Any

import pytest

from harness.contract import Device, DeviceKind, Reason
from orchestrator.errors import BadManifest
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.stages import Plan
from tests.support.small_runs import Bench

GPU = Device(kind=DeviceKind.CUDA, uuids=("GPU-1",))


def planned(bench: Bench, config: dict[str, Any] | None = None, **model: str) -> Plan:
    entry = {"name": "m", "source": "hub:org/m@" + "0" * 40, **model}
    manifest = Manifest.model_validate(
        {"name": "stated", "models": [entry], "benchmark": {"backends": ["tensorrt-llm", "mlc-llm", "vllm"]}}
    )
    return build_plan(manifest, bench.catalog, GPU, None, None if config is None else lambda *_: config)


@pytest.mark.parametrize("architecture", ["OPTForCausalLM", "GlmForCausalLM"])
def test_a_library_without_a_place_for_it_is_not_planned(bench: Bench, architecture: str) -> None:
    plan = planned(bench, architecture=architecture)
    assert {one.backend for one in plan.not_planned} == {"tensorrt-llm", "mlc-llm"}
    assert {one.reason for one in plan.not_planned} == {Reason.ARCHITECTURE}
    assert all(one.source for one in plan.not_planned)
    assert not any("not known before" in why for why in plan.decisions)
    assert planned(bench).not_planned == ()


def test_what_the_model_is_goes_before_what_is_stated(bench: Bench) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    assert planned(bench, config, architecture="LlamaForCausalLM").not_planned == ()
    with pytest.raises(
        BadManifest, match=r"m is of the architecture LlamaForCausalLM .*, not OPTForCausalLM"
    ) as caught:
        planned(bench, config, architecture="OPTForCausalLM")
    assert caught.value.where == ("models", 0, "architecture")
    assert planned(bench, {"model_type": "chatglm"}, architecture="GlmForCausalLM").not_planned != ()
