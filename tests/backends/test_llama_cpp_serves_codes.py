"""The installed llama.cpp on quantized checkpoints: what it computes of codes and blocks, timed and scored.

Two things explain where it differs from the reference: it rounds what a quantized matrix reads to 8 bits, with a scale
for 32 values (256 for K-quants), and it multiplies codes and scales exactly, where the reference rounds a weight to the
checkpoint's dtype. The bounds here are between it and the reference's model with both put into it: what is left is
another order of additions, which now and then moves an activation to the next code. Runs in the environment of
`images/llama-cpp/locks/cpu.txt`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.backends import run
from harness.backends.llama_cpp.loading import load, prepare
from harness.backends.llama_cpp.scoring import LlamaCppScorer, open_scorer
from harness.checkpoint import open_checkpoint
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    BenchmarkResult,
    CheckpointFormat,
    Device,
    Dtype,
    Quantization,
    Reason,
)
from harness.contract.ggml import BLOCK_SHAPES, BlockType
from harness.errors import BadRequest, Unsupported
from harness.evaluation.prepared import Answer, TokenRequest
from harness.models.loading import load_model, packed_format
from harness.models.packed import QuantizedLinears
from harness.quantization.ggml.blocks import BlockWeight, lay_into_blocks
from tests.methods.compress_requests import Requests
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_gemma3
from tests.support.stored_zoo import Stored, quantize, stored
from tests.support.zoo import zoo_checkpoint

pytest.importorskip("xllamacpp", reason="llama.cpp is installed in the environment of the image `llama-cpp` alone")

DEVICE = Device(threads=1)
PACK, INT = CheckpointFormat.PACK_QUANTIZED, CheckpointFormat.INT_QUANTIZED
DRAWN = torch.Generator().manual_seed(0)
LENGTHS = ((5, 3), (20, 1), (1, 30), (12, 0), (40, 2))
CASES = (
    stored(PACK, 3, symmetric=True),
    stored(PACK, 4, symmetric=True),
    stored(PACK, 4, symmetric=False),
    stored(PACK, 8, symmetric=True),
    stored(INT, 8, symmetric=True, activation_bits=8),
    stored(CheckpointFormat.GPTQ, 4, symmetric=True),
    stored(CheckpointFormat.AWQ, 4, symmetric=False),
)
MEDIAN_ERROR = 1e-4
"""Of a position's logits, the norm of the difference by their own norm: half the positions stay below. Measured were
2e-7 to 4e-7, and 0.008 to 0.021 where the reference is left as it is; few have an activation in another code."""


def drawn(count: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(torch.randint(vocabulary, (count,), generator=DRAWN).tolist())


PAIRS = torch.randint(512, (12, 2), generator=DRAWN)
"""Sequences, short because an activation in another code moves all positions after it."""
REQUESTS = tuple(TokenRequest(drawn(context, 512), drawn(continuation, 512)) for context, continuation in LENGTHS)


@contextmanager
def scorer(checkpoint: Path, dtype: Dtype | None = Dtype.FLOAT32, **sizes: int) -> Iterator[LlamaCppScorer]:
    sizes = {"context_tokens": 44, "sequences": 3, "step_tokens": 16, **sizes}
    with open_scorer(checkpoint, DEVICE, dtype, work=checkpoint.parent, **sizes) as ready:
        yield ready


def scored(checkpoint: Path, dtype: Dtype | None = Dtype.FLOAT32) -> list[Answer]:
    with scorer(checkpoint, dtype) as ready:
        return [answer for _, answer in ready.score(REQUESTS)]


def reference(checkpoint: Path) -> list[Answer]:
    model: Any = load_model(checkpoint, DEVICE, Dtype.FLOAT32).model
    answers = []
    for request in REQUESTS:
        tokens, count = torch.tensor([*request.context, *request.continuation]), len(request.continuation)
        if not count:
            answers.append(Answer(float("nan"), greedy=False))
            continue
        with torch.inference_mode():
            logits = model(tokens[None, :-1]).logits[0].double()[-count:]
        likelihoods = torch.log_softmax(logits, -1).gather(1, tokens[-count:, None])
        greedy = bool((logits.argmax(-1) == tokens[-count:]).all())
        answers.append(Answer(float(likelihoods.sum()), greedy=greedy))
    return answers


def llama_cpp_logits(checkpoint: Path) -> torch.Tensor:
    """[positions, vocabulary] after each token of `PAIRS`."""
    with (
        prepare(checkpoint, DEVICE, Dtype.FLOAT32, context_tokens=64, work=checkpoint.parent) as prepared,
        load(prepared, DEVICE, sequences=12, kv_tokens=12 * 256, step_tokens=24) as loaded,
    ):
        parts = [torch.from_numpy(one) for *_, one in loaded.session.last_logits(PAIRS.tolist(), [2] * 12)]
        return torch.cat(parts)


def simulated_logits(checkpoint: Path, *, alike: bool) -> torch.Tensor:
    """The reference's; `alike`: each linear of the decoder computes as llama.cpp does."""
    model: Any = load_model(checkpoint, DEVICE, Dtype.FLOAT32).model
    if alike:
        for linear, weight in llama_cpp_weights(model, checkpoint).items():
            linear._forward_pre_hooks.clear()  # the method's own rounding, which llama.cpp does not do
            linear.forward = partial(multiply, weight, weight.dequantize(torch.float32))
    with torch.inference_mode():
        logits: torch.Tensor = model(PAIRS).logits
    return logits.flatten(0, 1)


