"""`orchestrator backends`: the self-test of a backend, its record, and who says what was never run."""

import json
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.checkpoint import open_checkpoint
from harness.contract import (
    BenchmarkRequest,
    BenchmarkResult,
    Device,
    DeviceKind,
    Dtype,
    ErrorCode,
    ErrorEvent,
    ImageDescription,
    Memory,
    Reason,
    Speed,
    WorkRequest,
)
from orchestrator.checks import machine as diagnosis
from orchestrator.checks.backends import Outcome, Verification, read_verification, verify_backend
from orchestrator.checks.backends.verify import Subject
from orchestrator.checks.probe import write_probe
from orchestrator.cli.app import app
from orchestrator.errors import StoreError
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.gpus import Gpu
from orchestrator.images.catalog import ImageCatalog
from tests.support.fake_runtime import FakeRuntime, Misbehaviour
from tests.support.small_runs import IMAGES
from tests.support.stage_workers import MEMORY

CATALOG = ImageCatalog(IMAGES)
CPU = ChosenDevice(Device(threads=1), "test processor", "cpu: asked for")
GPU = Gpu(uuid="GPU-1", name="a card", memory_bytes=2**34, driver="600.1")
TOKENS = tuple(range(24))
WEIGHTS_SHA256 = "c2874f7eafc3be08b4a5c1aff868858c3a32206012c0f6cd3272ab2404d9419a"
"""Of the probe's weights as the first recorded verifications had them."""


Answer = Callable[[BenchmarkRequest], BenchmarkResult | ErrorEvent]


def answer(
    request: BenchmarkRequest,
    *,
    tokens: tuple[int, ...] = TOKENS,
    repeatable: bool | None = True,
    samples: int = 3,
    memory: Memory = MEMORY,
) -> BenchmarkResult:
    speeds = tuple(
        Speed(
            batch_size=size,
            decode_tokens_per_second=20,
            samples=(20,) * samples,
            prefill_tokens_per_second=100,
            greedy_tokens=tokens,
            repeatable=repeatable,
        )
        for size in request.parameters.batch_sizes
    )
    return BenchmarkResult(
        backend=request.parameters.backend,
        protocol="speed/16-24",
        speeds=speeds,
        load_seconds=1,
        memory=memory,
        dtype=Dtype.FLOAT16,
        dtype_reason="test",
    )


def verify(root: Path, ours: Answer, reference: Answer = answer, backend: str = "vllm") -> Verification:
    def handler(request: WorkRequest, output: Path) -> BenchmarkResult | ErrorEvent:
        assert isinstance(request, BenchmarkRequest)
        return (ours if request.parameters.backend == backend else reference)(request)

    return verify_on(FakeRuntime(handler), root, backend)


def verify_on(runtime: FakeRuntime, root: Path, backend: str) -> Verification:
    subject, reference = (Subject(*CATALOG.backends[name]) for name in (backend, "transformers"))
    return verify_backend(subject, reference, CPU, runtime, root, lambda note: None)[0]


def failed(verification: Verification) -> list[str]:
    return [check.name for check in verification.checks if check.outcome is Outcome.FAILED]


def test_a_backend_that_answers_as_the_reference_does_is_verified_and_recorded(tmp_path: Path) -> None:
    done = verify(tmp_path, answer)
    assert done.passed
    assert {check.outcome for check in done.checks} == {Outcome.PASSED}
    assert done.identity == "fake:vllm:cpu"
    assert done.device_model == "test processor"
    assert read_verification(tmp_path, "vllm", DeviceKind.CPU) == done
    assert read_verification(tmp_path, "vllm", DeviceKind.CUDA) is None


def test_tokens_that_part_early_from_the_references_fail(tmp_path: Path) -> None:
    late = verify(tmp_path, lambda request: answer(request, tokens=(*TOKENS[:8], *[99] * 16)))
    early = verify(tmp_path, lambda request: answer(request, tokens=(*TOKENS[:7], *[99] * 17)))
    assert late.passed
    assert failed(early) == ["agrees with transformers"]
    assert early.checks[-1].message == "the first 7 of 24 tokens are alike, 8 must be"


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (lambda request: answer(request, repeatable=False), "greedy decoding repeats itself"),
        (lambda request: answer(request, samples=2), "speed of every repeat"),
        (lambda request: answer(request, memory=Memory(peak_memory_bytes=0, method="none")), "memory"),
    ],
)
def test_each_shortcoming_of_a_result_fails_its_check(ours: Answer, name: str, tmp_path: Path) -> None:
    done = verify(tmp_path, ours)
    assert failed(done) == [name]
    assert "FAILED the check here on test processor" in done.summary
    assert name in done.summary


def test_what_does_not_apply_is_neither_passed_nor_failed(tmp_path: Path) -> None:
    texts = verify(tmp_path, lambda request: answer(request, tokens=()))
    silent = verify(tmp_path, lambda request: answer(request, tokens=(), repeatable=None))
    alone = verify(tmp_path, answer, backend="transformers")
    assert texts.passed and silent.passed and alone.passed
    assert "returns text" in texts.checks[-1].message
    assert [check.outcome for check in silent.checks].count(Outcome.NOT_APPLICABLE) == 2
    assert alone.checks[-1].message == "it is the reference itself"


