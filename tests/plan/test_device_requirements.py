"""A run is refused before anything is fetched where the GPU, its driver or an image is not there for it."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from harness.contract import Device, DeviceKind
from orchestrator.checks.machine import diagnose
from orchestrator.errors import BadManifest
from orchestrator.host.devices import ChosenDevice, choose_device
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.plan.requirements import check_device, older
from orchestrator.run.setup import prepare_setup
from orchestrator.stages import Plan
from tests.support.fake_nvml import HANDLE, fake_nvml

IMAGES = Path(__file__).parents[2] / "images"
MODEL = {"name": "tiny", "source": "hub:org/tiny@" + "0" * 40}
MANIFEST = Manifest.model_validate(
    {"name": "small", "models": [MODEL], "benchmark": {"backends": ["transformers"]}, "device": "cuda"}
)
UUID = "GPU-11111111-2222-3333-4444-555555555555"


def gpu(driver: str) -> ChosenDevice:
    return ChosenDevice(Device(kind=DeviceKind.CUDA, uuids=(UUID,)), "some GPU", "asked for", driver)


def plan_for(chosen: ChosenDevice, catalog: ImageCatalog) -> Plan:
    return build_plan(MANIFEST, catalog, chosen.device, None)


def with_nvml(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    """One GPU with this driver, on whose handle nothing else is asked."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: driver,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: HANDLE,
        "nvmlDeviceGetUUID": lambda: UUID,
        "nvmlDeviceGetName": lambda: "some GPU",
        "nvmlDeviceGetMemoryInfo": lambda *version: SimpleNamespace(total=2**30),
    }
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**answers))


def without_gpu(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(error)

    module = fake_nvml(nvmlInit=fail)
    monkeypatch.setitem(sys.modules, "pynvml", module)


@pytest.mark.parametrize(
    ("error", "words", "advice"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver", "install the driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded", "reboot"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions", "reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "does not answer", "nvidia-smi"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_the_cause(
    monkeypatch: pytest.MonkeyPatch, error: int, words: str, advice: str
) -> None:
    without_gpu(monkeypatch, error)
    with pytest.raises(BadManifest, match=words) as refusal:
        choose_device("cuda")
    assert advice in refusal.value.hint
    assert "DEVICE=cpu" in refusal.value.hint


def test_a_driver_that_is_too_old_is_refused_before_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_nvml(monkeypatch, "535.104.05")
    manifest = MANIFEST.model_copy(update={"runtime": "process"})
    with pytest.raises(BadManifest, match=r"needs NVIDIA driver 580 or newer, and this machine has 535\.104\.05"):
        prepare_setup(manifest, tmp_path / "store", ImageCatalog(IMAGES))
    assert not (tmp_path / "store").exists()


def test_a_new_driver_is_accepted_and_the_cpu_needs_none() -> None:
    catalog = ImageCatalog(IMAGES)
    check_device(plan_for(gpu("580.65.06"), catalog), catalog, gpu("580.65.06"))
    cpu = ChosenDevice(Device(threads=1), "processor", "asked for")
    check_device(plan_for(cpu, catalog), catalog, cpu)


def test_an_image_inherits_what_its_layer_needs() -> None:
    catalog = ImageCatalog(IMAGES)
    assert catalog.minimum_driver(catalog.images["sparsegpt"]) == catalog.images["torch"].description.minimum_driver
    assert catalog.minimum_driver(catalog.images["torch"]) is not None


def test_every_image_for_gpus_says_which_driver_its_packages_need() -> None:
    catalog = ImageCatalog(IMAGES)
    locked = {name for name, image in catalog.images.items() if _needs_cuda(image)}
    assert locked
    assert {name for name in locked if catalog.minimum_driver(catalog.images[name]) is None} == set()


def _needs_cuda(image: Image) -> bool:
    lock = image.lock(DeviceKind.CUDA)
    return lock.is_file() and "nvidia-cuda-runtime==" in lock.read_text()


def test_a_device_kind_that_an_image_has_not_is_refused() -> None:
    catalog = ImageCatalog(IMAGES)
    image = catalog.images["transformers"]
    plan = plan_for(gpu("580.1"), catalog)
    only_cpu = image.description.model_copy(update={"devices": (DeviceKind.CPU,)})
    catalog.images["transformers"] = replace(image, description=only_cpu)
    with pytest.raises(BadManifest, match="'transformers' does not run on cuda, but on cpu") as refusal:
        check_device(plan, catalog, gpu("580.1"))
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("driver", "minimum", "expected"),
    [("579.99", "580", True), ("580.65.06", "580", False), ("580", "580.65", True), ("1000.1", "580", False)],
)
def test_drivers_are_compared_number_by_number(driver: str, minimum: str, *, expected: bool) -> None:
    assert older(driver, minimum) is expected


def test_the_doctor_names_an_old_driver_and_what_needs_a_newer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_nvml(monkeypatch, "535.104.05")
    (finding,) = [one for one in diagnose(tmp_path / "store", IMAGES) if one.subject == "driver"]
    assert "535.104.05 is older than 580" in finding.message
    assert "vllm" in finding.message
    assert "DEVICE=cpu" in finding.hint


def test_the_doctor_says_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_gpu(monkeypatch, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    (finding,) = [one for one in diagnose(tmp_path / "store", IMAGES) if one.subject == "gpu"]
    assert "kernel module is not loaded" in finding.message
    assert not finding.fatal
