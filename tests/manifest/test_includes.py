"""A manifest that includes others is their sum, by the names of its entries; every mistake names its file and line."""

import os
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from orchestrator.errors import BadManifest, located
from orchestrator.manifest import Manifest, pointing_at, read_manifest
from orchestrator.manifest.document import MOST_VALUES
from orchestrator.manifest.including import DEEPEST_INCLUDE, MOST_INCLUDED
from orchestrator.manifest.pinning import pin_manifest

BASE = """\
name: base
models:
  - {name: one, source: "hub:org/one", family: f}
  - {name: two, source: "hub:org/two"}
compress:
  - {method: wanda, setting: "50%"}
  - {method: wanda, setting: "2:4"}
  - {method: rtn, setting: W4A4, name: rounded, options: {symmetric: false}}
evaluate:
  tasks: [wikitext2, arc_easy]
  limit: {wikitext2: 5}
  engine: transformers
benchmark: {backends: [vllm], batch_sizes: [1, 8]}
profile: {}
exclude:
  - {model: two, task: arc_easy}
"""
TOP = """\
include: parts/base.yaml
name: top
models:
  - {name: two, family: g, dtype: float32}
  - {name: three, source: "dir:three"}
compress:
  - {method: wanda, setting: "2:4", accuracy_only: true}
  - {name: rounded, options: {attention: heads}}
  - {method: sparsegpt}
evaluate: {tasks: [piqa], limit: {piqa: 3}, engine: [vllm]}
benchmark: {backends: [native], batch_sizes: [4]}
profile:
exclude:
  - {model: two, task: arc_easy}
  - {track: 3, model: one}
"""


def write(folder: Path, **files: str) -> Path:
    """`top` beside a folder with the others; returns its path."""
    (folder / "parts").mkdir(exist_ok=True)
    for name, text in files.items():
        place = folder if name == "top" else folder / "parts"
        (place / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / "top.yaml"


def complaint(path: Path) -> str:
    with pytest.raises(BadManifest) as caught:
        read_manifest(path)
    assert caught.value.hint
    return caught.value.message


def test_entries_of_one_name_are_one_and_other_values_are_the_including_files(tmp_path: Path) -> None:
    written_out = """
        name: top
        models:
          - {name: one, source: "hub:org/one", family: f}
          - {name: two, source: "hub:org/two", family: g, dtype: float32}
          - {name: three, source: "dir:three"}
        compress:
          - {method: wanda, setting: "50%"}
          - {method: wanda, setting: "2:4", accuracy_only: true}
          - {method: rtn, setting: W4A4, name: rounded, options: {symmetric: false, attention: heads}}
          - {method: sparsegpt}
        evaluate:
          tasks: [wikitext2, arc_easy, piqa]
          limit: {wikitext2: 5, piqa: 3}
          engine: [transformers, vllm]
        benchmark: {backends: [vllm, native], batch_sizes: [4]}
        exclude: [{model: two, task: arc_easy}, {track: 3, model: one}]
        """
    expected = Manifest.model_validate(YAML(typ="safe").load(written_out))
    read = read_manifest(write(tmp_path, base=BASE, top=TOP))
    assert read == expected
    assert read.digest == expected.digest


def test_of_several_the_later_wins_and_one_that_two_include_counts_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base=BASE,
        first="include: [base.yaml]\nrounds: {profile: 5, compress: 2}",
        second="include: base.yaml\nrounds: {profile: 7}",
        top="include: [parts/first.yaml, parts/second.yaml]\nname: top",
    )
    read = read_manifest(path)
    assert (read.rounds.profile, read.rounds.compress) == (7, 2)
    assert [model.name for model in read.models] == ["one", "two"]
    assert len(read.compress) == 3


def test_a_name_is_not_included(tmp_path: Path) -> None:
    assert "line 1: name: Field required" in complaint(write(tmp_path, base=BASE, top="include: parts/base.yaml"))


