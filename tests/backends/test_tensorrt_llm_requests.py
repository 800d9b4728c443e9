"""What the TensorRT-LLM adapter asks of the library, and what it refuses: over a stand-in with the real arguments."""

import sys
from pathlib import Path
from typing import Any

import pytest

from harness.backends import hosting, run
from harness.backends.prompts import drawn_prompts
from harness.backends.refusals import refuse_unread_rotation
from harness.backends.tensorrt_llm import loading, refusals
from harness.contract import (
    BenchmarkResult,
    CheckpointDescriptor,
    CheckpointFormat,
    Dtype,
    Quantization,
    Reason,
    Sparsity,
)
from harness.errors import OutOfMemory, Unsupported, WorkerError
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model
from tests.support.vendor_engines import VendorEngine, benchmark_request, install


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return publish_checkpoint(tmp_path / "model", small_model("llama"))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VendorEngine:
    return install(monkeypatch, tmp_path)


def perform(checkpoint: Path, **parameters: Any) -> BenchmarkResult:
    return run(benchmark_request(checkpoint, backend="tensorrt-llm", **parameters), Recorder().reporter)


def test_the_engine_gets_exactly_what_the_protocol_asks(checkpoint: Path, engine: VendorEngine) -> None:
    perform(checkpoint)
    (asked,) = engine.asked("LLM")
    assert (asked["max_batch_size"], asked["max_seq_len"], asked["max_num_tokens"]) == (3, 13, 8192)
    assert asked["skip_tokenizer_init"] is True
    assert asked["kv_cache_config"]["enable_block_reuse"] is False
    assert asked["kv_cache_config"]["max_tokens"] == 3 * 128 + 3 * 64
    assert asked["computed_in"] == "float32"
    assert asked["variables"] == {"TLLM_WORKER_USE_SINGLE_PROCESS": "1", "HF_HUB_OFFLINE": "1"}
    assert len(engine.asked("shutdown")) == 1


@pytest.mark.parametrize(
    ("asked", "computed_in", "reason"),
    [
        (None, "float32", "float32 is the dtype of the checkpoint"),
        (Dtype.BFLOAT16, "bfloat16", "bfloat16 was asked for"),
        (Dtype.FLOAT32, "float32", "float32 was asked for"),
    ],
)
def test_the_dtype_that_a_result_names_is_the_one_that_is_computed_in(
    asked: Dtype | None, computed_in: str, reason: str, checkpoint: Path, engine: VendorEngine
) -> None:
    """The library's own argument for it is not read on PyTorch."""
    result = perform(checkpoint, batch_sizes=(1,), dtype=asked)
    (started,) = engine.asked("LLM")
    assert started["computed_in"] == computed_in == str(result.dtype)
    assert result.dtype_reason == reason


