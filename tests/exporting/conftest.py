"""Makes the tiny and quantized models of other folders importable here, and keeps products on one thread."""

import sys
from pathlib import Path

import pytest
import torch

for shared in ("models", "support", "quantization", "methods"):
    sys.path.insert(0, str(Path(__file__).parent.parent / shared))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
