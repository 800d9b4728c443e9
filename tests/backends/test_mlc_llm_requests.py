"""What the MLC-LLM adapter asks of the library's commands and engine, and what it refuses: over a stand-in."""

from pathlib import Path
from typing import Any

import pytest

from harness.backends import hosting, run
from harness.backends.mlc_llm import loading
from harness.backends.mlc_llm.quantization import choose_conversion
from harness.backends.refusals import refuse_unread_rotation
from harness.contract import BenchmarkResult, CheckpointDescriptor, CheckpointFormat, Dtype, Quantization, Reason
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
    return run(benchmark_request(checkpoint, backend="mlc-llm", **parameters), Recorder().reporter)


def descriptor(checkpoint_format: CheckpointFormat, quantization: Quantization | None = None) -> CheckpointDescriptor:
    return CheckpointDescriptor(
        files={},
        format=checkpoint_format,
        dtype=Dtype.FLOAT16,
        architecture="LlamaForCausalLM",
        parameter_count=1,
        source="made by a test",
        quantization=quantization,
    )


def test_weights_are_converted_and_a_library_compiled_before_the_engine_starts(
    checkpoint: Path, engine: VendorEngine
) -> None:
    result = perform(checkpoint)
    (converted,), (configured,), (compiled,) = (
        engine.asked(command) for command in ("convert_weight", "gen_config", "compile")
    )
    assert (converted["quantization"], converted["source_format"]) == ("q0f16", "huggingface-safetensor")
    assert (converted["device"], compiled["device"]) == ("cpu:0", "cpu")
    assert (configured["conv_template"], configured["max_batch_size"]) == ("LM", "3")
    assert configured["context_window_size"] == str(13 + 16)
    assert {converted["policy"], compiled["policy"]} == {"OFF"}
    (started,) = engine.asked("AsyncMLCEngine")
    assert (started["max_num_sequence"], started["max_total_sequence_length"]) == (3, 3 * 128 + 3 * 16)
    assert (started["prefix_cache_mode"], started["mode_asked"]) == ("disable", "server")
    assert not Path(started["folder"]).exists()
    assert result.start_up is not None
    assert result.start_up.compile_seconds is not None
    assert result.memory_parts is not None
    assert result.memory_parts.weight_bytes == 1000
    assert len(engine.asked("terminate")) == 1


def test_each_request_of_a_batch_ignores_ends_and_begins_with_the_given_tokens(
    checkpoint: Path, engine: VendorEngine
) -> None:
    result = perform(checkpoint, batch_sizes=(3,))
    calls = engine.asked("create")
    assert {call["max_tokens"] for call in calls} == {1, 5}
    assert {(call["ignore_eos"], call["temperature"]) for call in calls} == {(True, 0.0)}
    assert {len(call["prompt"]) for call in calls} == {8}
    assert len({tuple(call["prompt"]) for call in calls}) == 3
    assert result.speeds[0].repeatable is True
    assert result.speeds[0].greedy_tokens == ()
    assert result.speeds[0].token_check is None
    assert "mlc-llm returns no token numbers" in str(result.speeds[0].token_check_absent)


def test_prompts_that_grow_or_shrink_on_the_way_give_no_speed(checkpoint: Path, engine: VendorEngine) -> None:
    engine.behave("prefixed")
    with pytest.raises(WorkerError, match="read 9 prompt tokens instead of the 8"):
        perform(checkpoint)


@pytest.mark.parametrize(
    ("asked", "dtype", "name", "computed_in"),
    [
        (None, None, "q0f16", Dtype.FLOAT16),
        (None, Dtype.BFLOAT16, "q0bf16", Dtype.BFLOAT16),
        (None, Dtype.FLOAT32, "q0f32", Dtype.FLOAT32),
        ("q4f16_1", None, "q4f16_1", Dtype.FLOAT16),
    ],
)
def test_dense_weights_stay_dense_unless_mlcs_own_rounding_is_asked_for(
    asked: str | None, dtype: Dtype | None, name: str, computed_in: Dtype
) -> None:
    chosen = choose_conversion(descriptor(CheckpointFormat.DENSE), dtype, asked)
    assert (chosen.name, chosen.dtype, chosen.source_format) == (name, computed_in, "huggingface-safetensor")
    assert ("MLC's own round-to-nearest" in chosen.note) == (name == "q4f16_1")


