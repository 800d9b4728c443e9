"""When a test that needs a container engine is skipped, and when it must not be."""

import os
from pathlib import Path
from typing import NoReturn

import pytest
from docker import DockerClient

from orchestrator.errors import RuntimeUnavailable
from orchestrator.images.engine import connect, image_labels
from orchestrator.images.inputs import base_tag

BASE_TAG = base_tag(Path(__file__).parents[2] / "images")
REQUIRED_VARIABLE = "LLMCBENCH_REQUIRE_DOCKER"


def engine_or_skip() -> DockerClient:
    """A client of a running engine that has the base image; with the variable set, the lack of one is a failure."""
    try:
        client = connect()
    except RuntimeUnavailable as unavailable:
        lack(unavailable.message)
    if image_labels(client, BASE_TAG) is None and os.environ.get(REQUIRED_VARIABLE) != "1":
        lack("the base image is not built (`orchestrator images base`)")
    return client


def lack(what: str) -> NoReturn:
    if os.environ.get(REQUIRED_VARIABLE) == "1":
        pytest.fail(f"{REQUIRED_VARIABLE}=1, but {what}")
    pytest.skip(what)
