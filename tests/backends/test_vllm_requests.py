"""What the vLLM adapter asks of the engine, counts, and refuses: against a stand-in with vLLM's own argument names."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.backends import hosting, run
from harness.backends.vllm import loading, refusals
from harness.backends.vllm.scoring import open_scorer
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    BenchmarkResult,
    Device,
    Dtype,
    Quantization,
    Reason,
    Sparsity,
)
from harness.errors import OutOfMemory, Unsupported, WorkerError
from harness.evaluation.deployed import Likeliest
from harness.evaluation.prepared import TokenRequest
from tests.support.fake_vllm import FakeVllm
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model
from tests.support.stored_zoo import with_a_narrow_layer
from tests.support.zoo import zoo_checkpoint

SHORT = {"prompt_tokens": 8, "generate_tokens": 5, "batch_sizes": (1, 3), "warmup": 1, "repeats": 2}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return publish_checkpoint(tmp_path / "model", small_model("llama"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    return FakeVllm().install(monkeypatch)


def perform(checkpoint: Path, **parameters: Any) -> BenchmarkResult:
    request = BenchmarkRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(checkpoint.parent),
        parameters=BenchmarkParameters(**{"backend": "vllm", **SHORT, **parameters}),
    )
    return run(request, Recorder().reporter)


def raising(failure: BaseException) -> Any:
    def fail() -> None:
        raise failure

    return fail


def test_each_run_is_one_short_and_one_long_generation_of_the_same_prompts(checkpoint: Path, fake: FakeVllm) -> None:
    result = perform(checkpoint)
    timed, checks = fake.calls[:-9], fake.calls[-9:]
    assert [call[1].max_tokens for call in timed] == [1, 5] * (len(timed) // 2)
    for short, long in zip(timed[::2], timed[1::2], strict=True):
        assert short[0] == long[0]
        assert long[1].ignore_eos
        assert long[1].temperature == 0.0
    assert {len(prompts) for prompts, _ in timed} == {1, 3}
    assert {len(prompt) for prompts, _ in timed for prompt in prompts} == {8}
    assert [(len(prompts[0]), sampling.max_tokens) for prompts, sampling in checks] == [(9, 1), (10, 1), (12, 1)] * 3
    assert [speed.token_check and speed.token_check.compared for speed in result.speeds] == [3, 6]
    assert [(speed.batch_size, len(speed.samples)) for speed in result.speeds] == [(1, 2), (3, 2)]


def test_prompts_are_those_of_the_reference_backend(checkpoint: Path, fake: FakeVllm) -> None:
    from harness.models.decoding import random_prompts
    from harness.models.loading import load_model

    perform(checkpoint, batch_sizes=(3,), seed=11)
    loaded = load_model(checkpoint, Device(threads=1))
    assert fake.calls[0][0] == random_prompts(loaded, batch_size=3, tokens=8, seed=11).tolist()


def test_the_cache_holds_exactly_the_largest_batch_and_nothing_is_reused(checkpoint: Path, fake: FakeVllm) -> None:
    """Two layers of two key-value heads of eight values; a sequence of 13 tokens takes one block of 128."""
    perform(checkpoint)
    (arguments,) = fake.arguments
    assert arguments.kv_cache_memory_bytes == (3 + 1) * 128 * (2 * 2 * 2 * 8 * 4)
    assert (arguments.max_model_len, arguments.max_num_seqs) == (13, 3)
    assert arguments.enable_prefix_caching is False
    assert (arguments.dtype, arguments.enforce_eager, arguments.skip_tokenizer_init) == ("float32", True, True)
    assert fake.stopped == 1


def test_a_dtype_is_the_checkpoints_unless_one_is_asked_for(checkpoint: Path, fake: FakeVllm) -> None:
    assert perform(checkpoint).dtype_reason == "float32 is the checkpoint's own dtype"
    assert perform(checkpoint, dtype=Dtype.BFLOAT16).dtype_reason == "bfloat16 was asked for"
    assert [one.dtype for one in fake.arguments] == ["float32", "bfloat16"]


def test_a_backend_that_stops_early_gets_no_speed(checkpoint: Path, fake: FakeVllm) -> None:
    fake.tokens_short = 1
    with pytest.raises(WorkerError, match=r"generated \(4,\) tokens, not 5"):
        perform(checkpoint)


def test_tokens_from_a_cache_are_no_speed(checkpoint: Path, fake: FakeVllm) -> None:
    fake.cached_tokens = 7
    with pytest.raises(WorkerError, match="took 7 prompt tokens from its cache"):
        perform(checkpoint)


def test_a_long_run_that_takes_no_longer_than_a_short_one_is_no_speed(
    checkpoint: Path, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.instant = True
    readings = iter([0.0, 10.0, 10.0, 12.0, 12.0, 14.0, 14.0, 16.0])
    monkeypatch.setattr("harness.backends.differences.time.perf_counter", lambda: next(readings))
    with pytest.raises(WorkerError, match="their difference is no time"):
        perform(checkpoint)


def test_what_the_engine_makes_no_use_of_is_noted(tmp_path: Path, fake: FakeVllm) -> None:
    pruned = publish_checkpoint(
        tmp_path / "pruned",
        small_model("llama"),
        sparsity=Sparsity(pattern="2:4", target=0.5, measured=0.5),
        quantization=Quantization(weight_bits=8, activation_bits=8, simulated=True),
    )
    notes = perform(pruned).notes
    assert notes[0] == "run eagerly, one operation after the other"
    assert notes[1].startswith("key-value cache of 512 tokens")
    assert "50.0% zeros (2:4) bring no speed" in notes[2]
    assert "simulated quantization brings no speed" in notes[3]


def test_layers_of_different_widths_are_refused_before_the_engine_starts(tmp_path: Path, fake: FakeVllm) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "dense")
    uneven = with_a_narrow_layer(tmp_path / "dense", tmp_path / "uneven")
    with pytest.raises(Unsupported, match="differ in width") as refusal:
        perform(uneven)
    assert refusal.value.reason is Reason.SHAPE


def test_a_sliding_window_gets_a_block_more_for_each_sequence(tmp_path: Path, fake: FakeVllm) -> None:
    """The zoo's Mistral has a window; the largest batch has three sequences of one block each, and one is spare."""
    zoo_checkpoint("mistral", tmp_path / "windowed")
    assert "key-value cache of 896 tokens, reserved before the first run" in perform(tmp_path / "windowed").notes


