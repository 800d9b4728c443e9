"""Whole GPTQ requests on tiny models of every family."""

import hashlib
import json

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointFormat, Dtype, Quantization, Reason
from harness.errors import BadRequest, Unsupported
from tests.methods.compress_requests import LENGTH, Requests, keep_models, logits_of, tensors_of
from tests.support.tiny_checkpoints import FAMILIES, publish_model, tiny_model, tiny_tokens

TOKENS = tiny_tokens(2, LENGTH)


@pytest.fixture
def compress(tmp_path):
    return Requests("gptq", tmp_path)


@pytest.mark.parametrize(("family", "setting"), [*((family, "W3A16g16") for family in FAMILIES), ("llama", "W4A16")])
def test_the_decoder_linears_are_stored_as_codes_and_nothing_else_changes(
    tmp_path, compress, family, setting, monkeypatch
):
    models = keep_models(monkeypatch)
    model = tiny_model(family)
    parent = publish_model(tmp_path / "model", model)
    result, artifact, _ = compress(setting)
    quantized = {f"{linear.name}.weight" for linear in linears_of(decoder_blocks(model))}
    before, after = tensors_of(tmp_path / "model"), tensors_of(artifact)
    assert before.keys() - after.keys() == quantized
    assert all(torch.equal(before[name], after[name]) for name in before.keys() & after.keys())
    assert result.artifact == open_checkpoint(artifact, verify=True)
    assert (result.artifact.parent, result.artifact.format) == (parent.digest, CheckpointFormat.PACK_QUANTIZED)
    bits, group = (4, 0) if setting == "W4A16" else (3, 16)
    assert result.artifact.quantization == Quantization(
        weight_bits=bits, activation_bits=16, group_size=group, symmetric=False
    )
    assert torch.equal(logits_of(artifact, TOKENS), models[0](TOKENS).logits)


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        *((setting, {"symmetric": True}) for setting in ("W2A16g8", "W8A16")),
        *((setting, {"layout": "gptq"}) for setting in ("W2A16g8", "W3A16", "W8A16")),
        ("W4A16g16", {"layout": "gptq", "symmetric": True}),
        *((setting, {"layout": "gptq", "act_order": True}) for setting in ("W3A16", "W4A16g16")),
        ("W3A16", {"act_order": True, "static_groups": True}),
        ("W4A16g16", {"layout": "dense"}),
        ("W4A16g16", {"true_sequential": True, "mse": True}),
    ],
    ids=str,
)
def test_what_is_stored_computes_what_the_compressed_model_computes(tmp_path, compress, setting, options, monkeypatch):
    """Each option, and each width in each layout; OPT, whose sizes let every layout hold every width."""
    models = keep_models(monkeypatch)
    family = wide_opt()
    publish_model(tmp_path / "model", family, Dtype.FLOAT16)
    result, artifact, _ = compress(setting, **options)
    assert torch.equal(logits_of(artifact, TOKENS), models[0](TOKENS).logits)
    assert result.artifact.quantization.simulated == (options.get("layout") == "dense")
    assert open_checkpoint(artifact, verify=True) == result.artifact


def wide_opt():
    """Input and output sizes are multiples of 32."""
    model = tiny_model("opt")
    config = type(model.config)(**(model.config.to_dict() | {"ffn_dim": 64}))
    torch.manual_seed(0)
    wide = type(model)(config).eval().requires_grad_(requires_grad=False)
    for parameter in wide.parameters():
        parameter.copy_(parameter.half())
    return wide


