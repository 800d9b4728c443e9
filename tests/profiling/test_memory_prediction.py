"""What a model will need, what is free, and the refusal before anything is loaded."""

from pathlib import Path

import pytest
import torch

from harness.architectures.shape import read_shape
from harness.contract import Device, Memory, MemoryPrediction, ProfileParameters, ProfileRequest
from harness.errors import OutOfMemory
from harness.profiling import memory, run
from harness.profiling.memory import free_bytes, measured_parts, predict, refuse_if_too_large, tensor_bytes
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model

CPU = torch.device("cpu")
LLAMA_2_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip


def prediction(free: int | None) -> MemoryPrediction:
    return predict(
        read_shape(LLAMA_2_7B),
        weight_bytes=2 * 6_738_415_616,
        value_bytes=2,
        kv_tokens=8 * 256,
        batch_size=8,
        prompt_tokens=128,
        free_bytes=free,
    )


def test_a_llama_2_7b_needs_its_weights_half_a_megabyte_a_token_and_some() -> None:
    needed = prediction(None)
    assert needed.kv_cache_bytes == 8 * 256 * 2 * 32 * 4096 * 2
    assert needed.activation_bytes == 8 * 128 * (4096 * 6 + 3 * 11008 * 2) + 8 * 32000 * 6
    assert needed.needed_bytes == 2 * 6_738_415_616 + needed.kv_cache_bytes + needed.activation_bytes


def test_a_need_beyond_what_is_free_is_refused_in_numbers() -> None:
    with pytest.raises(
        OutOfMemory, match=r"out of memory predicted: needs 14\.6 GB \(weights 13\.5 GB.*, 11\.9 GB free"
    ):
        refuse_if_too_large(prediction(11_900_000_000))


def test_keys_values_and_activations_count_for_a_refusal_to_the_last_byte() -> None:
    needed = prediction(None).needed_bytes
    refuse_if_too_large(prediction(needed))
    with pytest.raises(OutOfMemory, match=r"keys and values 1\.1 GB, activations 0\.1 GB"):
        refuse_if_too_large(prediction(needed - 1))


@pytest.mark.parametrize("free", [None, 20_000_000_000])
def test_what_fits_or_cannot_be_judged_is_not_refused(free: int | None) -> None:
    refuse_if_too_large(prediction(free))


def test_a_profile_that_cannot_fit_is_refused_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = publish_checkpoint(tmp_path / "model", small_model("llama"))
    monkeypatch.setattr(memory, "_available_bytes", lambda: 50_000)
    monkeypatch.setattr("harness.profiling.profile.load_model", lambda *_: pytest.fail("the model was loaded"))
    request = ProfileRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(tmp_path),
        parameters=ProfileParameters(prompt_tokens=8, generate_tokens=4),
    )
    with pytest.raises(OutOfMemory, match=r"0\.0 GB free"):
        run(request, Recorder().reporter)


def test_a_containers_limit_counts_where_it_is_less_than_what_the_host_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_available_bytes", lambda: 5000)
    assert free_bytes(CPU) == 5000
    (tmp_path / "memory.max").write_text("4096\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert free_bytes(CPU) == 4096 - 3000 + 500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == 5000


def test_nothing_is_said_of_what_is_free_where_the_kernel_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    assert free_bytes(CPU) is None


def test_the_parts_of_a_peak_add_up_to_it() -> None:
    peak = Memory(peak_memory_bytes=1000, method="peak-rss")
    parts = measured_parts(peak, CPU, weight_bytes=500, kv_cache_bytes=100, resident_before_bytes=300)
    assert (parts.overhead_bytes, parts.activation_bytes) == (300, 100)


def test_tied_embeddings_lie_in_memory_once() -> None:
    model = small_model("opt")
    stored = {weight.data_ptr(): weight.nbytes for weight in model.parameters()}
    assert tensor_bytes(model) == sum(stored.values()) + sum(buffer.nbytes for buffer in model.buffers())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
