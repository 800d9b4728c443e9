"""The installed llama.cpp itself on the zoo's trained models: what it computes, what it refuses, what it times.

Runs in the environment of `images/llama-cpp/locks/cpu.txt`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.backends import run
from harness.backends.llama_cpp import library
from harness.backends.llama_cpp.gguf_file import Kind, write_gguf
from harness.backends.llama_cpp.session import Log, Session, open_session
from harness.contract import BenchmarkParameters, BenchmarkRequest, BenchmarkResult, Device, Dtype, Reason
from harness.errors import BadRequest, Unsupported, WorkerError
from harness.models.loading import load_model
from harness.quantization.ggml import shared_object
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_gemma3, small_model
from tests.support.zoo import zoo_checkpoint

pytest.importorskip("xllamacpp", reason="llama.cpp is installed in the environment of the image `llama-cpp` alone")

DEVICE = Device(threads=1)
PROMPTS = torch.randint(1024, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def opened() -> Any:
    return library.open_library()


@pytest.fixture(scope="module")
def log(opened: Any) -> Log:
    return Log(opened)


@pytest.fixture
def session(opened: Any, log: Log, tmp_path: Path) -> Iterator[Session]:
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", Kind.F32, context_tokens=64)
    with open_session(
        opened, log, tmp_path / "model.gguf", Dtype.FLOAT32, threads=1, sequences=3, kv_tokens=768
    ) as ready:
        yield ready


def reference(checkpoint: Path) -> torch.Tensor:
    model: Any = load_model(checkpoint, DEVICE, Dtype.FLOAT32).model
    with torch.inference_mode():
        scores: torch.Tensor = torch.log_softmax(model(PROMPTS).logits, dim=-1)
    return scores


def token_by_token(session: Session) -> torch.Tensor:
    rows = [session.logits(PROMPTS[:, at : at + 1].tolist(), begin=at) for at in range(PROMPTS.shape[1])]
    return torch.log_softmax(torch.stack([torch.from_numpy(one) for one in rows], dim=1), dim=-1)


def perform(checkpoint: Path, **parameters: Any) -> BenchmarkResult:
    short = {"prompt_tokens": 16, "generate_tokens": 8, "batch_sizes": (1, 3), "warmup": 1, "repeats": 2}
    request = BenchmarkRequest(
        id="test",
        device=DEVICE,
        inputs={"checkpoint": str(checkpoint)},
        output=str(checkpoint.parent),
        parameters=BenchmarkParameters(**{"backend": "llama-cpp", **short, **parameters}),
    )
    return run(request, Recorder().reporter)


@pytest.mark.parametrize("name", ["llama-mha", "llama-gqa", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("kind", "dtype", "error"),
    [
        (Kind.F32, Dtype.FLOAT32, 1e-5),
        (Kind.F16, Dtype.FLOAT16, 5e-3),
        (Kind.BF16, Dtype.BFLOAT16, 3e-2),
        (Kind.Q8_0, Dtype.FLOAT16, 0.1),
    ],
)
def test_likelihoods_are_the_references_to_the_precision_of_the_file(
    name: str, kind: Kind, dtype: Dtype, error: float, opened: Any, log: Log, tmp_path: Path
) -> None:
    zoo_checkpoint(name, tmp_path / name)
    file = tmp_path / "model.gguf"
    write_gguf(tmp_path / name, file, kind, context_tokens=64)
    with open_session(opened, log, file, dtype, threads=1, sequences=3, kv_tokens=768) as session:
        difference = (token_by_token(session) - reference(tmp_path / name)).abs().mean()
    assert difference < error


@pytest.mark.parametrize(
    "kinds",
    [
        ["sliding_attention", "full_attention"] * 2,
        ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        ["sliding_attention"] * 4,
        ["full_attention"] * 4,
    ],
    ids=["every second", "every third", "all slide", "none slides"],
)
def test_a_gemma_3_has_the_references_likelihoods_whichever_layers_slide(
    kinds: list[str], opened: Any, log: Log, tmp_path: Path
) -> None:
    """llama.cpp reads its GELU off a table of float16."""
    model: Any = small_gemma3(layer_types=kinds)
    checkpoint, file = publish_checkpoint(tmp_path / "model", model), tmp_path / "model.gguf"
    write_gguf(checkpoint, file, Kind.F32, context_tokens=64)
    prompts = PROMPTS % 264
    with open_session(opened, log, file, Dtype.FLOAT32, threads=1, sequences=3, kv_tokens=768) as session:
        rows = [session.logits(prompts[:, at : at + 1].tolist(), begin=at) for at in range(prompts.shape[1])]
    found = torch.log_softmax(torch.stack([torch.from_numpy(one) for one in rows], dim=1), dim=-1)
    assert (found - torch.log_softmax(model(prompts).logits, dim=-1)).abs().mean() < 1e-3


def test_scaled_rotary_embeddings_are_the_references(opened: Any, log: Log, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    rotary = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        rope_parameters=rotary,
    )
    torch.manual_seed(0)
    publish_checkpoint(tmp_path / "model", AutoModelForCausalLM.from_config(config))
    file = tmp_path / "model.gguf"
    write_gguf(tmp_path / "model", file, Kind.F32, context_tokens=64)
    with open_session(opened, log, file, Dtype.FLOAT32, threads=1, sequences=3, kv_tokens=768) as session:
        assert torch.allclose(token_by_token(session), reference(tmp_path / "model"), atol=1e-3)


def test_a_prompt_at_once_and_a_batch_of_prompts_generate_what_each_does_alone(session: Session) -> None:
    together = session.generate(PROMPTS.tolist(), 12)
    alone = [session.generate([prompt], 12).tokens[0] for prompt in PROMPTS.tolist()]
    assert together.tokens == tuple(alone)
    assert [len(one) for one in together.tokens] == [12] * 3
    assert len(together.step_seconds) == 11
    expected = token_by_token_after(session, PROMPTS[:1], together.tokens[0])
    assert expected == list(together.tokens[0])


def token_by_token_after(session: Session, prompt: torch.Tensor, chosen: tuple[int, ...]) -> list[int]:
    """What is the likeliest token after the prompt, and after each of `chosen` but the last."""
    session.clear()
    tokens = [*prompt[0].tolist(), *chosen[:-1]]
    best = [int(session.logits([[token]], begin=at).argmax()) for at, token in enumerate(tokens)]
    return best[prompt.shape[1] - 1 :]


def test_a_request_is_answered_with_figures_of_each_batch(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    result = perform(tmp_path / "model")
    assert [(one.batch_size, len(one.samples)) for one in result.speeds] == [(1, 2), (3, 2)]
    assert result.dtype is Dtype.BFLOAT16
    assert all(one.token_latency is not None and one.token_latency.steps == 2 * 7 for one in result.speeds)
    assert all(len(one.greedy_tokens) == 8 and one.repeatable for one in result.speeds)
    in_float32 = [
        perform(tmp_path / "model", backend=name, dtype=Dtype.FLOAT32) for name in ("llama-cpp", "transformers")
    ]
    assert in_float32[0].speeds[0].greedy_tokens == in_float32[1].speeds[0].greedy_tokens
    parts = result.memory_parts
    assert parts is not None
    assert parts.kv_cache_bytes == 3 * 256 * 4 * 2 * 2 * 32 * 2  # 256 positions for each; 4 layers, 2 heads of 32
    assert any("AVX2" in note for note in result.notes)


def test_rounded_weights_are_smaller_and_labelled(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    sizes = {}
    for weights in ("dense", "q8_0", "q4_0"):
        result = perform(tmp_path / "model", options={"weights": weights}, batch_sizes=(1,))
        assert result.memory_parts is not None
        sizes[weights] = result.memory_parts.weight_bytes or 0
        assert any("rounded to llama.cpp's" in note for note in result.notes) is (weights != "dense")
    assert sizes["q4_0"] < sizes["q8_0"] < sizes["dense"]


def test_another_architecture_an_unknown_option_and_too_large_a_batch_are_refused(tmp_path: Path) -> None:
    publish_checkpoint(tmp_path / "opt", small_model("opt"))
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    with pytest.raises(Unsupported) as refused:
        perform(tmp_path / "opt")
    assert refused.value.reason is Reason.ARCHITECTURE
    with pytest.raises(BadRequest, match="no option 'threads'"):
        perform(tmp_path / "model", options={"threads": 1})
    with pytest.raises(Unsupported) as large:
        perform(tmp_path / "model", batch_sizes=(257,))
    assert large.value.reason is Reason.SHAPE


def test_a_broken_file_is_a_failure_with_what_llama_cpp_said(opened: Any, log: Log, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not further")
    with (
        pytest.raises(WorkerError, match="loading the model"),
        open_session(opened, log, tmp_path / "model.gguf", Dtype.FLOAT32, threads=1, sequences=1, kv_tokens=256),
    ):
        pass


def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_object, "VERSION", "1.0")
    with pytest.raises(Unsupported) as refused:
        library.open_library()
    assert refused.value.reason is Reason.BACKEND


def test_structures_that_are_laid_out_differently_are_refused(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "F16", 2)
    with pytest.raises(Unsupported, match="type_k"):
        library.open_library()
