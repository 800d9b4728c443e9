"""What all backends owe, whatever library serves: over a stand-in where the library is in its image alone."""

import importlib
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.backends import run
from harness.checkpoint import open_checkpoint, publish
from harness.contract import (
    DESCRIPTOR_NAME,
    BenchmarkParameters,
    BenchmarkRequest,
    BenchmarkResult,
    CheckpointFormat,
    Device,
    MemoryParts,
    Quantization,
    Reason,
    Sparsity,
)
from harness.errors import BadRequest, Unsupported
from harness.quantization.layouts import quantization_config
from tests.support import vendor_engines
from tests.support.fake_vllm import FakeVllm
from tests.support.offered import BACKENDS
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model

STAND_INS: dict[str, Callable[[pytest.MonkeyPatch, Path], object]] = {
    "vllm": lambda patch, folder: FakeVllm().install(patch),
    "tensorrt-llm": vendor_engines.install,
    "mlc-llm": vendor_engines.install,
}
SHORT = {"prompt_tokens": 8, "generate_tokens": 5, "batch_sizes": (1, 3), "warmup": 1, "repeats": 4}
W4A16 = Quantization(weight_bits=4, activation_bits=16, group_size=128)

LEFT_TO_THE_LIBRARY = {"vllm": {CheckpointFormat.MODELOPT_AWQ}}
"""Formats that the real library refuses by itself, which a stand-in does not."""

every_backend = pytest.mark.parametrize("name", BACKENDS)