@pytest.mark.parametrize(
    ("base", "top", "message"),
    [
        (BASE.replace("limit", "limt"), "name: t\ninclude: parts/base.yaml", r"parts/base\.yaml, line 11: .*'limt'"),
        ("a: [", "name: t\ninclude: parts/base.yaml", r"parts/base\.yaml, line 1: not valid YAML"),
        (
            BASE + "include: [../top.yaml]",
            "name: t\ninclude: parts/base.yaml",
            r"base\.yaml, line 17: .*this file again",
        ),
        ("include: base.yaml", "name: t\ninclude: parts/base.yaml", r"base\.yaml, line 1: .*this file again"),
        ("- 1", "name: t\ninclude: parts/base.yaml", r"parts/base\.yaml, line 1: .*and this one none"),
        ("schema_version: 2", "name: t\ninclude: parts/base.yaml", r"base\.yaml, line 1: schema_version '2' is not"),
        (BASE, "name: t\ninclude:\n  - parts/bse.yaml", r"top\.yaml, line 3: cannot read .*parts/bse\.yaml"),
        (BASE, "name: t\ninclude: parts", r"top\.yaml, line 2: cannot read .*parts: "),
        (BASE, "name: t\ninclude: 5", r"top\.yaml, line 2: include is a list of files"),
        (BASE, "name: t\ninclude: []", r"top\.yaml, line 2: include: an empty list asks for nothing"),
        (BASE, "name: t\ninclude: [parts/base.yaml, [x]]", r"top\.yaml, line 2: include is a list of files"),
        (BASE, "include: parts/base.yaml\nname: t\nmodels: [{name: new}]", r"top\.yaml, line 3: models.2.source"),
        (
            BASE,
            "include: parts/base.yaml\nname: t\nmodels:\n- {name: one}\n- {name: one, source: x}",
            r"top\.yaml, line 3: .*'one' stands there twice",
        ),
    ],
)
def test_a_mistake_names_the_file_and_the_line_that_it_stands_in(
    tmp_path: Path, base: str, top: str, message: str
) -> None:
    assert re.search(message, complaint(write(tmp_path, base=base, top=top)))


def test_a_refusal_of_the_plan_names_the_included_file(tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE, top=TOP)
    for where, expected in (
        (("models", 0, "source"), r"parts/base\.yaml, line 3: "),
        (("models", 2), r"top\.yaml, line 5: "),
        (("compress", 1, "accuracy_only"), r"top\.yaml, line 7: "),
        (("evaluate", "tasks", 1), r"parts/base\.yaml, line 10: "),
    ):
        with pytest.raises(BadManifest, match=expected), pointing_at(path), located(*where):
            raise BadManifest("no")


def test_files_that_multiply_are_refused(tmp_path: Path) -> None:
    parts = {f"p{depth}": f"include: [{', '.join([f'p{depth + 1}.yaml'] * 4)}]" for depth in range(DEEPEST_INCLUDE)}
    last = {f"p{DEEPEST_INCLUDE}": "profile: {}"}
    wide = write(tmp_path, **parts, **last, top="name: t\ninclude: parts/p0.yaml")
    assert f"{MOST_INCLUDED} in all and {DEEPEST_INCLUDE} within each other are the most" in complaint(wide)
    large = "evaluate: {tasks: [" + ", ".join(f"t{number}" for number in range(MOST_VALUES // 2)) + "]}"
    many = write(tmp_path, base=large, top="name: t\ninclude: [parts/base.yaml, parts/base.yaml]")
    assert re.search(rf"top\.yaml, line 2: .*more than {MOST_VALUES} values", complaint(many))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path, top="name: t\ninclude: [parts/pipe.yaml]")
    os.mkfifo(tmp_path / "parts" / "pipe.yaml")
    assert re.search(r"top\.yaml, line 2: .*pipe\.yaml is no file", complaint(path))


def test_a_commit_is_written_where_the_source_stands(tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE, top=TOP + 'device: cpu # "hub:org/one"\n')
    before = path.read_text("utf-8")
    outcomes = pin_manifest(path, lambda repository, revision: repository[-1] * 2 + "0" * 38)
    assert {one.file.name for one in outcomes} == {"base.yaml"}
    assert path.read_text("utf-8") == before
    expected = BASE.replace("org/one", f"org/one@ee{'0' * 38}").replace("org/two", f"org/two@oo{'0' * 38}")
    assert (tmp_path / "parts" / "base.yaml").read_text("utf-8") == expected
