"""What all methods owe, whatever they do: parametrised over the methods that the images offer and that run here."""

import importlib
import io

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from harness.architectures.blocks import KNOWN_ARCHITECTURES, decoder_blocks, linears_of
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointFormat, CompressRequest, Quantization, Reason, Setting
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.methods import run
from harness.methods.job import parse_request
from harness.quantization.activations import attach
from harness.reporter import Reporter
from tests.methods.compress_requests import LENGTH, Requests, calibrates, keep_models, logits_of, parameters_of
from tests.support import offered
from tests.support.offered import METHODS, formats_of, settings_of
from tests.support.tiny_checkpoints import FAMILIES, LAYERS, publish_model, tiny_model, tiny_tokens

SHORTER = {"omniquant": {"epochs": 1}}
"""Options for methods whose defaults take long even here."""
SETTINGS = ("50%", "official-flag:50%", "2:4", "W4A16", "W4A16g16", "W8A8", "W8A8g16", "W4A4", "W16A16")
QUANTIZATION = ("weight_bits", "activation_bits", "group_size")
TOKENS = tiny_tokens(2, LENGTH, seed=9)


def runs_here(name):
    """Whether what it computes with is installed in this environment, and these models fit its shapes."""
    method = importlib.import_module(str(METHODS[name].module))
    try:
        method.parse(parameters_of(name, usual_setting(name))).check(decoder_blocks(tiny_model("llama-wide")))
    except Unsupported as refusal:
        return refusal.reason not in (Reason.METHOD, Reason.SHAPE)
    return True


def parse(name, setting=None, **options):
    return parse_request(parameters_of(name, setting or usual_setting(name), **options))


def usual_setting(name):
    return offered.usual_setting(METHODS[name])


RUN_HERE = [name for name in METHODS if runs_here(name)]
ONE_OF_EACH_ARCHITECTURE = {make.__name__: family for family, (make, *_) in reversed(FAMILIES.items())}
CASES = [
    (name, family)
    for name in RUN_HERE
    for architecture, family in ONE_OF_EACH_ARCHITECTURE.items()
    if family != "opt-post-norm" and architecture in METHODS[name].architectures
]

KINDS = [
    pytest.param(name, setting, options, made, id=f"{name}-{made.value.replace('/', '-')}")
    for name in RUN_HERE
    for made, (setting, options) in formats_of(METHODS[name]).items()
]

CALIBRATING = [name for name in RUN_HERE if calibrates(name)]
WITHOUT_TEXT = [name for name in RUN_HERE if not calibrates(name)]

every_method = pytest.mark.parametrize("name", METHODS)
every_method_that_runs_here = pytest.mark.parametrize("name", RUN_HERE)
every_method_that_calibrates = pytest.mark.parametrize("name", CALIBRATING)
every_method_without_text = pytest.mark.parametrize("name", WITHOUT_TEXT)


every_format = pytest.mark.parametrize(("name", "setting", "options", "made"), KINDS)


class Work(Requests):
    """Requests of the usual kind to one method."""

    def __init__(self, name, folder):
        super().__init__(name, folder)
        self._name = name

    def usual(self, **changes):
        return self(usual_setting(self._name), **(SHORTER.get(self._name, {}) | changes))


@pytest.fixture
def work(name, tmp_path):
    return Work(name, tmp_path)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_what_is_stored_computes_what_the_compressed_model_did_in_memory(tmp_path, work, monkeypatch, name, family):
    models = keep_models(monkeypatch)
    dense = tiny_model(family)
    publish_model(tmp_path / "model", dense)
    result, artifact, _ = work.usual()
    if result.artifact.quantization is not None:
        attach(decoder_blocks(models[0]), result.artifact.quantization)
    stored = logits_of(artifact, TOKENS)
    assert torch.equal(stored, models[0](TOKENS).logits)
    assert not torch.equal(stored, dense(TOKENS).logits)
    assert result.artifact == open_checkpoint(artifact, verify=True)


@every_method_that_runs_here
def test_the_descriptor_says_what_was_done(tmp_path, work, name):
    parent = publish_model(tmp_path / "model", tiny_model("llama"), notes=("a note of the parent",))
    result, artifact, _ = work.usual()
    described, setting = result.artifact, Setting.parse(usual_setting(name))
    asked = parse(name, **SHORTER.get(name, {})).options.model_dump()
    decided = {option: described.options[option] for option, value in asked.items() if value in (None, "auto")}
    calibrated_on = "c4" if calibrates(name) else None
    assert (described.method, described.setting, described.calibrated_on) == (name, setting.name, calibrated_on)
    assert described.options == asked | decided
    assert (described.parent, described.source, described.dtype) == (parent.digest, parent.source, parent.dtype)
    assert described.notes[0] == "a note of the parent"
    assert any("policy crop" in note for note in described.notes) == calibrates(name)
    if setting.weight_bits is not None:
        quantization = described.quantization
        assert (quantization.weight_bits, quantization.activation_bits) == (
            setting.weight_bits,
            setting.activation_bits,
        )
        assert quantization.group_size == setting.group_size
    else:
        removed = (
            described.sparsity.measured
            if described.sparsity
            else 1 - described.parameter_count / parent.parameter_count
        )
        assert removed == pytest.approx(setting.sparsity, abs=0.05)
    assert AutoTokenizer.from_pretrained(artifact)("w0")["input_ids"] == [3]


