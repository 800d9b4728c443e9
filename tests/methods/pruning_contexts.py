"""A compression context around a tiny model, without a request."""

import io

import torch

from harness.architectures.blocks import decoder_blocks
from harness.contract import Dtype
from harness.methods.base import CompressionContext
from harness.methods.skeleton.finished import FinishedBlocks
from harness.reporter import Reporter


def make_context(model, sequences, folder, **changes):
    facts = {
        "model": model,
        "tokenizer": None,
        "blocks": decoder_blocks(model),
        "sequences": tuple(sequences),
        "device": torch.device("cpu"),
        "storage_dtype": Dtype.FLOAT32,
        "reporter": Reporter(io.StringIO()),
        "finished": FinishedBlocks(folder / "resume", "0" * 64, torch.float32),
        "source": folder / "model",
        "inputs": {},
    }
    return CompressionContext(**(facts | changes))
