import time

import pytest
import torch

from harness import telemetry
from harness.telemetry import PeakMemory

CPU = torch.device("cpu")
BLOCK_BYTES = 256 * 2**20


def touch_memory() -> int:
    return int(torch.ones(BLOCK_BYTES, dtype=torch.uint8)[-1])


@pytest.fixture(params=["high-water mark", "sampling"])
def expected_method(request, monkeypatch, tmp_path):
    if request.param == "sampling":
        monkeypatch.setattr(telemetry, "_CLEAR_REFS", tmp_path / "absent" / "clear_refs")
        return "peak-rss-sampled-10ms"
    if not telemetry.reset_high_water_mark():
        pytest.skip("this kernel does not let a process reset its high-water mark")
    return "peak-rss"


def test_the_peak_counts_memory_that_was_freed_within_the_block_but_not_before_it(expected_method):
    touch_memory()
    with PeakMemory(CPU) as idle:
        pass
    with PeakMemory(CPU) as busy:
        kept = torch.ones(BLOCK_BYTES, dtype=torch.uint8)
        time.sleep(2 if "sampled" in expected_method else 0)  # 200 times what lies between two samples
        del kept
    assert {idle.memory.method, busy.memory.method} == {expected_method}
    assert busy.memory.peak_memory_bytes - idle.memory.peak_memory_bytes > 0.9 * BLOCK_BYTES


def test_blocks_do_not_nest():
    with PeakMemory(CPU), pytest.raises(RuntimeError, match="nest"), PeakMemory(CPU):
        pass


def test_a_block_that_fails_leaves_the_next_one_usable():
    with pytest.raises(ValueError, match="on purpose"), PeakMemory(CPU):
        raise ValueError("on purpose")
    with PeakMemory(CPU) as peak:
        pass
    assert peak.memory.peak_memory_bytes > 0