@every_method_that_runs_here
def test_progress_reaches_its_end_and_nothing_but_the_artifact_is_left(tmp_path, work, name):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    result, artifact, events = work.usual()
    last = {event["unit"]: event for event in events if event["event"] == "progress"}
    assert last
    assert all(event["done"] == event["total"] for event in last.values())
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]
    names = [linear.name for linear in linears_of(decoder_blocks(model))]
    assert [layer.name for layer in result.layers] in ([], names)
    assert result.cost.memory.peak_memory_bytes > 0


@every_method_that_runs_here
def test_the_same_request_gives_the_same_checkpoint(tmp_path, work, name):
    publish_model(tmp_path / "model", tiny_model("qwen3"))
    first, second = (work.usual()[0].artifact for _ in range(2))
    assert first.digest == second.digest


@every_format
def test_an_interrupted_request_goes_on_to_the_same_checkpoint(tmp_path, work, name, setting, options, made):
    asked = SHORTER.get(name, {}) | options
    publish_model(tmp_path / "model", tiny_model("opt"))
    whole, _, events = work(setting, **asked)
    by_blocks = any(event.get("unit") == "layer" for event in events)
    output = work.new_output()
    with pytest.raises(Killed):
        work(setting, output=output, stream=EndsAtTheLastStep(), **asked)
    assert not (output / "artifact").exists()
    resumed, _, _ = work(setting, output=output, **asked)
    assert (whole.artifact.format, resumed.artifact.digest) == (made, whole.artifact.digest)
    assert (resumed.cost.resumed_blocks, whole.cost.resumed_blocks) == (LAYERS - 1 if by_blocks else 0, 0)


@every_method_that_runs_here
def test_another_request_does_not_go_on_from_what_is_left(tmp_path, work, name):
    publish_model(tmp_path / "model", tiny_model("qwen2"))
    output = work.new_output()
    with pytest.raises(Killed):
        work.usual(output=output, stream=EndsAtTheLastStep())
    publish_model(tmp_path / "model2", tiny_model("qwen2", seed=1))
    (tmp_path / "model").rename(tmp_path / "before")
    (tmp_path / "model2").rename(tmp_path / "model")
    other, _, _ = work.usual(output=output)
    assert other.cost.resumed_blocks == 0
    assert other.artifact.digest == work.usual()[0].artifact.digest


class Killed(Exception):
    """Stands for whatever ends an attempt."""


class EndsAtTheLastStep(io.StringIO):
    """Ends the attempt at the event that all but the last of something is done."""

    def write(self, line):
        if f'"done":{LAYERS - 1},"total":{LAYERS},' in line or '"done":0,"total":1,' in line:
            raise Killed
        return super().write(line)


@every_method_that_calibrates
def test_two_tokens_a_sequence_suffice(tmp_path, work, name):
    publish_model(tmp_path / "model", tiny_model("llama"))
    _, artifact, _ = work.usual(length=2)
    assert torch.isfinite(logits_of(artifact, TOKENS)).all()


@every_method_that_runs_here
def test_dead_channels_and_rows_of_zeros_do_no_harm(tmp_path, work, name):
    model = tiny_model("opt")
    for block in decoder_blocks(model):
        for norm in (block.input_norm, block.mlp_norm):
            norm.weight[5] = 0
            norm.bias[5] = 0
        for linear in block.linears:
            linear.module.weight[2] = 0
            linear.module.weight[:, 7] = 0
    publish_model(tmp_path / "model", model)
    _, artifact, _ = work.usual()
    assert torch.isfinite(logits_of(artifact, TOKENS)).all()


@every_method
def test_an_unknown_option_is_refused_and_the_nearest_is_named(name):
    for option in parse(name).options.model_dump():
        with pytest.raises(BadRequest, match=f"{name} has no option '{option}s'.*did you mean '") as refusal:
            parse(name, **{f"{option}s": 1})
        assert option in refusal.value.hint


@every_method
def test_a_value_that_an_option_cannot_have_is_refused_by_its_name(name):
    for option in parse(name).options.model_dump():
        with pytest.raises(BadRequest, match=f"'{option}.*' of {name} cannot be 'not a value of it'"):
            parse(name, **{option: "not a value of it"})


