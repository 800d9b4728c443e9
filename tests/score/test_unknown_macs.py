"""A family whose multiply-accumulates are unknown has the rest of track 4: size and memory count, MACs are missing."""

from pathlib import Path

from harness.contract import ProfileResult, WorkRequest, WorkResult
from orchestrator.evidence.reading import read_evidence
from orchestrator.score.scores import score_run
from orchestrator.tracks import Mode, Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

WHY = "the dimensions of model type 'gemma3_text' are not known"


def without_macs(request: WorkRequest, output: Path) -> WorkResult:
    result = honest_worker(request, output)
    if not isinstance(result, ProfileResult):
        return result
    return result.model_copy(update={"macs": {}, "macs_absent": WHY})


def test_size_and_memory_count_and_the_reason_stands_where_macs_would(bench: Bench) -> None:
    record = bench.run(FakeRuntime(without_macs), MANIFEST | {"evaluate": None, "benchmark": None})
    scores = score_run(read_evidence(record, bench.store, bench.catalog), Mode.PAPER)
    pruned = next(one for one in scores.scores if one.track is Track.INFERENCE_CONSUMPTION and one.variant.method)
    assert pruned.value is not None
    assert {ratio.place.name for ratio in pruned.ratios} == {"peak_memory_bytes", "disk_bytes"}
    (macs,) = pruned.coverage.missing
    assert macs.place.name == "macs"
    assert macs.reason.endswith(WHY)