def test_the_engine_finds_itself_alone_offline_and_away_from_home(checkpoint: Path, fake: FakeVllm) -> None:
    before = dict(os.environ)
    perform(checkpoint)
    (seen,) = fake.environments
    assert seen["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert seen["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"
    assert seen["VLLM_CPU_INT4_W4A8"] == "0"
    assert seen["TORCHDYNAMO_DISABLE"] == "1"
    assert seen["HF_HUB_OFFLINE"] == seen["VLLM_NO_USAGE_STATS"] == seen["OMP_NUM_THREADS"] == "1"
    assert not Path(seen["VLLM_CACHE_ROOT"]).parent.exists()
    assert dict(os.environ) == before


def test_a_build_for_another_device_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeVllm(device_type="cuda").install(monkeypatch)
    with pytest.raises(Unsupported, match="computes on cuda, not on cpu") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is Reason.DEVICE


def test_an_image_without_vllm_says_so(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(Unsupported, match="vLLM cannot be imported") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is Reason.BACKEND


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Failed to find a kernel that can implement the WNA16 linear layer.", Reason.FORMAT),
        (
            "1 error\n  Value error, Unsupported quantization config: bits=4, sym=False [type=value_error]",
            Reason.FORMAT,
        ),
        ("Marlin does not support weight_bits = uint8b128.", Reason.FORMAT),
        ("GPTQ group activation ordering (desc_act=True) is no longer supported.", Reason.FORMAT),
        ("Model architectures ['XForCausalLM'] are not supported for now.", Reason.ARCHITECTURE),
        ("Unsupported CPU attention configuration: head_dim=8 isa=1 kv_cache_idx=0", Reason.SHAPE),
        ("The hidden size (256) is not a multiple of the number of attention heads (6).", Reason.SHAPE),
        ("torch.float32 is not supported for quantization method awq. Supported dtypes: [..]", Reason.DTYPE),
        ("\"cpu_gemm_wna16\" not implemented for 'Float'", Reason.DTYPE),
    ],
)
def test_refusals_of_the_engine_keep_their_words_and_get_a_reason(
    checkpoint: Path, fake: FakeVllm, message: str, reason: Reason
) -> None:
    fake.loading = raising(ValueError(message))
    with pytest.raises(Unsupported, match="vLLM refuses this checkpoint: ") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is reason
    assert "\n" not in refusal.value.message
    assert "[type=" not in refusal.value.message


def test_a_build_without_the_kernel_is_a_refusal_that_says_where_it_is(checkpoint: Path, fake: FakeVllm) -> None:
    fake.generating = raising(AttributeError("'_OpNamespace' '_C' object has no attribute 'cpu_gemm_wna16'"))
    with pytest.raises(Unsupported, match="vLLM's build for this processor lacks cpu_gemm_wna16") as refusal:
        perform(checkpoint)
    assert refusal.value.reason is Reason.DEVICE
    assert refusal.value.hint is not None
    assert "AVX-512" in refusal.value.hint


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("Available memory on node 0 (1.0/20.0 GiB) on kv cache allocation is less than requested"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("std::bad_alloc"),
    ],
)
@pytest.mark.parametrize("when", ["loading", "generating"])
def test_too_little_memory_is_said_to_be_that(checkpoint: Path, fake: FakeVllm, failure: Exception, when: str) -> None:
    setattr(fake, when, raising(failure))
    with pytest.raises(OutOfMemory, match="vLLM found too little memory"):
        perform(checkpoint)


