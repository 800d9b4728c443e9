"""A plan asks each image for what it offers, once, and refuses what cannot work before anything is done."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.contract import (
    BenchmarkParameters,
    CompressParameters,
    Dtype,
    FetchParameters,
    Operation,
    TextFile,
    canonical_json,
    digest_file,
)
from orchestrator.errors import BadManifest
from orchestrator.manifest import Manifest
from orchestrator.manifest.sources import parse_model
from orchestrator.plan import build_plan
from orchestrator.run.keys import key_material, stage_key
from orchestrator.stages import ImageIdentity, Plan
from tests.support.small_runs import MANIFEST, Bench


def plan_of(bench: Bench, **changes: object) -> Plan:
    from harness.contract import Device

    return build_plan(Manifest.model_validate({**MANIFEST, **changes}), bench.catalog, Device(threads=1), None)


def test_every_stage_comes_after_what_it_needs(bench: Bench) -> None:
    seen: set[str] = set()
    for stage in plan_of(bench).stages:
        assert set(stage.needs) <= seen
        seen.add(stage.id)


def test_every_stage_reads_what_its_operation_does(bench: Bench) -> None:
    evaluate = {"tasks": ["wikitext2", "arc_easy"], "fidelity": ["wikitext2"], "engine": ["transformers", "vllm"]}
    read = {
        Operation.FETCH: set(),
        Operation.COMPRESS: {"checkpoint", "calibration"},
        Operation.EVALUATE: {"checkpoint", "dataset"},
        Operation.STATES: {"checkpoint", "dataset"},
        Operation.FIDELITY: {"checkpoint", "states"},
        Operation.PROFILE: {"checkpoint"},
        Operation.BENCHMARK: {"checkpoint"},
    }
    stages = plan_of(bench, evaluate=evaluate, profile={}, benchmark={"backends": ["native"]}).stages
    assert {stage.operation for stage in stages} == read.keys()
    for stage in stages:
        assert set(stage.inputs) == read[stage.operation]


def test_data_is_fetched_once_for_all_that_read_it(bench: Bench) -> None:
    names = [stage.id for stage in plan_of(bench).stages]
    assert len(names) == len(set(names))
    assert sorted(name for name in names if name.startswith("data/")) == ["data/arc_easy", "data/c4", "data/wikitext2"]


def test_a_manifest_overrides_the_methods_calibration_field_by_field(bench: Bench) -> None:
    compress = [{"method": "sparsegpt", "setting": "2:4", "calibration": {"samples": 3, "substitute": "boolq"}}]
    plan = plan_of(bench, compress=compress)
    parameters = plan.stage("compress/tiny/sparsegpt-2:4").parameters
    assert isinstance(parameters, CompressParameters)
    assert (parameters.calibration.samples, parameters.calibration.sequence_length) == (3, 16)
    assert "data/c4-or-boolq" in plan.stage("compress/tiny/sparsegpt-2:4").needs


def test_limits_of_a_manifest_are_those_of_every_stage(bench: Bench) -> None:
    plan = plan_of(bench, limits={"memory_gib": 1.5, "deadline_seconds": 70})
    limits = {(stage.limits.memory_bytes, stage.limits.deadline_seconds) for stage in plan.stages}
    assert limits == {(1_610_612_736, 70.0)}
    assert {stage.limits.memory_bytes for stage in plan_of(bench).stages} == {None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compress": [{"method": "sparsgpt"}]}, "did you mean 'sparsegpt'"),
        ({"compress": [{"method": "sparsegpt", "setting": "W4A16"}]}, "has no setting 'W4A16'"),
        ({"compress": [{"method": "sparsegpt", "setting": "half"}]}, "not understood"),
        ({"compress": [{"method": "sparsegpt", "setting": "100%"}]}, "between 0% and 100%"),
        ({"compress": [{"method": "sparsegpt", "setting": "3:2"}]}, "fewer than m"),
        ({"benchmark": {"backends": ["transfomers"]}}, "did you mean 'transformers'"),
        ({"evaluate": {"tasks": ["arc_eazy"]}}, "did you mean 'arc_easy'"),
        ({"calibration": {"dataset": "c5"}}, "unknown data set 'c5'"),
        ({"models": [{"name": "m", "source": "hub:a/b"}]}, "names no revision"),
        ({"models": [{"name": "m", "source": "hub:a/b@main"}]}, "40-digit commit"),
        ({"models": [{"name": "m", "source": "dir:/does/not/exist"}]}, "does not exist"),
        ({"models": [{"name": "m", "source": "ftp:x"}]}, "not understood"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(bench: Bench, changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadManifest) as caught:
        plan_of(bench, **changes)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_backend_has_a_short_name(bench: Bench) -> None:
    plan = plan_of(bench, benchmark={"backends": ["hf"], "batch_sizes": [1]})
    assert any(stage.id == "benchmark/tiny/dense/transformers" for stage in plan.stages)


@pytest.mark.parametrize("dtype", [None, Dtype.BFLOAT16])
def test_a_backend_computes_in_the_dtype_that_is_asked_for(bench: Bench, dtype: Dtype | None) -> None:
    plan = plan_of(bench, benchmark={"backends": ["transformers"], "batch_sizes": [1], "dtype": dtype})
    timings = [stage.parameters for stage in plan.stages if isinstance(stage.parameters, BenchmarkParameters)]
    assert timings
    assert {parameters.dtype for parameters in timings} == {dtype}


def test_a_local_model_is_pinned_by_its_content_and_may_hold_no_link(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    first = parse_model(f"dir:{tmp_path}").source
    assert parse_model(f"dir:{tmp_path}").source == first
    (tmp_path / "config.json").write_text("{ }", encoding="utf-8")
    assert parse_model(f"dir:{tmp_path}").source != first
    (tmp_path / "model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(BadManifest, match="not a regular file"):
        parse_model(f"dir:{tmp_path}")


def test_each_ingredient_changes_the_key_and_nothing_else_does(bench: Bench) -> None:
    stage = plan_of(bench).stage("evaluate/tiny/dense/arc_easy")
    image = bench.catalog.images[stage.image].description
    inputs = {"checkpoint": "a" * 64, "dataset": "b" * 64}

    def key(identity: str = "docker:1", model: str = "cpu", **changed: str) -> str:
        return stage_key(key_material(stage, image, ImageIdentity(identity), {**inputs, **changed}, model))

    keys = [key(), key(identity="docker:2"), key(model="gpu"), key(checkpoint="c" * 64)]
    assert len(set(keys)) == len(keys)
    assert key() == key()
    renamed = plan_of(bench, name="other").stage("evaluate/tiny/dense/arc_easy")
    assert stage_key(key_material(renamed, image, ImageIdentity("docker:1"), inputs, "cpu")) == key()


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), documents, max_size=4))
def test_the_key_does_not_depend_on_the_order_of_fields(document: dict[str, object]) -> None:
    turned = dict(reversed(list(document.items())))
    assert canonical_json(turned) == canonical_json(document)
    assert json.loads(canonical_json(document)) == document


def test_speeds_are_measured_with_prompts_of_ones_own(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("first\n\nsecond", encoding="utf-8")
    plan = plan_of(bench, benchmark={"backends": ["transformers"], "prompts": f"file:{file}"})
    speeds = [stage for stage in plan.stages if stage.operation is Operation.BENCHMARK]
    (prompts,) = {stage.inputs["prompts"] for stage in speeds}
    assert len(speeds) == 2
    assert plan.stage(prompts.stage).parameters == FetchParameters(
        source=TextFile(file="prompts.txt", sha256=digest_file(file))
    )
    assert "speeds are those of the prompts in file:prompts.txt, not of drawn ones" in plan.decisions


def test_prompts_that_are_no_file_are_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="prompts"):
        plan_of(bench, benchmark={"backends": ["transformers"], "prompts": "c4"})
    with pytest.raises(BadManifest, match="does not exist"):
        plan_of(bench, benchmark={"backends": ["transformers"], "prompts": f"file:{tmp_path / 'gone.txt'}"})
