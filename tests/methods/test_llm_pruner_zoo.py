"""LLM-Pruner on trained models: what it removes hurts less than what chance removes, and training makes up for some."""

import gzip
import io
import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.contract import Calibration, CompressParameters, CompressRequest, Device, Setting
from harness.methods import run
from harness.reporter import Reporter
from tests.support.tiny_checkpoints import publish_rows
from tests.support.zoo import zoo_checkpoint

DATA = os.environ.get("LLMCBENCH_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs the data sets; set LLMCBENCH_DATA")


def texts(name, count):
    with gzip.open(Path(DATA) / name, "rt", encoding="utf-8") as file:
        return [{"text": json.loads(line)["text"]} for line, _ in zip(file, range(count), strict=False)]


@pytest.fixture
def loss_after(tmp_path):
    publish_rows(tmp_path / "c4", "c4", texts("c4/train_first1000.jsonl.gz", 200))
    runs = iter(range(20))

    def work(model, recovery=False, **options):
        if not (tmp_path / model).exists():
            zoo_checkpoint(model, tmp_path / model)
        output = tmp_path / f"out{next(runs)}"
        output.mkdir()
        inputs = {"checkpoint": str(tmp_path / model), "calibration": str(tmp_path / "c4")}
        request = CompressRequest(
            id="request",
            device=Device(threads=1),
            inputs=inputs | ({"recovery": str(tmp_path / "c4")} if recovery else {}),
            output=str(output),
            parameters=CompressParameters(
                method="llm-pruner",
                setting=Setting.parse("20%"),
                calibration=Calibration(dataset="c4", samples=10, sequence_length=64, seed=42),
                options=options,
            ),
        )
        run(request, Reporter(io.StringIO()))
        return loss_of(output / "artifact")

    return work


def loss_of(folder):
    """Mean loss on text that is in no training part of the models."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "".join(row["text"] for row in texts("wikitext2/test.jsonl.gz", 300))
    tokens = torch.tensor(tokenizer(text)["input_ids"][: 24 * 128]).view(24, 128)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return float(model(tokens, labels=tokens).loss)


def test_gradients_find_what_matters_less_than_chance_and_magnitude_do(loss_after):
    gradient, chance, magnitude = (loss_after("llama-mha", importance=name) for name in ("taylor", "random", "l2"))
    assert gradient < chance - 0.1
    assert gradient < magnitude - 0.1


@pytest.mark.parametrize("model", ["llama-gqa", pytest.param("opt", marks=pytest.mark.slow)])
def test_training_afterwards_makes_up_for_a_part_of_the_loss(loss_after, model):
    options = {"recovery_batch_size": 8, "recovery_learning_rate": 3e-3, "recovery_cutoff_tokens": 64}
    assert loss_after(model, recovery=True, **options) < loss_after(model) - 0.1
