"""Whole requests on tiny models of every family: what comes out, what is left alone, what is refused."""

import io
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.checkpoint import open_checkpoint
from harness.contract import (
    Calibration,
    CheckpointFormat,
    CompressParameters,
    CompressRequest,
    Device,
    Dtype,
    Reason,
    Setting,
)
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.methods import run
from harness.reporter import Reporter
from tests.methods.compress_requests import Killed, kill_before
from tests.support.tiny_checkpoints import (
    FAMILIES,
    LAYERS,
    publish_model,
    publish_rows,
    tiny_model,
    tiny_text,
    tiny_tokens,
)

SAMPLES, LENGTH = 6, 16


@pytest.fixture
def calibration(tmp_path):
    rows = [{"text": tiny_text(30, seed)} for seed in range(20)]
    publish_rows(tmp_path / "c4", "c4", rows)
    return tmp_path / "c4"


@pytest.fixture
def compress(tmp_path, calibration):
    """Compress the published `model` folder; returns the result, the artifact's folder and the events."""
    runs = iter(range(100))

    def work(setting="50%", method="sparsegpt", length=LENGTH, inputs=None, output=None, **options):
        output = output or tmp_path / f"out{next(runs)}"
        output.mkdir(exist_ok=True)
        request = CompressRequest(
            id="request",
            device=Device(threads=1),
            inputs=inputs or {"checkpoint": str(tmp_path / "model"), "calibration": str(calibration)},
            output=str(output),
            parameters=CompressParameters(
                method=method,
                setting=Setting.parse(setting),
                calibration=Calibration(dataset="c4", samples=SAMPLES, sequence_length=length, seed=0),
                options=options,
            ),
        )
        events = io.StringIO()
        result = run(request, Reporter(events))
        return result, output / "artifact", [json.loads(line) for line in events.getvalue().splitlines()]

    return work


