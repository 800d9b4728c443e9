"""The training after pruning: what is learnt, that it helps, that a killed one ends the same."""

import io
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.contract import Calibration, CompressParameters, CompressRequest, Device, Dtype, Setting
from harness.errors import BadRequest
from harness.methods import run
from harness.methods.llm_pruner import recovery as training
from harness.methods.llm_pruner.lora import Adapters
from harness.methods.llm_pruner.recovery import RecoveryOptions, recover
from harness.methods.llm_pruner.recovery_rows import IGNORED, collate, read_examples
from harness.reporter import Reporter
from tests.methods.pruning_contexts import make_context
from tests.support.tiny_checkpoints import publish_model, publish_rows, tiny_model, tiny_tokenizer, tiny_tokens

QUICK = {
    "recovery_epochs": 2,
    "recovery_learning_rate": 0.02,
    "recovery_batch_size": 8,
    "recovery_micro_batch_size": 4,
    "recovery_cutoff_tokens": 32,
    "recovery_evaluation_steps": 4,
    "lora_rank": 4,
}


def instructions(count):
    """Rows with a rule to learn: the answer repeats one word, which the instruction names."""
    return [
        {"instruction": f"w{one % 9} w{one % 9}", "input": "" if one % 2 else "w20", "output": f"w{one % 9} " * 3}
        for one in range(count)
    ]


@pytest.fixture
def rows(tmp_path):
    publish_rows(tmp_path / "alpaca", "alpaca", instructions(60))
    return tmp_path / "alpaca"


@pytest.fixture
def train(tmp_path, rows):
    """Train a fresh tiny model; returns it and what `recover` said."""
    runs = iter(range(20))

    def work(folder=None, family="llama", inputs=None, **options):
        model = tiny_model(family)
        place = folder or tmp_path / f"run{next(runs)}"
        given = {"recovery": rows} if inputs is None else inputs
        context = make_context(model, tiny_tokens(2, 8), place, tokenizer=tiny_tokenizer(), inputs=given)
        return model, recover(context, RecoveryOptions(**(QUICK | options)), 3)

    return work


def weights(model):
    return {name: parameter.clone() for name, parameter in model.named_parameters()}


@cache
def held_out(rows):
    examples = read_examples(rows, tiny_tokenizer(), cutoff=32, validation_rows=2000, seed=3)
    return collate(examples.validation, torch.device("cpu"))


def held_out_loss(model, rows):
    tokens, labels = held_out(rows)
    with torch.no_grad():
        logits = model(tokens).logits
    return float(cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED))


def test_only_the_answers_tokens_are_learnt_and_padding_never(rows):
    tokenizer = tiny_tokenizer()
    examples = read_examples(rows, tokenizer, cutoff=32, validation_rows=5, seed=0)
    assert (len(examples.training), len(examples.validation), examples.dropped) == (55, 5, 0)
    tokens, labels = collate(examples.training[:3], torch.device("cpu"))
    assert tokens.shape == labels.shape
    assert tokens.shape[1] % 8 == 0
    for row, example in enumerate(examples.training[:3]):
        learnt = labels[row][labels[row] != IGNORED].tolist()
        assert tokenizer.decode(learnt[:3]).split() == [tokenizer.decode([learnt[0]])] * 3
        assert learnt[3:] == [tokenizer.eos_token_id]
        assert labels[row, example.answer : len(example.tokens)].tolist() == learnt
        assert example.learnt == 4


def test_a_row_whose_answer_lies_beyond_the_cutoff_is_left_out_and_counted(tmp_path):
    long = {"instruction": "w1 " * 40, "input": "", "output": "w2"}
    publish_rows(tmp_path / "set", "alpaca", [*instructions(10), long])
    examples = read_examples(tmp_path / "set", tiny_tokenizer(), cutoff=16, validation_rows=5, seed=0)
    assert examples.dropped == 1
    assert len(examples.training) + len(examples.validation) == 10


def test_plain_texts_are_learnt_whole(tmp_path):
    publish_rows(tmp_path / "set", "stories", [{"text": f"w{one} w1 w2"} for one in range(10)])
    examples = read_examples(tmp_path / "set", tiny_tokenizer(), cutoff=16, validation_rows=5, seed=0)
    assert all(example.answer == 0 and example.learnt == 3 for example in examples.training)


