"""What a manifest says about calibration: known sets, text files of one's own, policies."""

from pathlib import Path

import pytest

from harness.contract import CalibrationPolicy, CompressParameters, Device, FetchParameters, TextFile, digest_file
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.stages import HostFolder, Plan
from tests.support.small_runs import MANIFEST, Bench

COMPRESS = "compress/tiny/sparsegpt-50%"


def plan_of(catalog: ImageCatalog, calibration: dict[str, object], **own: object) -> Plan:
    compress = [{"method": "sparsegpt", "setting": "50%", "calibration": own}]
    manifest = Manifest.model_validate({**MANIFEST, "compress": compress, "calibration": calibration})
    return build_plan(manifest, catalog, Device(threads=1), None)


def calibration_of(plan: Plan) -> object:
    parameters = plan.stage(COMPRESS).parameters
    assert isinstance(parameters, CompressParameters)
    return parameters.calibration


def with_policy(catalog: ImageCatalog, policy: CalibrationPolicy) -> ImageCatalog:
    """The catalog, with a policy that sparsegpt uses on its own set."""
    image, method = catalog.methods["sparsegpt"]
    defaults = method.calibration.model_copy(update={"policy": policy})
    catalog.methods["sparsegpt"] = (image, method.model_copy(update={"calibration": defaults}))
    return catalog


def test_a_text_file_is_fetched_by_its_content(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("some words", encoding="utf-8")
    plan = plan_of(bench.catalog, {"dataset": f"file:{file}"})
    (stage,) = (stage for stage in plan.stages if stage.id.startswith("data/mine.txt"))
    assert stage.parameters == FetchParameters(source=TextFile(file="mine.txt", sha256=digest_file(file)))
    assert stage.inputs == {"source": HostFolder(tmp_path)}
    assert stage.id in plan.stage(COMPRESS).needs
    file.write_text("other words", encoding="utf-8")
    assert stage.id not in [other.id for other in plan_of(bench.catalog, {"dataset": f"file:{file}"}).stages]


def test_the_folder_of_a_text_file_stays_out_of_the_request(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "words"}', encoding="utf-8")
    plan = plan_of(bench.catalog, {"dataset": f"file:{tmp_path}/mine.jsonl"})
    assert calibration_of(plan).dataset == "file:mine.jsonl"
    assert str(tmp_path) not in plan.stage(COMPRESS).parameters.model_dump_json()


@pytest.mark.parametrize(("name", "words"), [("gone.txt", "does not exist"), ("mine.csv", "is none of .txt")])
def test_a_text_file_that_cannot_serve_is_refused(bench: Bench, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "mine.csv").write_text("a,b", encoding="utf-8")
    with pytest.raises(BadManifest) as caught:
        plan_of(bench.catalog, {"dataset": f"file:{tmp_path / name}"})
    assert words in caught.value.message
    assert caught.value.hint


def test_the_methods_policy_holds_for_its_own_set_alone(bench: Bench) -> None:
    catalog = with_policy(bench.catalog, CalibrationPolicy.JOINED)
    assert calibration_of(plan_of(catalog, {"samples": 3})).policy is CalibrationPolicy.JOINED
    assert calibration_of(plan_of(catalog, {"dataset": "wikitext2"})).policy is None


def test_a_manifest_may_name_the_policy_for_all_or_for_one_method(bench: Bench) -> None:
    common = plan_of(bench.catalog, {"dataset": "wikitext2", "policy": "window-paragraphs"})
    assert calibration_of(common).policy is CalibrationPolicy.WINDOW_PARAGRAPHS
    own = plan_of(bench.catalog, {"policy": "packed"}, policy="documents")
    assert calibration_of(own).policy is CalibrationPolicy.DOCUMENTS


def test_a_request_names_the_calibration_sets_that_tasks_read(bench: Bench) -> None:
    assert calibration_of(plan_of(bench.catalog, {"dataset": "wikitext2"})).evaluated == ("wikitext2",)
    assert calibration_of(plan_of(bench.catalog, {"substitute": "wikitext2"})).evaluated == ("wikitext2",)
    for name in ("c4", "pile", "alpaca", "boolq"):
        assert calibration_of(plan_of(bench.catalog, {"dataset": name})).evaluated == ()
