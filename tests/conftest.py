import os
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton asks once, when it is first imported, which any test may do

if not os.environ.get("LLMCBENCH_DATA"):
    os.environ.pop("LLMCBENCH_DATA", None)  # the Makefile exports it empty where there is no local copy


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