def median_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).median())


def llama_cpp_weights(model: Any, checkpoint: Path) -> dict[Any, BlockWeight]:
    """The blocks of each linear of the decoder."""
    packed = packed_format(checkpoint, open_checkpoint(checkpoint))
    assert packed is not None
    found = {}
    with QuantizedLinears.open(checkpoint, packed) as linears:
        for linear in linears_of(decoder_blocks(model)):
            weight = linears.read_stored(linear.name)
            found[linear.module] = (
                weight if isinstance(weight, BlockWeight) else lay_into_blocks(linears.read(linear.name)).weight
            )
    return found


def multiply(weight: BlockWeight, exact: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """As ggml does: the inputs' codes times the weights', with a scale for 32 inputs in half precision, or for 256."""
    values = BLOCK_SHAPES[weight.block_type].values
    grouped = inputs.reshape(-1, inputs.shape[-1] // values, values)
    largest = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))
    scale = largest.abs() / 127 if values == 32 else largest / -127
    codes = (grouped / scale).nan_to_num(0).round().clamp(-128, 127)
    stored = scale.half().float() if values == 32 else scale
    product = (codes * stored).flatten(1) @ exact.T
    if weight.block_type is BlockType.Q4_1:  # the smallest values times the inputs' sum, which lies in half precision
        lowest = weight.blocks.reshape(len(exact), -1, 20)[..., 2:4].contiguous().view(torch.float16)[..., 0].float()
        total = codes.sum(2)
        product += ((scale[..., 0] * total).half().float() - stored[..., 0] * total) @ lowest.T
    return product.reshape(*inputs.shape[:-1], len(exact))


def nats(found: list[Answer], expected: list[Answer]) -> float:
    """The mean difference of a token's log-likelihood over the requests."""
    counts = [len(request.continuation) for request in REQUESTS]
    differences = [
        abs(one.log_likelihood - other.log_likelihood)
        for one, other, count in zip(found, expected, counts, strict=True)
        if count
    ]
    return sum(differences) / sum(counts)


def perform(checkpoint: Path, **parameters: Any) -> BenchmarkResult:
    short = {"prompt_tokens": 16, "generate_tokens": 8, "batch_sizes": (2,), "warmup": 1, "repeats": 2}
    request = BenchmarkRequest(
        id="test",
        device=DEVICE,
        inputs={"checkpoint": str(checkpoint)},
        output=str(checkpoint.parent),
        parameters=BenchmarkParameters(**{"backend": "llama-cpp", **short, **parameters}),
    )
    return run(request, Recorder().reporter)


def test_dense_weights_score_as_the_reference_does_in_steps_and_batches(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    found, expected = scored(tmp_path / "model"), reference(tmp_path / "model")
    assert nats(found, expected) < 1e-4
    assert [one.greedy for one in found] == [one.greedy for one in expected]
    assert numpy.isnan(found[3].log_likelihood)
    likeliest = TokenRequest(REQUESTS[0].context, ())
    with scorer(tmp_path / "model") as ready:
        model: Any = load_model(tmp_path / "model", DEVICE, Dtype.FLOAT32).model
        with torch.inference_mode():
            best = int(model(torch.tensor([likeliest.context])).logits[0, -1].argmax())
        [(_, answer)] = ready.score([TokenRequest(likeliest.context, (best,))])
        assert answer.greedy
        long = TokenRequest(drawn(60, 512), (best,))
        [(_, cut)] = ready.score([long])
        [(_, kept)] = ready.score([TokenRequest(long.context[-42:], long.continuation)])
        assert (cut.dropped_tokens, cut.log_likelihood) == (18, pytest.approx(kept.log_likelihood, abs=1e-4))
        with pytest.raises(Unsupported, match="up to 42 can be scored") as refused:
            list(ready.score([TokenRequest((1,), drawn(43, 512))]))
        assert refused.value.reason is Reason.SHAPE
    assert any("logits of the prompt" in note for note in ready.facts.notes)


@pytest.mark.parametrize("how", CASES, ids=str)
def test_packed_codes_are_computed_as_the_reference_does_with_activations_rounded_alike(
    how: Stored, tmp_path: Path
) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "dense")
    hold_against_the_reference(quantize(tmp_path / "dense", tmp_path / "packed", how))