def test_too_few_rows_are_refused(tmp_path, train):
    publish_rows(tmp_path / "set", "alpaca", instructions(1))
    with pytest.raises(BadRequest, match="1 row"):
        train(inputs={"recovery": tmp_path / "set"})


@pytest.mark.parametrize("family", ["llama", "qwen2", "glm", "opt"])
def test_training_lowers_the_loss_on_held_out_rows_and_touches_the_decoder_linears_alone(rows, train, family):
    before = weights(tiny_model(family))
    loss_before = held_out_loss(tiny_model(family), rows)
    model, said = train(family=family)
    after = weights(model)
    assert held_out_loss(model, rows) < 0.8 * loss_before
    linears = {f"{one.name}.weight" for one in linears_of(decoder_blocks(model))}
    assert {name for name in before if not torch.equal(before[name], after[name])} == linears
    assert said.seconds > 0
    assert any("54 rows of alpaca, 2 epochs, 14 steps" in note for note in said.notes)


@pytest.mark.parametrize("micro_batch_size", [2, 64])
def test_a_step_follows_the_mean_loss_of_all_learnt_tokens_of_its_batch(tmp_path, train, monkeypatch, micro_batch_size):
    answers = [{"instruction": "w1", "input": "", "output": f"w{one} " * (1 + 4 * (one % 3))} for one in range(9)]
    publish_rows(tmp_path / "set", "alpaca", answers)
    seen = []

    def clip(parameters, _):
        seen.extend(one.grad.clone() for one in parameters)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    batch = {"recovery_epochs": 1, "recovery_batch_size": 64, "recovery_micro_batch_size": micro_batch_size}
    train(inputs={"recovery": tmp_path / "set"}, lora_dropout=0.0, **batch)

    model = tiny_model("llama").requires_grad_()
    examples = read_examples(tmp_path / "set", tiny_tokenizer(), cutoff=32, validation_rows=2000, seed=3)
    assert len({one.learnt for one in examples.training}) > 1
    tokens, labels = collate(examples.training, torch.device("cpu"))
    logits = model(tokens).logits[:, :-1].flatten(0, 1)
    cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED).backward()
    linears = linears_of(decoder_blocks(model))
    adapters = Adapters(linears, QUICK["lora_rank"], 16.0, 0.0, seed=3).values()
    scale = 16.0 / QUICK["lora_rank"]
    expected = [scale * one.module.weight.grad @ adapters[f"{one.name}.down"].T for one in linears]
    for found, wanted in zip(seen[1::2], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_the_loss_that_is_reported_is_the_merged_models(rows, train):
    model, said = train()
    stated = float(said.notes[0].split("loss of ")[1].split(",")[0])
    assert held_out_loss(model, rows) == pytest.approx(stated, abs=2e-3)


def test_the_adapters_of_the_best_evaluation_are_kept(rows, train, monkeypatch):
    losses = []
    plain = training._Training._evaluate

    def listening(self):
        plain(self)
        losses.append(held_out_loss(self._context.model, rows))

    monkeypatch.setattr(training._Training, "_evaluate", listening)
    model, said = train(recovery_learning_rate=0.1, recovery_epochs=8, lora_alpha=64.0, recovery_evaluation_steps=1)
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == 56
    assert best < 55
    assert f"of step {best + 1} with" in said.notes[0]
    assert held_out_loss(model, rows) == pytest.approx(losses[best], abs=2e-3)


def test_merging_gives_what_the_attached_adapters_gave():
    model, tokens = tiny_model("llama"), tiny_tokens(2, 8)
    adapters = Adapters(linears_of(decoder_blocks(model)), rank=4, alpha=8, dropout_share=0.5, seed=0).eval()
    plain = model(tokens).logits
    with adapters.attached():
        assert torch.equal(model(tokens).logits, plain)
        for name, value in adapters.values().items():
            if name.endswith("up"):
                value.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
        changed = model(tokens).logits
    assert torch.equal(model(tokens).logits, plain)
    adapters.merge(torch.float32)
    assert not torch.allclose(changed, plain, atol=1e-2)
    assert torch.allclose(model(tokens).logits, changed, atol=1e-4)


def test_the_same_training_gives_the_same_weights(train):
    first, second = (weights(train()[0]) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("killed_at", [1, 5, 13])
def test_a_killed_training_goes_on_and_ends_bit_for_bit_the_same(tmp_path, train, monkeypatch, killed_at):
    expected = weights(train()[0])
    monkeypatch.setattr(training, "_SAVE_SECONDS", 0.0)
    plain = training._Training._train

    class Killed(BaseException):
        pass

    def dying(self, step, *rest):
        if step == killed_at:
            raise Killed
        plain(self, step, *rest)

    monkeypatch.setattr(training._Training, "_train", dying)
    with pytest.raises(Killed):
        train(folder=tmp_path / "run")
    monkeypatch.setattr(training._Training, "_train", plain)
    model, said = train(folder=tmp_path / "run")
    assert all(torch.equal(expected[name], value) for name, value in weights(model).items())
    assert any(f"taken up at step {killed_at}" in note for note in said.notes)


def test_the_state_of_a_training_on_other_rows_is_not_taken_up(tmp_path, train, monkeypatch):
    monkeypatch.setattr(training, "_SAVE_SECONDS", 0.0)
    publish_rows(tmp_path / "other", "alpaca", instructions(40))
    for inputs, is_taken_up in (({}, True), ({"recovery": tmp_path / "other"}, False)):
        folder = tmp_path / f"run-{is_taken_up}"
        train(folder=folder)
        _, said = train(folder=folder, inputs=inputs or None)
        assert any("taken up" in note for note in said.notes) is is_taken_up


def test_recovery_without_data_is_left_out_or_refused_as_the_option_says(train):
    dense = weights(tiny_model("llama"))
    for options, start in [({}, "recovery: none, since"), ({"recovery": False}, "recovery: none")]:
        model, said = train(inputs={}, **options)
        assert said.seconds is None
        assert said.notes[0].startswith(start)
        assert all(torch.equal(dense[name], value) for name, value in weights(model).items())
    with pytest.raises(BadRequest, match="no data set to train on"):
        train(inputs={}, recovery=True)


def test_data_is_not_trained_on_where_the_option_says_no(rows, train):
    model, said = train(recovery=False)
    dense = weights(tiny_model("llama"))
    assert said.notes == ("recovery: none, as asked",)
    assert all(torch.equal(dense[name], value) for name, value in weights(model).items())


def test_a_training_that_diverges_is_refused(train):
    with pytest.raises(BadRequest, match="not finite"):
        train(recovery_learning_rate=1e30)


def test_a_request_with_recovery_data_stores_the_trained_weights_and_times_them_apart(tmp_path, rows):
    publish_model(tmp_path / "model", tiny_model("mistral"))
    publish_rows(tmp_path / "c4", "c4", [{"text": "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 " * 3}] * 8)
    made = []
    for inputs in ({}, {"recovery": str(rows)}):
        output = tmp_path / f"out{len(made)}"
        output.mkdir()
        request = CompressRequest(
            id="request",
            device=Device(threads=1),
            inputs={"checkpoint": str(tmp_path / "model"), "calibration": str(tmp_path / "c4"), **inputs},
            output=str(output),
            parameters=CompressParameters(
                method="llm-pruner",
                setting=Setting.parse("20%"),
                calibration=Calibration(dataset="c4", samples=4, sequence_length=12, seed=1),
                options=QUICK,
            ),
        )
        made.append((run(request, Reporter(io.StringIO())), load_file(output / "artifact" / "model.safetensors")))
    (plain, untrained), (trained, recovered) = made
    assert plain.cost.recovery_seconds is None
    assert trained.cost.recovery_seconds > 0
    assert trained.cost.compress_seconds >= 0
    assert untrained.keys() == recovered.keys()
    assert {tensor.dtype for tensor in recovered.values()} == {torch.bfloat16}
    changed = {name for name in untrained if not torch.equal(untrained[name], recovered[name])}
    assert changed
    assert all("_proj.weight" in name for name in changed)
    assert trained.artifact.dtype is Dtype.BFLOAT16
    assert trained.artifact.parameter_count == plain.artifact.parameter_count