@pytest.fixture(autouse=True)
def library(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if name in STAND_INS:
        STAND_INS[name](monkeypatch, tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return publish_checkpoint(tmp_path / "model", small_model("llama"))


def perform(name: str, checkpoint: Path, **parameters: Any) -> BenchmarkResult:
    """One benchmark; skipped where the library that it needs is missing and nothing stands in for it."""
    output = checkpoint.parent / "out"
    output.mkdir(exist_ok=True)
    request = BenchmarkRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(output),
        parameters=BenchmarkParameters(**{"backend": name, **SHORT, **parameters}),
    )
    try:
        result = run(request, Recorder().reporter)
    except Unsupported as refusal:
        if refusal.reason is Reason.BACKEND and name not in STAND_INS:
            pytest.skip(refusal.message)
        raise
    assert list(output.iterdir()) == [], "a backend removes what it put into its folder"
    return result


def option_names(name: str) -> tuple[str, ...]:
    return tuple(importlib.import_module(str(BACKENDS[name].module)).BACKEND.options.model_fields)


@every_backend
def test_every_batch_size_is_repeated_and_has_all_that_goes_with_a_speed(name: str, checkpoint: Path) -> None:
    result = perform(name, checkpoint)
    assert (result.backend, result.protocol) == (name, "speed/8-5")
    assert [speed.batch_size for speed in result.speeds] == [1, 3]
    for speed in result.speeds:
        assert speed.protocol == f"speed/8-5-b{speed.batch_size}"
        assert len(speed.samples) == 4
        assert speed.decode_tokens_per_second == statistics.median(speed.samples)
        assert speed.noise_floor is not None
        assert speed.interval is not None
        assert speed.interval.low <= speed.decode_tokens_per_second <= speed.interval.high
        assert speed.warmup_runs >= 1
        assert speed.time_to_first_token_seconds == pytest.approx(
            speed.batch_size * 8 / speed.prefill_tokens_per_second
        )
        assert (speed.token_latency is None) == (speed.token_latency_absent is not None)
        assert (speed.telemetry, speed.telemetry_absent) == (None, "computed on the CPU, which has no such counters")


@every_backend
def test_start_up_and_memory_stand_beside_the_speeds(name: str, checkpoint: Path) -> None:
    result = perform(name, checkpoint)
    assert result.start_up is not None
    assert result.start_up.process_seconds > 0
    assert result.start_up.load_seconds == result.load_seconds
    assert result.start_up.first_token_seconds > 0
    assert result.memory.peak_memory_bytes > 0
    assert result.memory_prediction is not None
    assert result.kv_cache_tokens == 3 * 128
    parts = result.memory_parts
    assert parts is not None
    told = {part for part in MemoryParts.model_fields if part.endswith("_bytes") and getattr(parts, part) is not None}
    assert told.isdisjoint(parts.absent)
    assert all(parts.absent.values())
    assert result.dtype_reason


@every_backend
def test_the_same_prompts_bring_the_same_tokens(name: str, checkpoint: Path) -> None:
    first, second = (perform(name, checkpoint, seed=5).speeds for _ in range(2))
    assert [speed.repeatable for speed in first] == [True, True]
    assert [speed.greedy_tokens for speed in first] == [speed.greedy_tokens for speed in second]
    assert {len(speed.greedy_tokens) for speed in first} <= {0, 5}


@every_backend
def test_compression_that_brings_no_speed_is_said_so(name: str, tmp_path: Path) -> None:
    pruned = publish_checkpoint(
        tmp_path / "pruned",
        small_model("llama"),
        sparsity=Sparsity(pattern="2:4", target=0.5, measured=0.5),
        quantization=Quantization(weight_bits=8, activation_bits=8, simulated=True),
    )
    notes = perform(name, pruned).notes
    assert any("50.0% zeros (2:4) bring no speed" in note for note in notes)
    assert any("quantization brings no speed" in note for note in notes)


@every_backend
def test_an_unknown_option_is_refused_with_those_that_there_are(name: str, checkpoint: Path) -> None:
    with pytest.raises(BadRequest, match=f"{name} has no option 'fastt'") as refusal:
        perform(name, checkpoint, options={"fastt": True})
    known = option_names(name)
    assert refusal.value.hint == (f"its options are: {', '.join(known)}" if known else "it has no options")


@every_backend
def test_a_value_that_an_option_cannot_have_is_refused_by_its_name(name: str, checkpoint: Path) -> None:
    for option in option_names(name):
        with pytest.raises(BadRequest, match=f"option '{option}.*' of {name} cannot be 'not a value of it'"):
            perform(name, checkpoint, options={option: "not a value of it"})


@every_backend
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt_tokens": 100, "generate_tokens": 29}, "exceed the model's context of 128"),
        ({"generate_tokens": 1}, "nothing to time"),
        ({"kv_tokens": 38}, "3 sequences of 13 tokens do not fit into keys and values for 38 tokens"),
    ],
)
def test_lengths_that_cannot_be_are_refused(name: str, checkpoint: Path, asked: dict[str, int], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        perform(name, checkpoint, **asked)


@every_backend
def test_formats_that_its_image_does_not_name_are_refused(name: str, checkpoint: Path, tmp_path: Path) -> None:
    others = set(CheckpointFormat) - set(BACKENDS[name].formats) - LEFT_TO_THE_LIBRARY.get(name, set())
    assert others
    for other in others:
        with pytest.raises(Unsupported) as refusal:
            perform(name, as_if(checkpoint, other, tmp_path / other.name))
        assert refusal.value.reason is Reason.FORMAT
        assert refusal.value.hint


def as_if(checkpoint: Path, other: CheckpointFormat, folder: Path) -> Path:
    """The same files, described as of another format."""
    described = open_checkpoint(checkpoint).model_copy(update={"format": other, "quantization": W4A16})
    staging = folder.with_suffix(".staging")
    shutil.copytree(checkpoint, staging, ignore=shutil.ignore_patterns(DESCRIPTOR_NAME))
    if other is CheckpointFormat.MODELOPT_AWQ:
        config = json.loads((staging / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"] = quantization_config(other, W4A16, ignored=())
        (staging / "config.json").write_text(json.dumps(config), encoding="utf-8")
    publish(staging, folder, lambda files: described.model_copy(update={"files": files}))
    return folder


@every_backend
def test_another_architecture_is_served_or_refused_as_one_that_the_image_does_not_name(
    name: str, tmp_path: Path
) -> None:
    opt = publish_checkpoint(tmp_path / "opt", small_model("opt"))
    try:
        assert perform(name, opt).speeds
    except Unsupported as refusal:
        assert refusal.reason is Reason.ARCHITECTURE
        assert BACKENDS[name].architectures or "opt" in refusal.message.lower()
