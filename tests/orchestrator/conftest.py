"""Runs of a small catalog of images, each in a store of its own."""

from pathlib import Path

import pytest

from orchestrator.manifest.hub import HubUnavailable
from orchestrator.run import facts, resources, setup
from tests.orchestrator.small_runs import Bench


@pytest.fixture(autouse=True)
def device_locks_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that runs on this machine meanwhile holds the real ones."""
    monkeypatch.setattr(resources, "device_lock_path", lambda name: tmp_path / "locks" / f"device-{name}.lock")


@pytest.fixture(autouse=True)
def one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may be at work on the checkout meanwhile."""
    monkeypatch.setattr(facts, "checkout_commit", lambda: "0" * 40)


@pytest.fixture(autouse=True)
def hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the real one for a configuration."""

    def refuse(repository: str, revision: str) -> None:
        raise HubUnavailable(f"no test asks for {repository}")

    monkeypatch.setattr(setup, "model_config", refuse)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store")
