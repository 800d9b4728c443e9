"""What the MLC-LLM adapter asks of the library's commands and engine, and what it refuses: over a stand-in."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from harness.backends import hosting, run
from harness.backends.mlc_llm import loading
from harness.backends.mlc_llm.preparing import Lengths, Prepared, prepare
from harness.backends.mlc_llm.quantization import Conversion, choose_conversion
from harness.backends.mlc_llm.refusals import explain, last_words
from harness.checkpoint import open_checkpoint, read_config, read_tensors
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
    (sizes,) = engine.asked("configured")
    assert sizes["prefill_chunk_size"] == sizes["context_window_size"] == 3 * (13 + 16)
    assert {converted["policy"], compiled["policy"]} == {"OFF"}
    (started,) = engine.asked("AsyncMLCEngine")
    assert (started["max_num_sequence"], started["max_total_sequence_length"]) == (3, 3 * 128 + 3 * 16)
    assert (started["prefix_cache_mode"], started["mode_asked"]) == ("disable", "server")
    assert not Path(started["folder"]).exists()
    assert result.start_up is not None
    assert result.start_up.compile_seconds is not None
    assert result.memory_parts is not None
    assert result.memory_parts.weight_bytes == 2 * open_checkpoint(checkpoint).parameter_count
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
        ("q4f16_1", None, "q4f16_1", Dtype.FLOAT16),
    ],
)
def test_dense_weights_stay_dense_unless_mlcs_own_rounding_is_asked_for(
    asked: str | None, dtype: Dtype | None, name: str, computed_in: Dtype
) -> None:
    chosen = choose_conversion(descriptor(CheckpointFormat.DENSE), dtype, asked)
    assert (chosen.name, chosen.dtype, chosen.source_format) == (name, computed_in, "huggingface-safetensor")
    assert ("MLC's own round-to-nearest" in chosen.note) == (name == "q4f16_1")


@pytest.fixture
def prepared(tmp_path: Path, engine: VendorEngine) -> Callable[..., Prepared]:
    def make(
        checkpoint: Path,
        name: str = "q0f16",
        source_format: str = "huggingface-safetensor",
        device: str = "cpu:0",
        **changed: object,
    ) -> Prepared:
        conversion = Conversion(name, source_format, Dtype.FLOAT16, "", "")
        scratch = tmp_path / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        config = read_config(checkpoint) | {"rope_theta": 10000.0, **changed}
        return prepare(checkpoint, scratch / "model", conversion, config=config, device=device, lengths=Lengths(29, 3))

    return make


def test_a_checkpoint_of_one_file_stays_as_it_is(checkpoint: Path, prepared: Callable[..., Prepared]) -> None:
    """The library writes an index beside weights that have none, and an input of a stage cannot be written to."""
    before = {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    assert "model.safetensors.index.json" not in before
    assert prepared(checkpoint).weight_bytes == 2 * open_checkpoint(checkpoint).parameter_count
    assert {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == before


def test_awq_is_read_from_the_file_that_is_named(
    checkpoint: Path, prepared: Callable[..., Prepared], engine: VendorEngine
) -> None:
    packed = sum(entry.size_bytes for entry in read_tensors(checkpoint).values())
    assert prepared(checkpoint, "q4f16_autoawq", "awq").weight_bytes == packed
    (converted,) = engine.asked("convert_weight")
    assert Path(converted["source"]).name == "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("lengths", "window", "step"),
    [
        (Lengths(context_tokens=272, sequences=1), 272, 272),
        (Lengths(context_tokens=272, sequences=8), 2176, 2176),
        (Lengths(context_tokens=272, sequences=64), 8192, 8192),
        (Lengths(context_tokens=9000, sequences=2), 9000, 8192),
    ],
)
def test_the_window_lets_a_whole_batch_of_prompts_into_one_step(lengths: Lengths, window: int, step: int) -> None:
    assert (lengths.window_tokens, lengths.step_tokens) == (window, step)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_no_family_clips_the_step_that_was_asked_for(
    family: str, tmp_path: Path, prepared: Callable[..., Prepared], engine: VendorEngine
) -> None:
    prepared(publish_checkpoint(tmp_path / family, small_model(family)))
    (sizes,) = engine.asked("configured")
    assert (sizes["prefill_chunk_size"], sizes["context_window_size"]) == (87, 87)


@pytest.mark.parametrize(
    ("device", "behaviour", "words"),
    [
        ("cuda:0", ("gpu",), "attention in FlashInfer's kernels"),
        ("cuda:0", ("gpu", "no-flashinfer"), "attention in TVM's own kernels: FlashInfer's could not be made"),
        ("cpu:0", (), "attention in TVM's own kernels: `mlc_llm compile` did not turn FlashInfer on"),
    ],
)
def test_whose_attention_was_compiled_is_told(
    device: str,
    behaviour: tuple[str, ...],
    words: str,
    checkpoint: Path,
    prepared: Callable[..., Prepared],
    engine: VendorEngine,
) -> None:
    engine.behave(*behaviour)
    assert prepared(checkpoint, device=device).attention.startswith(words)


def test_a_missing_gpu_is_a_refusal_in_argparses_words(checkpoint: Path, prepared: Callable[..., Prepared]) -> None:
    with pytest.raises(Unsupported, match=r"argument --device: invalid detect_device value: 'cuda:0'$") as refusal:
        prepared(checkpoint, device="cuda:0")
    assert refusal.value.reason is Reason.DEVICE


def test_tensors_that_are_not_there_are_a_refusal_that_names_them(
    checkpoint: Path, prepared: Callable[..., Prepared]
) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if name != "model.norm.weight"},
        checkpoint / "model.safetensors",
    )
    with pytest.raises(Unsupported, match=r"do not exist in the weight files: model\.norm\.weight") as refusal:
        prepared(checkpoint)
    assert refusal.value.reason is Reason.FORMAT


def test_heads_that_do_not_divide_the_width_are_a_refusal_by_shape(
    checkpoint: Path, prepared: Callable[..., Prepared]
) -> None:
    with pytest.raises(Unsupported, match=r"assert config\.hidden_size % config\.num_attention_heads == 0") as refusal:
        prepared(checkpoint, num_attention_heads=3)
    assert refusal.value.reason is Reason.SHAPE


def test_another_assertion_is_a_failure_and_no_refusal(checkpoint: Path, prepared: Callable[..., Prepared]) -> None:
    """The library quantizes Mistral in no way that starts from AWQ: the adapter does not ask for it."""
    with pytest.raises(WorkerError, match=r"ended with status 1: KeyError: 'awq'$") as failure:
        prepared(checkpoint, "q4f16_autoawq", "awq", model_type="mistral")
    assert not isinstance(failure.value, Unsupported)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("usage: x\n----- Error -----\nargument --device: no\n", "argument --device: no"),
        ("[INFO] loading\nkilled\n", "killed"),
        ("", "it printed nothing"),
        (
            'Traceback (most recent call last):\n  File "a.py", line 1\n    assert a % b == 0\n           ^^^^^^^^^^\n'
            "AssertionError\n",
            "assert a % b == 0 AssertionError",
        ),
        (
            "ValueError: one\n\nDuring handling of the above exception, another exception occurred:\n\n"
            "tvm.error.InternalError: two\n  of two lines\n",
            "tvm.error.InternalError: two of two lines",
        ),
        (
            "  3%|x\r100%|xx\nOSError: [Errno 30] Read-only file system: 'i'\n",
            "OSError: [Errno 30] Read-only file system: 'i'",
        ),
    ],
)
def test_the_reason_is_taken_from_what_a_command_printed(printed: str, words: str) -> None:
    assert last_words(printed) == words


def test_a_warning_about_unused_tensors_refuses_nothing() -> None:
    text = "WARNING utils.py:30: Unused extern parameters: rotary.inv_freq\nRuntimeError: nvcc failed"
    assert type(explain(RuntimeError(text), doing="compile")) is WorkerError


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
        (descriptor(CheckpointFormat.DENSE), None, Dtype.FLOAT32, Reason.DTYPE),
        (descriptor(CheckpointFormat.GPTQ), None, Dtype.FLOAT32, Reason.FORMAT),
    ],
)
def test_what_mlc_does_not_make_is_refused_with_a_reason(
    made: CheckpointDescriptor, asked: str | None, dtype: Dtype | None, reason: Reason
) -> None:
    with pytest.raises(Unsupported) as refusal:
        choose_conversion(made, dtype, asked)
    assert refusal.value.reason is reason


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_rotation_is_written_where_the_library_reads_it(family: str, tmp_path: Path, engine: VendorEngine) -> None:
    """Qwen's models cannot be read without it, and the others would take 10000."""
    model = small_model(family)
    model.config.rope_parameters = {"rope_theta": 500000.0, "rope_type": "default"}
    perform(publish_checkpoint(tmp_path / family, model), batch_sizes=(1,), repeats=2)
    (seen,) = engine.asked("converted")
    assert seen["rope_theta"] == 500000.0


@pytest.mark.parametrize(
    ("architecture", "config", "refused"),
    [
        ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3"}}, False),
        ("LlamaForCausalLM", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, False),
        ("LlamaForCausalLM", {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}, True),
        ("Qwen2ForCausalLM", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, True),
        ("MistralForCausalLM", {"rope_theta": 1e6, "rope_scaling": {"rope_type": "llama3"}}, True),
        ("Qwen3ForCausalLM", {"rope_theta": 1e6, "rope_scaling": None}, False),
    ],
)
def test_a_scaled_rotation_that_would_silently_be_left_out_is_refused(
    architecture: str, config: dict[str, Any], refused: bool
) -> None:
    if not refused:
        loading.refuse_unread_scaling(architecture, config)
        return
    with pytest.raises(Unsupported, match="does not scale the rotation") as refusal:
        loading.refuse_unread_scaling(architecture, config)
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
