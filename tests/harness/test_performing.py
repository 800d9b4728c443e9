"""What a worker does of a request, by what its image's description offers, and how it sets up its processors before."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import operations
from harness.contract import DescribeRequest, DeviceKind, Reason
from harness.contract.request import REQUEST
from harness.errors import BadRequest, Unsupported
from harness.operations import IMAGE_VARIABLE, describe_image, perform
from tests.support.every_image import IMAGES
from tests.support.small_checkpoints import Recorder

THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that were asked to `run`, which does nothing; in the image `evaluate`."""
    modules: list[str] = []

    def module(name: str) -> Any:
        modules.append(name)
        return SimpleNamespace(run=lambda request, reporter: (request.id, reporter))

    monkeypatch.setenv(IMAGE_VARIABLE, str(IMAGES / "evaluate" / "image.toml"))
    for name in (THREADS, WAITING):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(operations.importlib, "import_module", module)
    return modules


def request(operation: str = "evaluate", parameters: object = None, **device: object) -> Any:
    document = {"id": "it", "operation": operation, "inputs": {}, "output": "out", "device": device}
    return REQUEST.validate_python({**document, "parameters": parameters or {"task": "piqa"}})


def test_what_is_offered_is_done_by_the_module_of_its_operation(asked: list[str]) -> None:
    reporter = Recorder().reporter
    assert perform(request(threads=3), reporter) == ("it", reporter)
    assert asked == ["harness.evaluation"]
    assert (os.environ[THREADS], os.environ[WAITING]) == ("3", "PASSIVE")


def test_threads_that_nobody_counts_are_the_librarys_and_what_is_set_stays(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    perform(request(), Recorder().reporter)
    assert (os.environ.get(THREADS), os.environ[WAITING]) == (None, "PASSIVE")
    monkeypatch.setenv(THREADS, "2")
    monkeypatch.setenv(WAITING, "ACTIVE")
    perform(request(threads=3), Recorder().reporter)
    assert (os.environ[THREADS], os.environ[WAITING]) == ("2", "ACTIVE")


def test_on_a_gpu_nothing_is_said_of_threads(asked: list[str]) -> None:
    perform(request(kind="cuda", uuids=["GPU-1"]), Recorder().reporter)
    assert asked == ["harness.evaluation"]
    assert not {THREADS, WAITING} & os.environ.keys()


def test_a_worker_says_what_image_it_is(asked: list[str]) -> None:
    answer: Any = perform(DescribeRequest(id="it"), Recorder().reporter)
    assert answer.image == describe_image()
    assert answer.image.name == "evaluate"
    assert asked == []


def test_what_the_image_does_not_do_is_refused_with_what_it_does(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match="image 'evaluate' does not benchmark") as refused:
        perform(request("benchmark", {"backend": "native"}), Recorder().reporter)
    assert refused.value.reason is Reason.OPERATION
    assert "evaluate" in str(refused.value.hint)
    on_gpus = describe_image().model_copy(update={"devices": (DeviceKind.CUDA,)})
    monkeypatch.setattr(operations, "describe_image", lambda: on_gpus)
    with pytest.raises(Unsupported, match="image 'evaluate' does not run on cpu") as refused:
        perform(request(), Recorder().reporter)
    assert (refused.value.reason, refused.value.hint) == (Reason.DEVICE, "it runs on: cuda")
    assert asked == []


@pytest.mark.parametrize("content", [None, "name = ", "name = 'it'"])
def test_an_image_that_is_not_described_is_refused(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.toml"
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    with pytest.raises(BadRequest, match=f"{IMAGE_VARIABLE} is not set") as refused:
        describe_image()
    assert refused.value.hint
    if content is not None:
        path.write_text(content, encoding="utf-8")
    monkeypatch.setenv(IMAGE_VARIABLE, str(path))
    with pytest.raises(BadRequest, match=r"image\.toml is not a valid image description: ") as refused:
        describe_image()
    assert refused.value.hint
