"""What a run is said to need of the disk: bytes that can be counted or told beforehand, their peak, and what cannot."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StoreError
from orchestrator.manifest import KeepCheckpoints
from orchestrator.manifest.hub import HubUnavailable, NotOnHub
from orchestrator.run import setup as choosing
from orchestrator.run import space
from orchestrator.run.known import Known
from orchestrator.run.preview import look_ahead
from orchestrator.run.run import Setup
from orchestrator.run.sizes import Footprint, Sizes, sizes_of
from orchestrator.run.space import RESERVE_BYTES, DiskNeed, check_space, disk_need
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

SIZE = 1_000_000
BILLION = 10**9
FAR = {"name": "far", "source": f"hub:org/far@{'0' * 40}", "architecture": "LlamaForCausalLM"}


def planned(bench: Bench, **changes: Any) -> Setup:
    return bench.setup(FakeRuntime(honest_worker), {**MANIFEST, **changes})


def sizes(setup: Setup) -> Sizes:
    return sizes_of(setup.plan.stages, setup.weights_bytes, setup.catalog, {})


def need(setup: Setup, keep: KeepCheckpoints = KeepCheckpoints.ALL) -> DiskNeed:
    known = Known(missing=list(setup.plan.stages))
    return disk_need(setup.plan.stages, known, setup.weights_bytes, setup.catalog, keep)


def test_a_local_model_has_its_own_size_and_each_pruned_one_the_same(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"0" * (SIZE - (folder / "config.json").stat().st_size))
    compress = [{"method": "sparsegpt", "setting": setting} for setting in ("50%", "2:4")]
    found = planned(bench, models=[{"name": "mine", "source": f"dir:{folder}"}], compress=compress)
    assert sizes(found) == Sizes(
        {
            "fetch/mine": Footprint(SIZE, SIZE),
            "compress/mine/sparsegpt-50%": Footprint(SIZE),
            "compress/mine/sparsegpt-2:4": Footprint(SIZE),
        }
    )
    assert need(found).peak.most_bytes == 3 * SIZE
    assert need(planned(bench, models=found.manifest.models, compress=[])).peak.most_bytes == 2 * SIZE, "while fetched"


def test_a_snapshot_of_the_hubs_cache_has_the_size_of_what_its_links_lead_to(bench: Bench, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--o--m" / "snapshots" / ("0" * 40), tmp_path / "models--o--m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    contents = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": b"0" * SIZE}
    for name, content in contents.items():
        (blobs / name).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    (blobs / "of-another-revision").write_bytes(b"0" * SIZE)
    held = sum(map(len, contents.values()))
    found = planned(bench, models=[{"name": "mine", "source": f"dir:{snapshot}"}], compress=[])
    assert sizes(found) == Sizes({"fetch/mine": Footprint(held, held)})


@pytest.mark.parametrize(
    ("method", "setting", "options", "least", "most"),
    [
        ("sparsegpt", "50%", {}, 1.0, 1.0),  # zeros are stored
        ("llm-pruner", "50%", {}, 0.5, 0.6),  # half of the blocks is cut out
        ("gptq", "W4A16g128", {}, 0.36, 0.38),  # 4.16 bits a weight, and 15 % as they are
        ("gptq", "W8A16", {}, 0.57, 0.60),
        ("rtn", "W8A8", {}, 0.57, 0.60),
        ("rtn", "W4A4", {}, 1.0, 1.0),  # simulated: dense
        ("gptq", "W4A16g128", {"layout": "gptq"}, 0.36, 0.38),
        ("gguf-q4_0", "W4A16g32", {}, 0.40, 0.50),
    ],
)
def test_a_compressed_checkpoint_has_the_size_of_its_layout_and_width(
    bench: Bench, method: str, setting: str, options: dict[str, str], least: float, most: float
) -> None:
    compress = [{"method": method, "setting": setting, "options": options}]
    found = planned(bench, models=[{**FAR, "parameters": 7 * BILLION}], compress=compress, benchmark=None)
    made = sizes(found).footprints[f"compress/far/{method}-{setting}"].made_bytes
    assert least <= made / (14 * BILLION) <= most


def test_an_export_has_the_size_of_what_it_is_written_in(bench: Bench) -> None:
    compress = [{"method": "gptq", "setting": "W3A16"}]
    benchmark = {"backends": ["vllm"], "batch_sizes": [1], "dense_fallback": True}
    models = [{**FAR, "parameters": 7 * BILLION}]
    found = sizes(planned(bench, models=models, compress=compress, benchmark=benchmark))
    exports = {name: taken.made_bytes for name, taken in found.footprints.items() if name.startswith("export/")}
    assert exports == {"export/far/gptq-W3A16/dense": 14 * BILLION}


def test_what_is_stored_has_its_own_size_whether_it_is_to_be_made_again_or_not(bench: Bench) -> None:
    record = bench.run(FakeRuntime(honest_worker))
    key = record.stages["compress/tiny/sparsegpt-50%"].key
    assert key is not None
    stored = bench.store.read(key)
    assert stored is not None
    assert stored.artifact is not None
    again = planned(bench, evaluate={"tasks": ["wikitext2"], "limit": 7})
    assert stored.provenance.artifact is not None
    (bench.store.artifacts.path(stored.provenance.artifact)).rename(bench.root / "elsewhere")
    known = look_ahead(again)
    assert "compress/tiny/sparsegpt-50%" in {stage.id for stage in known.missing}
    found = disk_need(again.plan.stages, known, again.weights_bytes, again.catalog, KeepCheckpoints.ALL)
    assert found.peak.most_bytes == stored.artifact.size_bytes


def test_the_hub_is_asked_for_what_the_manifest_does_not_state(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    asked: list[str] = []

    def answer(repository: str, revision: str) -> int | None:
        asked.append(repository)
        if repository == "org/hidden":
            raise NotOnHub("hidden")
        return None if repository == "org/pickled" else SIZE

    names = ("stated", "hidden", "pickled", "far")
    models: list[dict[str, object]] = [{"name": name, "source": f"hub:org/{name}@{'0' * 40}"} for name in names]
    models[0]["parameters"] = 10
    found = planned(bench, models=models)
    monkeypatch.setattr(choosing, "weights_bytes", answer)
    assert choosing.hub_bytes(found.plan, {"stated"}) == {"far": SIZE}
    assert asked == ["org/hidden", "org/pickled", "org/far"]

    def silence(repository: str, revision: str) -> int:
        asked.append(repository)
        raise HubUnavailable("silence")

    monkeypatch.setattr(choosing, "weights_bytes", silence)
    assert choosing.hub_bytes(found.plan, {}) == {}
    assert asked[3:] == ["org/stated"], "nobody is asked in vain again"


def test_a_model_of_which_nobody_says_the_size_is_named(bench: Bench) -> None:
    found = need(planned(bench, models=[FAR]))
    assert (found.peak.most_bytes, found.unknown) == (0, ("far",))


def test_a_run_that_cannot_fit_is_refused_with_what_would_help(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress = [{"method": "sparsegpt", "setting": setting} for setting in ("40%", "50%", "2:4")]
    found = need(planned(bench, models=[{**FAR, "parameters": BILLION}], compress=compress))
    assert (found.peak.most_bytes, found.least.most_bytes) == (8 * BILLION, 4 * BILLION)

    def with_free(free: int) -> tuple[str, ...]:
        usage = namedtuple("usage", "total used free")(2 * free, free, free)
        monkeypatch.setattr(space.shutil, "disk_usage", lambda path: usage)
        return check_space(tmp_path, found)

    assert with_free(8 * BILLION + RESERVE_BYTES) == ()
    with pytest.raises(StoreError, match=r"7.9 GiB in .* at its peak, compress/far/sparsegpt-2:4, and 7.9") as refused:
        with_free(8 * BILLION + RESERVE_BYTES - 1)
    assert "`keep_checkpoints: none` into the manifest, with which it needs 4.2 GiB" in refused.value.hint
    with pytest.raises(StoreError) as hopeless:
        with_free(4 * BILLION)
    assert "keep_checkpoints" not in hopeless.value.hint