def weights_of(folder):
    return {name: tensor.float() for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("setting", ["50%", "2:4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_linears_are_pruned_as_asked_and_nothing_else_changes(tmp_path, compress, family, setting):
    model = tiny_model(family)
    parent = publish_model(tmp_path / "model", model)
    result, artifact, _ = compress(setting)
    pruned = {f"{linear.name}.weight" for linear in linears_of(decoder_blocks(model))}
    before, after = weights_of(tmp_path / "model"), weights_of(artifact)
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == pruned
    zeros = sum(int((after[name] == 0).sum()) for name in pruned)
    measured = zeros / sum(after[name].numel() for name in pruned)
    assert measured == pytest.approx(0.5, abs=0.01)
    assert result.artifact == open_checkpoint(artifact, verify=True)
    assert result.artifact.sparsity.measured == measured
    assert result.artifact.sparsity.pattern == ("unstructured" if setting == "50%" else setting)
    assert (result.artifact.parent, result.artifact.dtype) == (parent.digest, Dtype.BFLOAT16)
    if setting == "2:4":
        assert all(((after[name].reshape(-1, 4) == 0).sum(1) >= 2).all() for name in pruned)


@pytest.mark.parametrize("setting", ["4:8", "37.5%", "90%"])
def test_any_ratio_and_the_longer_pattern_are_reached(tmp_path, compress, setting):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, _ = compress(setting)
    assert result.artifact.sparsity.measured == pytest.approx(Setting.parse(setting).sparsity, abs=0.01)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_outputs_stay_closer_to_the_dense_model_than_after_magnitude_pruning(tmp_path, compress, family):
    model = tiny_model(family)
    publish_model(tmp_path / "model", model)
    _, artifact, _ = compress("2:4")
    tokens = tiny_tokens(8, LENGTH, seed=9)
    dense = model(tokens).logits
    pruned = load(artifact)(tokens).logits
    for linear in linears_of(decoder_blocks(model)):
        grouped = linear.module.weight.view(-1, 4)
        grouped.scatter_(1, grouped.abs().topk(2, dim=1, largest=False).indices, 0)
    assert (pruned - dense).square().mean() < (model(tokens).logits - dense).square().mean()


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_batch_size_does_not_change_the_weights(tmp_path, compress, family):
    publish_model(tmp_path / "model", tiny_model(family), Dtype.FLOAT32)
    one, four = (weights_of(compress("50%", batch_size=size)[1]) for size in (1, 4))
    assert all(torch.allclose(one[name], four[name], atol=1e-4) for name in one)
    assert all(torch.equal(one[name] == 0, four[name] == 0) for name in one)


def test_the_stored_weights_are_those_that_the_later_blocks_were_fed_by(tmp_path, compress, monkeypatch):
    from harness.methods import job

    loaded = []
    plain = job.load_model

    def keep(*arguments, **keywords):
        loaded.append(plain(*arguments, **keywords))
        return loaded[-1]

    monkeypatch.setattr(job, "load_model", keep)
    publish_model(tmp_path / "model", tiny_model("llama"))
    _, artifact, _ = compress("50%")
    tokens = tiny_tokens(2, LENGTH)
    assert torch.equal(load(artifact)(tokens).logits, loaded[0].model(tokens).logits)


def test_true_sequential_feeds_later_linears_with_the_pruned_earlier_ones(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"), Dtype.FLOAT32)
    plain, sequential = (weights_of(compress("50%", true_sequential=flag)[1]) for flag in (False, True))
    first = "model.layers.0.self_attn.q_proj.weight"
    later = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(plain[first], sequential[first])
    assert not torch.equal(plain[later], sequential[later])


def test_each_linear_is_reported_with_its_sparsity_error_and_time(tmp_path, compress):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    result, _, events = compress("50%")
    assert [layer.name for layer in result.layers] == [linear.name for linear in linears_of(decoder_blocks(model))]
    assert all(layer.error > 0 for layer in result.layers)
    assert all(layer.sparsity == pytest.approx(0.5, abs=0.02) for layer in result.layers)
    assert result.cost.memory.peak_memory_bytes > 0
    layers = [event for event in events if event["event"] == "progress"]
    assert (layers[-1]["done"], layers[-1]["total"], layers[-1]["unit"]) == (LAYERS, LAYERS, "layer")


def test_the_descriptor_says_what_was_done(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"), notes=("a note of the parent",))
    result, artifact, _ = compress("50%", percdamp=0.05)
    assert (result.artifact.method, result.artifact.setting) == ("sparsegpt", "50%")
    assert result.artifact.options == {
        "blocksize": 128,
        "percdamp": 0.05,
        "true_sequential": False,
        "batch_size": 4,
    }
    assert result.artifact.notes[0] == "a note of the parent"
    assert "policy crop" in result.artifact.notes[1]
    assert AutoTokenizer.from_pretrained(artifact)("w0")["input_ids"] == [3]


def test_the_same_request_gives_the_same_checkpoint(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("qwen3"))
    first, second = (compress("50%")[0].artifact for _ in range(2))
    assert first.digest == second.digest


def test_an_interrupted_request_goes_on_to_the_same_checkpoint(tmp_path, compress, monkeypatch):
    publish_model(tmp_path / "model", tiny_model("llama"))
    whole, _, _ = compress("2:4")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_before(patch, 2)
        compress("2:4", output=tmp_path / "killed")
    resumed, _, _ = compress("2:4", output=tmp_path / "killed")
    assert (resumed.cost.resumed_blocks, whole.cost.resumed_blocks) == (2, 0)
    assert resumed.artifact.digest == whole.artifact.digest


def test_a_pattern_that_does_not_divide_an_input_size_is_refused_with_the_layers(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(Unsupported, match=r"21 linear\(s\).*model\.layers\.0\.self_attn\.k_proj \(32\)") as refusal:
        compress("1:5", blocksize=125)
    assert refusal.value.reason is Reason.SHAPE


@pytest.mark.parametrize(
    ("setting", "options", "error", "message"),
    [
        ("W4A16", {}, Unsupported, "no setting 'W4A16'"),
        ("50%", {"block_size": 64}, BadRequest, "did you mean 'blocksize'"),
        ("50%", {"blocksize": 0}, BadRequest, "'blocksize'"),
        ("50%", {"true_sequential": "yes"}, BadRequest, "'true_sequential' of sparsegpt cannot be 'yes'"),
        ("50%", {"percdamp": 2.0}, BadRequest, "'percdamp'"),
        ("2:4", {"blocksize": 6}, BadRequest, "not a multiple of 4"),
    ],
)
def test_a_setting_or_option_that_cannot_be_used_is_refused_before_anything_is_read(
    compress, setting, options, error, message
):
    with pytest.raises(error, match=message):
        compress(setting, **options)


def test_an_unknown_method_names_the_nearest(compress):
    with pytest.raises(Unsupported, match="did you mean 'sparsegpt'") as refusal:
        compress(method="sparsgpt")
    assert refusal.value.reason is Reason.METHOD


def test_a_missing_input_is_named(compress, tmp_path):
    with pytest.raises(BadRequest, match="'calibration'"):
        compress(inputs={"checkpoint": str(tmp_path / "model")})


def test_a_quantized_checkpoint_is_refused(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"), format=CheckpointFormat.PACK_QUANTIZED)
    with pytest.raises(Unsupported, match="compresses dense checkpoints") as refusal:
        compress()
    assert refusal.value.reason is Reason.FORMAT


def test_sequences_beyond_the_context_are_refused(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("opt"))
    with pytest.raises(BadRequest, match="context of 64"):
        compress(length=65)


def test_a_checkpoint_that_overflows_is_refused_by_name(tmp_path, compress):
    model = tiny_model("llama")
    model.model.layers[1].input_layernorm.weight[3] = float("nan")
    publish_model(tmp_path / "model", model)
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1\.self_attn\.k_proj hold NaN"):
        compress()