def test_what_is_not_known_to_be_a_refusal_stays_a_failure(checkpoint: Path, fake: FakeVllm) -> None:
    fake.generating = raising(RuntimeError("the engine stumbled"))
    with pytest.raises(WorkerError, match="failed while generating: RuntimeError: the engine stumbled") as failure:
        perform(checkpoint)
    assert not isinstance(failure.value, (Unsupported, OutOfMemory))
    assert fake.stopped == 1


def test_an_explained_error_is_not_explained_again() -> None:
    known = Unsupported(Reason.SHAPE, "known", hint="none")
    assert refusals.explain(known, doing="loading") is known


def test_a_start_that_hangs_is_given_up(checkpoint: Path, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "start_up_deadline", lambda library: hosting.start_up_deadline(library, 0.2))
    fake.loading = lambda: time.sleep(600)
    with pytest.raises(WorkerError, match=r"not ready within 0 s"):
        perform(checkpoint)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_start_that_hangs_in_native_code_ends_the_process_with_its_stack() -> None:
    """Nothing can be raised while SIGALRM is blocked, as it is in effect when native code never returns."""
    program = """
import signal, time
from harness.backends import hosting
hosting._GRACE_SECONDS = 0.3
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
with hosting.start_up_deadline("the library", 0.2):
    time.sleep(600)
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert 'File "<string>", line' in ended.stderr


def test_scores_are_sums_over_the_continuation(checkpoint: Path, fake: FakeVllm) -> None:
    fake.log_likelihood = lambda tokens, place: (-float(tokens[place]), 2 if tokens[place] == 9 else 1)
    requests = [
        TokenRequest((1, 2), (3, 4)),
        TokenRequest((5,), ()),
        TokenRequest((1,), (9, 8)),
        TokenRequest(tuple(range(20)), (7,)),
    ]
    with open_scorer(checkpoint, Device(threads=1), None, context_tokens=16, sequences=2) as scorer:
        answers = dict(scorer.score(requests))
    assert list(answers) == [0, 1, 2, 3]
    assert (answers[0].log_likelihood, answers[0].greedy) == (-7.0, True)
    assert answers[1].log_likelihood != answers[1].log_likelihood
    assert not answers[1].greedy
    assert (answers[2].log_likelihood, answers[2].greedy) == (-17.0, False)
    assert (answers[3].log_likelihood, answers[3].dropped_tokens) == (-7.0, 6)
    assert all(call[1].prompt_logprobs == 0 for call in fake.calls)


def test_distributions_are_the_twenty_likeliest_tokens_and_the_right_one(checkpoint: Path, fake: FakeVllm) -> None:
    fake.log_likelihood = lambda tokens, place: (-float(tokens[place]), 2)
    fake.likeliest = lambda tokens, place: [(token, -0.1 * token - place) for token in range(30)]
    requests = [TokenRequest((1, 2), (3, 40)), TokenRequest((5,), (6,)), TokenRequest((7, 8), (41,))]
    with open_scorer(checkpoint, Device(threads=1), None, context_tokens=16, sequences=2) as scorer:
        found = list(scorer.distributions(requests))
    assert [(one.number, one.first) for one in found] == [(0, 0), (1, 0), (2, 0)]
    known = found[0].known
    assert isinstance(known, Likeliest)
    assert known.tokens.shape == known.log_likelihoods.shape == (2, 21)
    rows = [
        dict(zip(*row, strict=True)) for row in zip(known.tokens.tolist(), known.log_likelihoods.tolist(), strict=True)
    ]
    assert rows[1] == {40: -40.0, **{token: -0.1 * token - 3 for token in range(20)}}
    # Token 3 is among the likeliest, so that its row is one shorter.
    assert known.log_likelihoods[0, 20] == -math.inf
    assert sorted(known.tokens[0, :20].tolist()) == list(range(20))
    assert [call[1].prompt_logprobs for call in fake.calls] == [20, 20]


def test_a_continuation_that_leaves_no_context_is_refused(checkpoint: Path, fake: FakeVllm) -> None:
    with (
        open_scorer(checkpoint, Device(threads=1), None, context_tokens=16, sequences=2) as scorer,
        pytest.raises(Unsupported, match="a continuation has 15 tokens, and up to 14 can be scored") as refusal,
    ):
        list(scorer.score([TokenRequest((1,), tuple(range(15)))]))
    assert refusal.value.reason is Reason.SHAPE