@every_method
def test_the_image_names_architectures_that_the_harness_knows(name):
    assert set(METHODS[name].architectures) <= set(KNOWN_ARCHITECTURES)


@every_method
def test_every_setting_that_the_image_offers_is_taken(name):
    for setting in settings_of(METHODS[name]):
        assert parse(name, setting).options.model_dump().keys() == parse(name).options.model_dump().keys()


@every_method
def test_a_setting_of_another_kind_is_refused_before_anything_is_read(name):
    method = METHODS[name]
    offered = {kind_of(setting) for setting in settings_of(method)}
    others = [setting for setting in SETTINGS if kind_of(setting) not in offered]
    assert others
    for setting in others:
        with pytest.raises(Unsupported, match=f"(?i){name}.* '{setting}'") as refusal:
            parse(name, setting)
        assert refusal.value.reason is Reason.SETTING
        assert refusal.value.hint


def kind_of(setting):
    parsed = Setting.parse(setting)
    if parsed.weight_bits is None:
        return "flag" if parsed.official_flag else "pattern" if parsed.zeros_of else "ratio"
    return parsed.activation_bits if parsed.activation_bits == 16 else f"{parsed.weight_bits}", parsed.group_size > 0


@every_method_that_runs_here
def test_a_compressed_checkpoint_is_refused(tmp_path, work, name):
    packed = {"format": CheckpointFormat.GPTQ, "quantization": Quantization(weight_bits=4, activation_bits=16)}
    publish_model(tmp_path / "model", tiny_model("llama"), **packed)
    with pytest.raises(Unsupported, match=f"{name} compresses dense checkpoints, and this one is gptq") as refusal:
        work.usual()
    assert refusal.value.reason is Reason.FORMAT


@every_method_that_calibrates
def test_sequences_beyond_the_context_are_refused(tmp_path, work, name):
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(BadRequest, match="sequences of 65 tokens exceed the model's context of 64"):
        work.usual(length=65)


@every_method_that_runs_here
def test_an_architecture_that_is_not_known_is_refused_by_its_name(tmp_path, work, name):
    shape = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    publish_model(tmp_path / "model", GPT2LMHeadModel(GPT2Config(**shape)))
    with pytest.raises(Unsupported, match="GPT2LMHeadModel") as refusal:
        work.usual()
    assert refusal.value.reason is Reason.ARCHITECTURE


@every_method_that_runs_here
def test_a_group_that_divides_no_input_is_refused_with_the_layers(tmp_path, work, name):
    if not METHODS[name].any_group:
        with pytest.raises((Unsupported, BadRequest), match="W4A16g5"):
            work("W4A16g5")
        return
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(Unsupported, match=r"multiples of 5; 21 linear\(s\).*self_attn\.k_proj \(32\)") as refusal:
        work("W4A16g5", **SHORTER.get(name, {}))
    assert refusal.value.reason is Reason.SHAPE
    assert "16, 8, 4" in refusal.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@every_method_that_runs_here
def test_a_damaged_weight_is_refused_by_the_name_of_its_block(tmp_path, work, name, value):
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight[3, 3] = value
    publish_model(tmp_path / "model", model)
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1[. ]"):
        work.usual()


@every_method_that_calibrates
def test_a_damaged_norm_is_refused_by_the_name_of_its_block(tmp_path, work, name):
    model = tiny_model("llama")
    model.model.layers[1].input_layernorm.weight[3] = float("nan")
    publish_model(tmp_path / "model", model)
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1[. ]"):
        work.usual()


@every_method_that_runs_here
def test_a_missing_input_is_named(tmp_path, name):
    publish_model(tmp_path / "model", tiny_model("llama"))
    there, missing = ("checkpoint", "calibration") if calibrates(name) else ("other", "checkpoint")
    request = CompressRequest(
        id="request",
        inputs={there: str(tmp_path / "model")},
        output=str(tmp_path),
        parameters=parameters_of(name, usual_setting(name)),
    )
    with pytest.raises(BadRequest, match=f"'{missing}'"):
        run(request, Reporter(io.StringIO()))


@every_method
def test_calibration_is_asked_for_exactly_where_the_image_has_it(name):
    asked = parameters_of(name, usual_setting(name))
    text = None if calibrates(name) else parameters_of("wanda", "50%").calibration
    why = "needs calibration text, and the request names none" if calibrates(name) else "looks at weights alone"
    with pytest.raises(BadRequest, match=f"{name} {why}"):
        parse_request(asked.model_copy(update={"calibration": text}))


@every_method_without_text
def test_a_method_without_text_does_not_run_the_model(work, name, tmp_path, monkeypatch):
    publish_model(tmp_path / "model", tiny_model("llama"))

    def forward(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    monkeypatch.setattr(torch.nn.Embedding, "forward", forward)
    result, _, _ = work.usual()
    assert result.layers
