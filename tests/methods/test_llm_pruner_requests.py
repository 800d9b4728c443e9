"""Whole LLM-Pruner requests on tiny models of every family: what is cut, what loads, what is refused."""

import io
import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from harness.architectures.pruned_shapes import model_class, read_layer_widths
from harness.architectures.shape import read_shape
from harness.checkpoint import open_checkpoint, publish, read_config
from harness.contract import Calibration, CompressParameters, CompressRequest, Device, Dtype, Reason, Setting
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.methods import job, run
from harness.profiling.macs import SHAPE, count_macs
from harness.reporter import Reporter
from tests.methods.compress_requests import keep_models
from tests.support.tiny_checkpoints import (
    FAMILIES,
    LAYERS,
    publish_model,
    publish_rows,
    tiny_model,
    tiny_text,
    tiny_tokens,
)

SAMPLES, LENGTH = 4, 12
UNCUT_HEADS = ("opt", "opt-post-norm")


@pytest.fixture
def compress(tmp_path):
    """Compress the published folder `model`; returns the result, the artifact's folder and the events."""
    publish_rows(tmp_path / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])
    runs = iter(range(100))

    def work(setting="20%", **options):
        output = tmp_path / f"out{next(runs)}"
        output.mkdir()
        request = CompressRequest(
            id="request",
            device=Device(threads=1),
            inputs={"checkpoint": str(tmp_path / "model"), "calibration": str(tmp_path / "c4")},
            output=str(output),
            parameters=CompressParameters(
                method="llm-pruner",
                setting=Setting.parse(setting),
                calibration=Calibration(dataset="c4", samples=SAMPLES, sequence_length=LENGTH, seed=42),
                options=options,
            ),
        )
        events = io.StringIO()
        result = run(request, Reporter(events))
        return result, output / "artifact", [json.loads(line) for line in events.getvalue().splitlines()]

    return work


@pytest.fixture
def in_memory(monkeypatch):
    """The models that requests loaded and pruned, in order."""
    return keep_models(monkeypatch)