def test_awq_in_groups_of_128_keeps_its_codes() -> None:
    packed = descriptor(CheckpointFormat.AWQ, Quantization(weight_bits=4, activation_bits=16, group_size=128))
    chosen = choose_conversion(packed, None, None)
    assert (chosen.name, chosen.source_format) == ("q4f16_autoawq", "awq")


@pytest.mark.parametrize(
    ("made", "asked", "dtype", "reason"),
    [
        (descriptor(CheckpointFormat.GPTQ), None, None, Reason.FORMAT),
        (descriptor(CheckpointFormat.PACK_QUANTIZED), "q4f16_1", None, Reason.FORMAT),
        (descriptor(CheckpointFormat.DENSE), "q4f16_autoawq", None, Reason.FORMAT),
        (
            descriptor(CheckpointFormat.AWQ, Quantization(weight_bits=4, activation_bits=16, group_size=64)),
            None,
            None,
            Reason.SETTING,
        ),
        (descriptor(CheckpointFormat.DENSE), "q4f16_1", Dtype.BFLOAT16, Reason.DTYPE),
    ],
)
def test_what_mlc_does_not_make_is_refused_with_a_reason(
    made: CheckpointDescriptor, asked: str | None, dtype: Dtype | None, reason: Reason
) -> None:
    with pytest.raises(Unsupported) as refusal:
        choose_conversion(made, dtype, asked)
    assert refusal.value.reason is reason


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
        refuse_unread_rotation("MLC-LLM", config)
        return
    with pytest.raises(Unsupported, match="would silently take rope_theta 10000") as refusal:
        refuse_unread_rotation("MLC-LLM", config)
    assert refusal.value.reason is Reason.FORMAT


def test_refusals_of_the_commands_keep_their_words(tmp_path: Path, checkpoint: Path, engine: VendorEngine) -> None:
    opt = publish_checkpoint(tmp_path / "opt", small_model("opt"))
    with pytest.raises(Unsupported, match="Unknown model type: opt") as refusal:
        perform(opt)
    assert refusal.value.reason is Reason.ARCHITECTURE
    engine.behave("refuse")
    with pytest.raises(Unsupported, match="has shape") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is Reason.SHAPE


def test_too_little_memory_is_said_to_be_that(checkpoint: Path, engine: VendorEngine) -> None:
    engine.behave("memory")
    with pytest.raises(OutOfMemory, match="MLC-LLM found too little memory"):
        perform(checkpoint)


def test_arguments_that_the_library_does_not_have_are_errors_of_the_stand_in(engine: VendorEngine) -> None:
    from mlc_llm.serve.config import EngineConfig

    with pytest.raises(TypeError, match="max_batch_size"):
        EngineConfig(max_batch_size=3)
    with pytest.raises(TypeError, match="prefix_cache_mode"):
        EngineConfig(prefix_cache_mode="off")


def test_a_start_that_hangs_is_given_up(
    checkpoint: Path, engine: VendorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands may take their time; the engine alone gets the short deadline."""
    deadlines = iter([3600.0, 0.2])
    monkeypatch.setattr(
        loading, "start_up_deadline", lambda library: hosting.start_up_deadline(library, next(deadlines))
    )
    engine.behave("hang")
    with pytest.raises(WorkerError, match="MLC-LLM was not ready"):
        perform(checkpoint)


def test_without_the_library_its_image_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unsupported, match="MLC-LLM is not installed") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is Reason.BACKEND