@pytest.mark.parametrize(("options", "ordered"), [({"act_order": True}, True), ({}, False)])
def test_readers_of_the_gptq_layout_are_told_when_groups_follow_the_activations(tmp_path, compress, options, ordered):
    publish_model(tmp_path / "model", wide_opt())
    _, artifact, _ = compress("W4A16g16", layout="gptq", **options)
    config = json.loads((artifact / "config.json").read_text())["quantization_config"]
    group_of = tensors_of(artifact)["model.decoder.layers.0.fc2.g_idx"]
    assert config["desc_act"] is ordered
    assert torch.equal(group_of, torch.arange(64, dtype=torch.int32) // 16) is not ordered
    assert sorted(group_of.tolist()) == [column // 16 for column in range(64)]


def test_more_bits_and_smaller_groups_come_closer_to_the_dense_model(tmp_path, compress):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    tokens = tiny_tokens(8, LENGTH, seed=9)
    dense = model(tokens).logits
    changes = [
        float((logits_of(compress(setting)[1], tokens) - dense).square().mean())
        for setting in ("W2A16", "W2A16g8", "W4A16", "W8A16")
    ]
    assert changes == sorted(changes, reverse=True)


def test_each_linear_is_reported_with_its_error(tmp_path, compress):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    result, _, _ = compress("W4A16")
    assert [layer.name for layer in result.layers] == [linear.name for linear in linears_of(decoder_blocks(model))]
    assert all(layer.error > 0 and layer.sparsity is None for layer in result.layers)
    assert result.artifact.sparsity is None
    assert result.artifact.options == {
        "symmetric": False,
        "act_order": True,
        "static_groups": True,
        "true_sequential": True,
        "mse": False,
        "percdamp": 0.01,
        "blocksize": 128,
        "layout": "compressed-tensors",
        "batch_size": 4,
    }


AS_RECOMMENDED = {"act_order": True, "static_groups": True, "true_sequential": True}
AS_THE_PROGRAM = dict.fromkeys(AS_RECOMMENDED, False)


@pytest.mark.parametrize(
    ("family", "asked", "used", "note"),
    [
        ("llama", {}, AS_RECOMMENDED, "act_order true, static_groups true, true_sequential true: the authors' README"),
        ("mistral", {}, AS_RECOMMENDED, "which MistralForCausalLM is built like"),
        ("qwen3", {}, AS_RECOMMENDED, "which Qwen3ForCausalLM is built like"),
        (
            "opt",
            {},
            AS_THE_PROGRAM,
            "act_order false, static_groups false, true_sequential false: the authors' program",
        ),
        ("glm", {}, AS_THE_PROGRAM, "nothing else for GlmForCausalLM"),
        ("llama", {"act_order": False, "true_sequential": False}, AS_THE_PROGRAM, None),
        ("llama", {"static_groups": True}, AS_RECOMMENDED | {"act_order": False}, "true_sequential true: the authors'"),
        ("opt", AS_RECOMMENDED, AS_RECOMMENDED, None),
    ],
)
def test_what_is_left_open_follows_what_the_authors_recommend_for_the_model(
    tmp_path, compress, family, asked, used, note
):
    publish_model(tmp_path / "model", tiny_model(family))
    result, left_open, _ = compress("W4A16g16", **asked)
    assert {name: result.artifact.options[name] for name in used} == used
    notes = [one for one in result.artifact.notes if "the authors' " in one]
    assert len(notes) == (0 if note is None else 1)
    assert all(note in one for one in notes)
    named, _, _ = compress("W4A16g16", **used)
    assert same_weights(left_open, named)


def same_weights(artifact, result):
    files = {entry.sha256 for name, entry in result.artifact.files.items() if name.endswith(".safetensors")}
    return files == {hashlib.sha256(path.read_bytes()).hexdigest() for path in artifact.glob("*.safetensors")}


def test_one_short_sequence_suffices(tmp_path, compress):
    """Far fewer tokens than inputs: only the damping makes the Hessian invertible."""
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, _ = compress("W4A16", length=1)
    assert all(torch.isfinite(torch.tensor(layer.error)) for layer in result.layers)


@pytest.mark.parametrize(
    ("setting", "options", "error", "message"),
    [
        ("W5A16", {}, Unsupported, "2, 3, 4 or 8 bits"),
        ("W4A16", {"layout": "awq"}, BadRequest, "'layout' of gptq cannot be 'awq'"),
        ("W4A16", {"percdamp": -0.1}, BadRequest, "'percdamp'"),
        ("W4A16g16", {"act_order": True}, Unsupported, "no place for groups that follow the order"),
    ],
)
def test_a_setting_or_option_that_cannot_be_used_is_refused(compress, setting, options, error, message):
    with pytest.raises(error, match=message):
        compress(setting, **options)


def test_sizes_that_do_not_fill_the_words_of_the_gptq_layout_are_refused_before_any_work(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    words = r"multiples of 32; model\.layers\.0\.self_attn\.k_proj has 16 outputs"
    with pytest.raises(Unsupported, match=words) as refusal:
        compress("W3A16", layout="gptq")
    assert refusal.value.reason is Reason.SHAPE