def stock(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def ours(folder):
    model, report = model_class(folder).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def products_counted(model):
    """Counts the multiply-accumulates of the linears, and of the attention by its head count, as they happen."""
    total = [0]

    def add(module, arguments, output):
        total[0] += output.numel() * module.in_features

    handles = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, torch.nn.Linear)]
    yield total
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_transformers_loads_the_pruned_model_with_the_logits_of_the_one_in_memory(
    tmp_path, compress, in_memory, family
):
    dense = tiny_model(family)
    parent = publish_model(tmp_path / "model", dense)
    result, artifact, _ = compress("30%")
    loaded, tokens = stock(artifact), tiny_tokens(2, LENGTH)
    assert torch.equal(loaded(tokens).logits, in_memory[0](tokens).logits)
    assert result.artifact == open_checkpoint(artifact, verify=True)
    assert result.artifact.parameter_count == count(loaded) < parent.parameter_count
    assert 1 - count(loaded) / count(dense) == pytest.approx(0.3, abs=0.02)
    assert result.artifact.architecture == type(loaded).__name__
    assert result.artifact.sparsity is None
    config = loaded.config
    assert (config.num_attention_heads == 4) == (family in UNCUT_HEADS)
    text = tiny_text(5, 3)
    assert AutoTokenizer.from_pretrained(artifact)(text) == AutoTokenizer.from_pretrained(tmp_path / "model")(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_outside_the_range_keep_their_widths_and_this_harness_loads_what_is_left(
    tmp_path, compress, in_memory, family
):
    publish_model(tmp_path / "model", tiny_model(family))
    result, artifact, _ = compress("official-flag:50%", first_layer=1, last_layer=2)
    widths = read_layer_widths(read_config(artifact))
    dense_heads = (4, FAMILIES[family][2].get("num_key_value_heads", 4))
    assert [(one.heads, one.key_value_heads) for one in widths] == [
        dense_heads,
        (dense_heads[0] // 2, dense_heads[1] // 2),
        dense_heads,
    ]
    assert [one.intermediate_size for one in widths] == [48, 24, 48]
    loaded, tokens = ours(artifact), tiny_tokens(2, LENGTH)
    assert torch.equal(loaded(tokens).logits, in_memory[0](tokens).logits)
    mask = torch.ones_like(tokens)
    generated = loaded.generate(
        tokens, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=1
    )
    following = loaded(generated).logits[:, LENGTH - 1 : -1].argmax(-1)
    assert torch.equal(generated[:, LENGTH:], following)
    assert result.artifact.architecture == type(tiny_model(family)).__name__
    assert any("no other reader or engine does" in note for note in result.artifact.notes)
    assert not any("costs accuracy" in note for note in result.artifact.notes)
    with pytest.raises(RuntimeError, match="size"):
        stock(artifact)


def test_what_stays_are_whole_rows_and_columns_of_the_parent(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("qwen2"))
    _, artifact, _ = compress("30%")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", artifact))
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.{{}}"
        query, key = (name.format(f"self_attn.{part}_proj") for part in "qk")
        heads = [h for h in range(2) if (before[f"{key}.weight"][8 * h : 8 * h + 8] == after[f"{key}.weight"]).all()]
        assert len(heads) == 1
        rows = slice(16 * heads[0], 16 * heads[0] + 16)
        assert torch.equal(before[f"{query}.weight"][rows], after[f"{query}.weight"])
        assert torch.equal(before[f"{query}.bias"][rows], after[f"{query}.bias"])
        output = name.format("self_attn.o_proj.weight")
        assert torch.equal(before[output][:, rows], after[output])
        gate, up, down = (name.format(f"mlp.{part}_proj.weight") for part in ("gate", "up", "down"))
        kept = [before[gate].tolist().index(row) for row in after[gate].tolist()]
        assert kept == sorted(kept)
        assert torch.equal(before[up][kept], after[up])
        assert torch.equal(before[down][:, kept], after[down])
    untouched = [name for name in before if "layers" not in name or "norm" in name]
    assert untouched
    assert all(torch.equal(before[name], after[name]) for name in untouched)


def test_a_fused_gate_and_up_projection_loses_its_rows_in_pairs(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("glm4"))
    _, artifact, _ = compress("30%")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", artifact))
    fused, down = (f"model.layers.0.mlp.{part}.weight" for part in ("gate_up_proj", "down_proj"))
    width = after[down].shape[1]
    kept = [before[down].T.tolist().index(column) for column in after[down].T.tolist()]
    assert after[fused].shape[0] == 2 * width < 96
    assert torch.equal(after[fused], torch.cat([before[fused][:48][kept], before[fused][48:][kept]]))


def eight_heads(**changes):
    """A Llama whose heads divide its hidden size, but not after a quarter of them went."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        "pad_token_id": 1,
        "eos_token_id": 1,
        "bos_token_id": 0,
    }
    model = LlamaForCausalLM(LlamaConfig(**(shape | changes)))
    return model.eval().requires_grad_(requires_grad=False)


def byte_llama_tokenizer():
    """A tokenizer of the class that Llama checkpoints name: bytes, some merges, the space as a letter."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"w0123456789", "▁w", "▁w1"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return LlamaTokenizer(vocab=vocabulary, merges=[("▁", "w"), ("▁w", "1")])


def test_the_tokens_stay_the_same_where_the_model_type_changes(tmp_path, compress):
    publish_model(tmp_path / "model", eight_heads(vocab_size=280), Dtype.FLOAT32)
    tokenizer = byte_llama_tokenizer()
    (tmp_path / "llama").mkdir()
    tokenizer.save_pretrained(tmp_path / "llama")
    parent = open_checkpoint(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "staging")
    for path in (tmp_path / "llama").iterdir():
        path.rename(tmp_path / "staging" / path.name)
    publish(tmp_path / "staging", tmp_path / "model", lambda files: parent.model_copy(update={"files": files}))
    _, artifact, _ = compress("25%")
    assert read_config(artifact)["model_type"] == "mistral"
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "model", artifact))
    for text in ("w1 w2  w12", " w1\n\nw1é", "<s>w1</s> w1", ""):
        assert after(text)["input_ids"] == before(text)["input_ids"]
        assert after.decode(after(text)["input_ids"]) == before.decode(before(text)["input_ids"])
    assert len(before("w1 w1")["input_ids"]) < 5


def test_a_llama_with_biases_keeps_a_number_of_heads_that_its_own_class_allows(tmp_path, compress, in_memory):
    publish_model(tmp_path / "model", eight_heads(attention_bias=True, mlp_bias=True), Dtype.FLOAT32)
    _, artifact, _ = compress("35%")
    config = read_config(artifact)
    assert (config["model_type"], config["num_attention_heads"]) == ("llama", 4)
    tokens = tiny_tokens(2, 10)
    assert torch.equal(stock(artifact)(tokens).logits, in_memory[0](tokens).logits)


