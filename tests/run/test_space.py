"""What a run is said to need of the disk: bytes that can be counted beforehand, and what cannot."""

from pathlib import Path

import pytest

from harness.contract import Device
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.run.space import RESERVE_BYTES, needed_bytes
from tests.support.small_runs import MANIFEST, Bench

SIZE = 1_000_000


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ([], 2),  # the model, and its copy in the making
        (["50%"], 3),
        (["50%", "2:4"], 4),
    ],
)
def test_a_fetched_model_needs_two_copies_and_each_compressed_one_its_own(
    bench: Bench, tmp_path: Path, settings: list[str], copies: int
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"0" * (SIZE - (folder / "config.json").stat().st_size))
    models = [{"name": "mine", "source": f"dir:{folder}"}]
    compress = [{"method": "sparsegpt", "setting": setting} for setting in settings]
    manifest = Manifest.model_validate({**MANIFEST, "models": models, "compress": compress})
    plan = build_plan(manifest, bench.catalog, Device(threads=1), None)
    assert needed_bytes(plan.stages, {}) == (RESERVE_BYTES + copies * SIZE, ())


def test_a_snapshot_of_the_hubs_cache_has_the_size_of_what_its_links_lead_to(bench: Bench, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--o--m" / "snapshots" / ("0" * 40), tmp_path / "models--o--m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    contents = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": b"0" * SIZE}
    for name, content in contents.items():
        (blobs / name).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    (blobs / "of-another-revision").write_bytes(b"0" * SIZE)
    models = [{"name": "mine", "source": f"dir:{snapshot}"}]
    manifest = Manifest.model_validate({**MANIFEST, "models": models, "compress": []})
    plan = build_plan(manifest, bench.catalog, Device(threads=1), None)
    held = sum(map(len, contents.values()))
    assert needed_bytes(plan.stages, {}) == (RESERVE_BYTES + 2 * held, ())


def test_a_model_of_the_hub_is_named_as_one_whose_size_is_not_known(bench: Bench) -> None:
    models = [{"name": "far", "source": "hub:org/far@" + "0" * 40}]
    plan = build_plan(Manifest.model_validate({**MANIFEST, "models": models}), bench.catalog, Device(threads=1), None)
    assert needed_bytes(plan.stages, {}) == (RESERVE_BYTES, ("far",))
