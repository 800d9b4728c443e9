import pytest

from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtime.base import RuntimeName
from orchestrator.runtime.choose import choose_runtime


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody-listens.sock")


def test_auto_uses_processes_where_no_engine_answers_and_says_why(no_engine, tmp_path):
    runtime, reason = choose_runtime("auto", tmp_path)

    assert runtime.name is RuntimeName.PROCESS
    assert "no container engine answers" in reason


def test_docker_by_name_is_an_error_where_no_engine_answers(no_engine, tmp_path):
    with pytest.raises(RuntimeUnavailable, match="no container engine answers") as raised:
        choose_runtime("docker", tmp_path)
    assert "--runtime process" in raised.value.hint


def test_processes_by_name_ask_no_engine(no_engine, tmp_path):
    runtime, reason = choose_runtime("process", tmp_path)

    assert runtime.name is RuntimeName.PROCESS
    assert reason.split("; ")[0] == "asked for"


@pytest.mark.docker
def test_auto_uses_docker_where_an_engine_answers(containers, tmp_path):
    runtime, reason = choose_runtime("auto", tmp_path)

    assert (runtime.name, reason) == (RuntimeName.DOCKER, "a container engine answers")