def test_a_llama_whose_heads_do_not_divide_its_hidden_size_is_written_as_the_mistral_that_it_equals(
    tmp_path, compress, in_memory
):
    publish_model(tmp_path / "model", eight_heads(), Dtype.FLOAT32)
    result, artifact, _ = compress("25%")
    config = read_config(artifact)
    assert 32 % config["num_attention_heads"]
    assert (config["model_type"], config["architectures"]) == ("mistral", ["MistralForCausalLM"])
    assert (config["sliding_window"], config["head_dim"]) == (None, 4)
    assert result.artifact.architecture == "MistralForCausalLM"
    assert any("do not divide" in note for note in result.artifact.notes)
    tokens = tiny_tokens(2, 40)
    assert torch.equal(stock(artifact)(tokens).logits, in_memory[0](tokens).logits)


@pytest.mark.parametrize("options", [{}, {"export": "original", "first_layer": 1, "last_layer": 3}], ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "glm", "opt"])
def test_the_multiply_accumulates_are_those_of_the_pruned_linears(tmp_path, compress, family, options):
    publish_model(tmp_path / "model", tiny_model(family))
    _, artifact, _ = compress("15%", **options)
    model = ours(artifact)
    shape = read_shape(read_config(artifact))
    with products_counted(model) as total:
        model(tiny_tokens(1, 16))
    heads = sum(block.self_attn.o_proj.in_features // 8 for block in model.model.layers) if family != "opt" else None
    if heads is None:
        heads = sum(block.self_attn.out_proj.in_features // 8 for block in model.model.decoder.layers)
    assert count_macs(shape, 16)[SHAPE] == total[0] + 2 * heads * 8 * 16**2
    assert shape.decoder_weights == sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers" in name
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"importance": "random"},
        {"taylor": "param_mix"},
        {"export": "original", "global_pruning": True},
    ],
    ids=str,
)
def test_the_same_request_gives_the_same_checkpoint(tmp_path, compress, options):
    publish_model(tmp_path / "model", tiny_model("mistral"))
    first, second = (compress("20%", **options)[0].artifact for _ in range(2))
    assert first.digest == second.digest


@pytest.mark.parametrize(
    "options",
    [{"importance": name} for name in ("l1", "l2", "random")]
    + [{"taylor": name} for name in ("param_second", "param_mix", "vectorize")]
    + [{"grouping": name} for name in ("max", "prod", "first", "mean")]
    + [{"iterative_steps": 3}, {"multiple": 8}],
    ids=str,
)
def test_every_way_to_choose_removes_as_much(tmp_path, compress, options):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, artifact, _ = compress("20%", **options)
    plain, _, _ = compress("20%")
    dense = open_checkpoint(tmp_path / "model").parameter_count
    assert 1 - result.artifact.parameter_count / dense == pytest.approx(0.2, abs=0.04)
    if "multiple" not in options:
        assert result.artifact.parameter_count == plain.artifact.parameter_count
    assert stock(artifact).config.intermediate_size % options.get("multiple", 2) == 0


def test_pruning_all_layers_against_one_threshold_removes_the_ratio_unevenly(tmp_path, compress):
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight.mul_(1 / 64)
    publish_model(tmp_path / "model", model)
    result, artifact, _ = compress("15%", export="original", global_pruning=True, importance="l1", multiple=4)
    widths = read_layer_widths(read_config(artifact))
    dense = open_checkpoint(tmp_path / "model").parameter_count
    assert 1 - result.artifact.parameter_count / dense == pytest.approx(0.15, abs=0.01)
    assert widths[1].intermediate_size < min(widths[0].intermediate_size, widths[2].intermediate_size)
    assert count(ours(artifact)) == result.artifact.parameter_count


def test_the_descriptor_states_target_and_achieved_share_and_every_option(tmp_path, compress):
    parent = publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, events = compress("20%")
    after = result.artifact.parameter_count
    achieved = 1 - after / parent.parameter_count
    (stated,) = [note for note in result.artifact.notes if note.startswith("pruning: target")]
    assert any("costs accuracy against the authors' choice of layers" in note for note in result.artifact.notes)
    assert f"target 20.00% of the parameters, removed {achieved:.2%}" in stated
    assert f"{parent.parameter_count} parameters before, {after} after" in stated
    assert (result.artifact.method, result.artifact.setting) == ("llm-pruner", "20%")
    assert result.artifact.options["taylor"] == "param_first"
    assert any(note.startswith("recovery: none") for note in result.artifact.notes)
    assert result.cost.recovery_seconds is None
    steps = [event for event in events if event["event"] == "progress" and event["unit"] == "pruning step"]
    assert (steps[-1]["done"], steps[-1]["total"]) == (1, 1)


