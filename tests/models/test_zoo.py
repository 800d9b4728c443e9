"""The trained models of the zoo are whole, load like any other checkpoint, and have learnt something."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from harness.architectures.blocks import decoder_blocks
from harness.checkpoint import open_checkpoint
from harness.contract import Device
from harness.models.loading import LoadedModel, load_model
from tests.support.zoo import FOLDER, ZOO, zoo_checkpoint

ENGLISH = (
    "The city lies on the river, and most of the people who live there work in the harbour or in the town. "
    "In the first year of the war it was taken by the army, but the church and the old houses were not damaged."
)
CHANCE_NATS = math.log(1024)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    folder = tmp_path_factory.mktemp("zoo")

    @functools.cache
    def perform(name: str) -> LoadedModel:
        zoo_checkpoint(name, folder / name)
        return load_model(folder / name, Device(threads=1))

    return perform


def loss(model: torch.nn.Module, tokens: list[int]) -> float:
    logits = model(torch.tensor([tokens])).logits[0]
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:])).item()


def test_every_model_is_listed_and_described() -> None:
    training = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    folders = {path.name for path in FOLDER.iterdir() if (path / "config.json").is_file()}
    assert folders == set(ZOO) == set(training)
    assert sum(path.stat().st_size for path in FOLDER.glob("*/*")) < 18e6


@pytest.mark.parametrize("name", ZOO)
def test_a_published_model_loads_and_its_parameters_are_counted(load: Callable[[str], LoadedModel], name: str) -> None:
    loaded = load(name)
    descriptor = open_checkpoint(Path(loaded.model.name_or_path), verify=True)
    assert descriptor.parameter_count == sum(parameter.numel() for parameter in loaded.model.parameters())
    assert descriptor.architecture == type(loaded.model).__name__
    assert decoder_blocks(loaded.model)


@pytest.mark.parametrize("name", ZOO)
def test_english_is_likelier_than_chance_and_than_its_own_shuffling(
    load: Callable[[str], LoadedModel], name: str
) -> None:
    loaded = load(name)
    tokens = loaded.tokenizer(ENGLISH)["input_ids"]
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    shuffled = [tokens[index] for index in order]
    assert loss(loaded.model, tokens) < CHANCE_NATS - 2
    assert loss(loaded.model, tokens) < loss(loaded.model, shuffled) - 1


@pytest.mark.parametrize("name", ZOO)
def test_all_models_split_text_alike(load: Callable[[str], LoadedModel], name: str) -> None:
    text = "\n\n = A title = \n\n It cost 1234 crowns , didn't it ?  Café <|endoftext|> end"
    file = Tokenizer.from_file(str(FOLDER / ZOO[0] / "tokenizer.json"))
    tokenizer = load(name).tokenizer
    assert tokenizer(text)["input_ids"] == file.encode(text).ids
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)


def test_the_models_are_the_kinds_that_their_names_say() -> None:
    def config(name: str) -> dict[str, object]:
        return json.loads((FOLDER / name / "config.json").read_text(encoding="utf-8"))

    assert config("llama-mha")["num_key_value_heads"] == config("llama-mha")["num_attention_heads"]
    assert config("llama-gqa")["num_key_value_heads"] < config("llama-gqa")["num_attention_heads"]
    assert config("llama-gqa")["tie_word_embeddings"] is True
    assert config("llama-gqa-small")["num_hidden_layers"] < config("llama-gqa")["num_hidden_layers"]
    assert config("mistral")["sliding_window"] < config("mistral")["max_position_embeddings"]
    assert (config("qwen2")["model_type"], config("qwen3")["model_type"]) == ("qwen2", "qwen3")
    assert (config("opt")["do_layer_norm_before"], config("opt-post-norm")["do_layer_norm_before"]) == (True, False)
    assert config("opt-post-norm")["word_embed_proj_dim"] < config("opt-post-norm")["hidden_size"]
    assert config("glm")["rope_parameters"]["partial_rotary_factor"] == 0.5