def test_a_refusal_keeps_its_words_and_a_reference_that_fails_does_not_count_against_the_backend(
    tmp_path: Path,
) -> None:
    def refuse(request: BenchmarkRequest) -> ErrorEvent:
        return ErrorEvent(
            id=request.id, code=ErrorCode.UNSUPPORTED, reason=Reason.DEVICE, message="no such card", hint="buy one"
        )

    assert verify(tmp_path, refuse).checks[0].message == "no such card (buy one)"
    without = verify(tmp_path, answer, reference=refuse)
    assert without.passed
    assert without.checks[-1].outcome is Outcome.NOT_APPLICABLE
    assert without.checks[-1].message == "the reference could not be run: no such card"


def test_a_worker_that_dies_fails_the_check_and_leaves_what_it_said(tmp_path: Path) -> None:
    def die(request: WorkRequest) -> Misbehaviour:
        return Misbehaviour.SILENT

    done = verify_on(FakeRuntime(lambda request, output: answer(request), misbehave=die), tmp_path, "vllm")
    assert failed(done) == ["loads and serves"]
    assert (tmp_path / "verified" / "vllm-cpu" / "vllm" / "stderr.log").is_file()


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    verify(tmp_path, answer)
    (tmp_path / "verified" / "vllm-cpu.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged") as refusal:
        read_verification(tmp_path, "vllm", DeviceKind.CPU)
    assert "backends verify vllm" in refusal.value.hint


def test_the_probe_is_a_published_checkpoint_and_the_same_every_time(tmp_path: Path) -> None:
    write_probe(tmp_path / "one")
    descriptor = open_checkpoint(tmp_path / "one", verify=True)
    assert descriptor.files["model.safetensors"].sha256 == WEIGHTS_SHA256
    assert descriptor.architecture == "LlamaForCausalLM"
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["rope_theta"] == 10000.0  # where libraries made for transformers 4 read it


def test_backends_say_so_themselves_exactly_where_nobody_ran_them() -> None:
    """The note of every result, and what `backends list` prints, come from two places that must agree."""
    modules = {"tensorrt-llm": "harness.backends.tensorrt_llm.serving", "mlc-llm": "harness.backends.mlc_llm.serving"}
    never = {name for name, (_, backend) in CATALOG.backends.items() if not backend.run_by_us}
    assert never == set(modules)
    for name, module in modules.items():
        note = import_module(module).NOT_RUN
        assert note.startswith("not run by us")
        assert f"orchestrator backends verify {name}" in note


def test_the_list_shows_what_we_ran_and_what_was_verified_here(tmp_path: Path) -> None:
    verify(tmp_path, answer)
    plain = CliRunner().invoke(app, ["backends", "list", "--store", str(tmp_path)])
    document = CliRunner().invoke(app, ["backends", "list", "--store", str(tmp_path), "--json"])
    assert plain.exit_code == 0
    assert "verified here on test processor on 20" in plain.stdout
    assert "cuda  not run by us" in plain.stdout
    rows = {row["backend"]: row for row in json.loads(document.stdout)}
    assert rows["tensorrt-llm"]["run_by_us"] == {"cuda": None}
    assert rows["vllm"]["verified_here"][0]["identity"] == "fake:vllm:cpu"


def test_a_backend_for_gpus_alone_is_refused_without_one(tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        app, ["backends", "verify", "trtllm", "--device", "cpu", "--store", str(tmp_path)], catch_exceptions=True
    )
    assert ran.exit_code != 0
    assert "tensorrt-llm runs on cuda" in str(ran.exception)


def test_doctor_tells_a_user_with_a_gpu_how_to_check_each_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> dict[str, diagnosis.Finding]:
        findings = diagnosis.diagnose(tmp_path, IMAGES)
        return {one.subject: one for one in findings if one.subject.startswith("backend ")}

    monkeypatch.setattr(diagnosis, "find_gpus", lambda: ())
    without = said()
    assert "needs an NVIDIA GPU" in without["backend tensorrt-llm"].message
    assert without["backend tensorrt-llm"].hint == ""
    assert "run by us" in without["backend vllm"].message
    monkeypatch.setattr(diagnosis, "find_gpus", lambda: (GPU,))
    with_gpu = said()
    assert "orchestrator backends verify tensorrt-llm --runtime docker" in with_gpu["backend tensorrt-llm"].hint
    assert "not run by us on cuda" in with_gpu["backend mlc-llm"].message
    assert with_gpu["backend native"].hint == ""


def test_descriptions_name_devices_that_the_image_has() -> None:
    for path in IMAGES.glob("*/image.toml"):
        image = ImageDescription.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for backend in image.backends:
            assert set(backend.run_by_us) <= set(image.devices), image.name