def test_each_linear_is_reported_with_the_share_of_it_that_went(tmp_path, compress):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    result, artifact, _ = compress("30%")
    pruned = load_file(artifact / "model.safetensors")
    assert len(result.layers) == 7 * LAYERS
    for layer in result.layers:
        left = pruned[f"{layer.name}.weight"].numel() / model.get_submodule(layer.name).weight.numel()
        assert layer.sparsity == pytest.approx(1 - left)
        assert layer.sparsity > 0


def test_a_sharded_checkpoint_keeps_its_shards(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"), shard_size="30KB")
    _, artifact, _ = compress("20%")
    names = {path.name for path in (tmp_path / "model").glob("*.safetensors")}
    assert len(names) > 1
    assert {path.name for path in artifact.glob("*.safetensors")} == names
    assert stock(artifact).config.intermediate_size < 48


def test_dead_channels_go_first_and_all_zero_rows_do_no_harm(tmp_path, compress):
    model = tiny_model("llama")
    dead = [1, 5, 30]
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight[dead] = 0
        layer.mlp.up_proj.weight[dead] = 0
    publish_model(tmp_path / "model", model)
    _, artifact, _ = compress("20%")
    for name, weight in load_file(artifact / "model.safetensors").items():
        if "gate_proj" in name:
            assert not (weight == 0).all(1).any()


@pytest.mark.parametrize("importance", ["taylor", "l1"])
def test_a_damaged_weight_is_named(tmp_path, compress, importance):
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    publish_model(tmp_path / "model", model)
    with pytest.raises(BadCheckpoint, match=r"weight of model\.layers\.1\.mlp\.up_proj holds NaN"):
        compress(importance=importance)


@pytest.mark.parametrize(
    ("family", "setting", "options", "message"),
    [
        ("opt", "70%", {}, "at most"),
        ("opt", "official-flag:50%", {"export": "uniform"}, "cannot have 2 key-value heads"),
        ("llama", "0.1%", {"multiple": 16}, "nothing would be removed"),
        ("llama", "95%", {}, "cannot be removed"),
        ("llama", "60%", {"export": "original", "first_layer": 1, "last_layer": 2}, "cannot be removed from 1 of 3"),
        ("llama", "20%", {"export": "original", "first_layer": 2, "last_layer": 2}, "are not among"),
        ("llama", "20%", {"export": "original", "last_layer": 4}, "are not among"),
        ("llama", "official-flag:99%", {}, "without heads or channels"),
    ],
)
def test_what_the_shapes_do_not_allow_is_refused(tmp_path, compress, family, setting, options, message):
    publish_model(tmp_path / "model", tiny_model(family))
    with pytest.raises(Unsupported, match=message) as refusal:
        compress(setting, **options)
    assert refusal.value.reason is Reason.SHAPE
    assert refusal.value.hint


def test_a_model_that_was_pruned_before_is_refused(tmp_path, compress, monkeypatch):
    publish_model(tmp_path / "model", tiny_model("llama"))
    _, artifact, _ = compress("official-flag:50%", first_layer=1, last_layer=2)
    (tmp_path / "model").rename(tmp_path / "first")
    artifact.rename(tmp_path / "model")
    model = ours(tmp_path / "model")

    class Loaded:
        descriptor = open_checkpoint(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        device = torch.device("cpu")

    Loaded.model = model
    monkeypatch.setattr(job, "load_model", lambda *_, **__: Loaded)
    with pytest.raises(Unsupported, match="differ in width"):
        compress("20%")


@pytest.mark.parametrize(
    ("setting", "options", "error", "message"),
    [
        ("20%", {"global_pruning": True}, BadRequest, "export: original"),
        ("official-flag:20%", {"global_pruning": True}, BadRequest, "needs a ratio"),
        ("20%", {"first_layer": 1}, BadRequest, "first_layer"),
    ],
)
def test_a_setting_or_option_that_cannot_be_used_is_refused_before_anything_is_read(
    compress, setting, options, error, message
):
    with pytest.raises(error) as refusal:
        compress(setting, **options)
    assert message in f"{refusal.value.message} {refusal.value.hint}"