def test_a_gemma_3_is_served_from_codes_as_well(tmp_path: Path) -> None:
    """Less near: llama.cpp reads its GELU off a table of float16, which moves activations to other codes: 0.012."""
    publish_checkpoint(tmp_path / "dense", small_gemma3(intermediate_size=96, vocab_size=512))
    packed = quantize(tmp_path / "dense", tmp_path / "packed", stored(PACK, 4, symmetric=True))
    hold_against_the_reference(packed, most=0.04)


def hold_against_the_reference(checkpoint: Path, most: float = MEDIAN_ERROR) -> None:
    found = llama_cpp_logits(checkpoint)
    assert median_error(found, simulated_logits(checkpoint, alike=True)) < most
    assert median_error(found, simulated_logits(checkpoint, alike=False)) < 0.1


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Llama whose down projection alone has rows that are no multiple of 256, by the methods that made it."""
    folder = tmp_path_factory.mktemp("blocks")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=544,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    publish_checkpoint(folder / "model", transformers.AutoModelForCausalLM.from_config(config))
    made = {}
    for name, setting in (("gguf-q4_k", "W4A16g32"), ("gguf-q8_0", "W8A16g32"), ("gguf-iq4_nl", "W4A16g32")):
        (folder / name).mkdir()
        (folder / name / "model").symlink_to(folder / "model")
        made[name] = Requests(name, folder / name)(setting)[1]
    return made


@pytest.mark.parametrize("name", ["gguf-q4_k", "gguf-q8_0", "gguf-iq4_nl"])
def test_blocks_are_computed_as_the_reference_does_with_activations_rounded_alike(
    name: str, blocks: dict[str, Path]
) -> None:
    hold_against_the_reference(blocks[name])


def test_timed_tokens_follow_from_the_packed_weights_and_the_notes_name_the_types(
    blocks: dict[str, Path], tmp_path: Path
) -> None:
    result = perform(blocks["gguf-q4_k"])
    [speed] = result.speeds
    assert speed.token_check is not None
    assert speed.token_check.compared > 0
    assert result.dequantized is False
    assert "its matrices by type: 1 F32, 12 Q4_K, 2 Q5_0" in result.notes
    zoo_checkpoint("llama-gqa", tmp_path / "dense")
    packed = quantize(tmp_path / "dense", tmp_path / "packed", stored(PACK, 4, symmetric=True))
    parts = {name: perform(tmp_path / name) for name in ("dense", "packed")}
    held = {name: one.memory_parts.weight_bytes or 0 for name, one in parts.items() if one.memory_parts}
    linears = sum(
        linear.module.weight.numel() for linear in linears_of(decoder_blocks(load_model(packed, DEVICE).model))
    )
    assert held["dense"] - held["packed"] == linears * (16 - 4.5) / 8
    assert "codes and scales lie in Q4_0 exactly" in parts["packed"].notes
    assert any("rounds what quantized matrices read to 8 bits" in note for note in parts["packed"].notes)


def test_what_has_no_type_is_refused_and_quantized_weights_are_not_rounded_again(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "dense")
    narrow = Quantization(weight_bits=4, activation_bits=16, group_size=16)
    for name, how, reason in (
        ("zeros", stored(PACK, 8, symmetric=False), Reason.SETTING),
        ("narrow", Stored(PACK, narrow), Reason.SHAPE),
        ("order", stored(CheckpointFormat.GPTQ, 4, symmetric=True, act_order=True), Reason.SETTING),
    ):
        quantize(tmp_path / "dense", tmp_path / name, how)
        with pytest.raises(Unsupported) as refused:
            perform(tmp_path / name)
        assert refused.value.reason is reason, name
    packed = quantize(tmp_path / "dense", tmp_path / "packed", stored(PACK, 4, symmetric=True))
    assert open_checkpoint(packed).format is PACK
    with pytest.raises(BadRequest, match="rounds dense weights, and these are compressed-tensors/pack-quantized"):
        perform(packed, options={"weights": "q4_0"})
