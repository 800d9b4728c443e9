"""A plan can be made for a GPU that is not here, by its model or its memory; nothing runs on one."""

import pytest

from harness.contract import DeviceKind
from orchestrator.errors import BadManifest
from orchestrator.host.devices import choose_device
from orchestrator.host.gpu_models import GPU_MODELS, planned_device


@pytest.mark.parametrize(
    ("requested", "memory", "count", "model", "gib"),
    [
        ("cuda:H200", None, 1, "NVIDIA H200", 141),
        ("cuda:h200", "100 GiB", 8, "NVIDIA H200", 100),
        ("cuda:A100-80GB", None, 1, "NVIDIA A100-SXM4-80GB", 80),
        (None, "80GiB", 2, "an NVIDIA GPU", 80),
        ("cuda", "22.5gb", 1, "an NVIDIA GPU", 22.5),
    ],
)
def test_it_is_named_by_its_model_its_memory_or_both(
    requested: str | None, memory: str | None, count: int, model: str, gib: float
) -> None:
    chosen = planned_device(requested, memory, count)
    assert chosen is not None
    assert (chosen.model, chosen.memory_bytes, chosen.driver) == (model, gib * 2**30, None)
    assert chosen.device.kind is DeviceKind.CUDA
    assert len(set(chosen.device.uuids)) == count
    assert "planned for, not looked for" in chosen.reason


@pytest.mark.parametrize("requested", [None, "auto", "cpu", "cuda", "cuda:all", "cuda:1", "GPU-1"])
def test_any_other_device_is_looked_for(requested: str | None) -> None:
    assert planned_device(requested, None) is None


@pytest.mark.parametrize(
    ("requested", "memory", "count", "message"),
    [
        ("cuda:H20", None, 1, "unknown model of GPU 'H20'; known: A100-40GB"),
        ("cuda:H200", "much", 1, "'much' is no size"),
        ("cuda:H200", "0GiB", 1, "'0GiB' is no size"),
        ("cpu", "80GiB", 1, "'cpu' is none"),
        ("cuda:H200", None, 0, "0 GPUs cannot be planned for"),
        (None, None, 8, "needs a GPU to plan for"),
    ],
)
def test_what_names_none_is_refused(requested: str | None, memory: str | None, count: int, message: str) -> None:
    with pytest.raises(BadManifest, match=message) as caught:
        planned_device(requested, memory, count)
    assert caught.value.hint


def test_a_run_on_a_model_of_gpu_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadManifest, match="nothing can run on") as caught:
        choose_device("cuda:H200")
    assert "orchestrator plan FILE --device cuda:H200" in caught.value.hint


def test_every_memory_has_its_source() -> None:
    assert all(model.source and model.memory_gib > 0 for model in GPU_MODELS.values())
