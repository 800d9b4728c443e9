"""A small dense model that any backend in this environment can serve."""

from pathlib import Path

import pytest

from tests.support.small_checkpoints import publish_checkpoint, small_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_checkpoint(tmp_path_factory.mktemp("model") / "llama", small_model("llama"))