def test_each_run_is_one_short_and_one_long_generation_of_the_reference_backends_prompts(
    checkpoint: Path, engine: VendorEngine
) -> None:
    result = perform(checkpoint, batch_sizes=(3,), seed=11)
    calls = engine.asked("generate")
    checked = calls[-6:]
    assert [len(call["inputs"][0]) for call in checked] == [9, 10, 12] * 2
    assert result.speeds[0].token_check is not None
    assert (result.speeds[0].token_check.compared, result.speeds[0].token_check.differing) == (6, 0)
    assert [call["max_tokens"] for call in calls[:-6]] == [1, 5] * (len(calls[:-6]) // 2)
    assert {(call["min_tokens"], call["ignore_eos"]) for call in calls} == {(None, True)}
    assert {call["end_id"] for call in calls} == {-1}
    assert calls[0]["inputs"] == [list(one) for one in drawn_prompts(264, 3, 8, 11)]
    assert result.speeds[0].repeatable is True
    assert len(result.speeds[0].greedy_tokens) == 5


def test_memory_that_the_library_does_not_tell_has_its_reason(checkpoint: Path, engine: VendorEngine) -> None:
    result = perform(checkpoint)
    assert result.memory.peak_memory_bytes > 0
    assert result.memory_parts is not None
    assert set(result.memory_parts.absent) == {
        "weight_bytes",
        "kv_cache_bytes",
        "activation_bytes",
        "overhead_bytes",
    }
    assert "576 tokens" in result.memory_parts.absent["kv_cache_bytes"]


def test_notes_say_that_it_was_not_run_and_what_was_not_used(tmp_path: Path, engine: VendorEngine) -> None:
    pruned = publish_checkpoint(
        tmp_path / "pruned",
        small_model("llama"),
        sparsity=Sparsity(pattern="2:4", target=0.5, measured=0.5),
        quantization=Quantization(weight_bits=8, activation_bits=8, simulated=True),
    )
    notes = perform(pruned).notes
    assert notes[0].startswith("not run by us")
    assert "TLLM_WORKER_USE_SINGLE_PROCESS=1" in notes[1]
    assert "50.0% zeros (2:4) bring no speed" in notes[3]
    assert "simulated quantization brings no speed" in notes[4]


@pytest.mark.parametrize(
    ("checkpoint_format", "words"),
    [
        (CheckpointFormat.INT_QUANTIZED, "take any 8-bit scheme for FP8"),
        (CheckpointFormat.PACK_QUANTIZED, "does not read compressed-tensors/pack-quantized"),
        (CheckpointFormat.GPTQ, "does not read gptq"),
        (CheckpointFormat.AWQ, "does not read awq"),
    ],
)
def test_layouts_that_it_would_misread_or_not_read_are_refused_first(
    checkpoint_format: CheckpointFormat, words: str
) -> None:
    descriptor = CheckpointDescriptor(
        files={},
        format=checkpoint_format,
        dtype=Dtype.FLOAT16,
        architecture="LlamaForCausalLM",
        parameter_count=1,
        source="made by a test",
    )
    with pytest.raises(Unsupported, match=words) as refusal:
        refusals.refuse_format(descriptor)
    assert refusal.value.reason is Reason.FORMAT


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}, True),
        ({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "llama3"}}, True),
        ({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}, False),
        ({"rope_parameters": {"rope_theta": 500000.0}, "rope_theta": 500000.0}, False),
        ({"hidden_size": 8}, False),
    ],
)
def test_a_rotation_that_would_silently_be_another_is_refused(config: dict[str, Any], refused: bool) -> None:
    if not refused:
        refuse_unread_rotation("TensorRT-LLM", config)
        return
    with pytest.raises(Unsupported, match="would silently take rope_theta 10000") as refusal:
        refuse_unread_rotation("TensorRT-LLM", config)
    assert refusal.value.reason is Reason.FORMAT


def test_a_refusal_below_the_error_that_the_library_raises_is_found(checkpoint: Path, engine: VendorEngine) -> None:
    engine.behave("refuse")
    with pytest.raises(Unsupported, match="Unknown architecture for AutoModelForCausalLM: OPT") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is Reason.ARCHITECTURE


def test_too_little_memory_is_said_to_be_that(checkpoint: Path, engine: VendorEngine) -> None:
    engine.behave("memory")
    with pytest.raises(OutOfMemory, match="TensorRT-LLM found too little memory"):
        perform(checkpoint)


def test_an_argument_that_the_library_does_not_have_is_an_error_of_the_stand_in(engine: VendorEngine) -> None:
    from tensorrt_llm import LLM, SamplingParams

    with pytest.raises(TypeError, match="max_new_tokens"):
        SamplingParams(max_new_tokens=3)
    with pytest.raises(TypeError, match="max_batch_size"):
        LLM(model="x", max_batch_size="3")


def test_a_start_that_hangs_is_given_up(
    checkpoint: Path, engine: VendorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "start_up_deadline", lambda library: hosting.start_up_deadline(library, 0.2))
    engine.behave("hang")
    with pytest.raises(WorkerError, match="TensorRT-LLM was not ready"):
        perform(checkpoint)


def test_without_the_library_its_image_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(Unsupported, match="TensorRT-LLM cannot be imported") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is Reason.BACKEND
